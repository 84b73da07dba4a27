"""The JSON Schema of the study file, for completion in editors."""

from typing import Any

from hpsearch.spec.grammar import STUDY
from hpsearch.spec.parameters import MAX_STEP

_CHOICE = {"type": ["string", "number", "boolean", "null"]}


def json_schema() -> dict[str, Any]:
    """The schema, from the same tables that the reader uses. Imports Optuna, for its signatures."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpsearch study",
        **STUDY.schema(),
        "required": ["metric", "budget"],
        "oneOf": [{"required": ["objective"]}, {"required": ["command"]}],
        "$defs": {"parameter": _parameter(), "when": _when()},
    }


def _parameter() -> dict[str, Any]:
    bound = {"type": "number"}
    when = {"$ref": "#/$defs/when"}
    flag = {"type": "boolean", "description": "Search orders of magnitude rather than values."}
    kind = {"enum": ["int", "float"], "description": "Two whole bounds make an int if this is not given."}
    step = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_STEP}
    several = {"type": "array", "minItems": 1, "items": _CHOICE}
    return {
        "anyOf": [
            _mapping(
                "A range.", {"min": bound, "max": bound, "log": flag, "step": step, "type": kind, "when": when}, 2
            ),
            {"description": "Choices.", **several},
            _mapping(
                "Choices, also those that are no scalars, by label.",
                {"values": {"anyOf": [several, {"type": "object", "minProperties": 1}]}, "when": when},
                1,
            ),
            _mapping("A constant of any type.", {"value": {}}, 1),
            _mapping(
                "A group; its parameters are named group.parameter.",
                {
                    "parameters": {"type": "object", "additionalProperties": {"$ref": "#/$defs/parameter"}},
                    "when": when,
                },
                1,
            ),
            {"description": "A constant.", "type": ["string", "number", "boolean"]},
        ]
    }


def _when() -> dict[str, Any]:
    return {
        "description": "Only where other parameters have one of these values.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"anyOf": [_CHOICE, {"type": "array", "minItems": 1, "items": _CHOICE}]},
    }


def _mapping(doc: str, properties: dict[str, Any], n_required: int) -> dict[str, Any]:
    return {
        "description": doc,
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(properties)[:n_required],
    }
