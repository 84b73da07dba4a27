"""The JSON Schema tells editors what the reader accepts, and the committed one is current."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML
from spec_files import BASE

from hpsearch.spec import json_schema

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def valid(validator: jsonschema.Draft202012Validator, text: str) -> bool:
    # as editors read it: plain data of YAML 1.2
    return bool(validator.is_valid(YAML(typ="safe", pure=True).load(text)))


def test_the_committed_schema_is_current():
    done = subprocess.run([sys.executable, "-m", "hpsearch.spec"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "studies/schema.json").read_text(), "python -m hpsearch.spec > studies/schema.json"
    assert json.loads(done.stdout) == json_schema()


@pytest.mark.parametrize("study", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.name)
def test_every_study_here_fits_and_names_the_schema(validator, study):
    assert valid(validator, study.read_text())
    assert study.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


GOOD = [
    "parameters: {a: {min: 1, max: 2, when: {b: [1, 2]}}, b: [1, 2], c: 3, d: {value: [1]}, e: {values: {x: [1]}}}",
    "parameters: {g: {when: {a: 1}, parameters: {a: {min: 0.1, max: 1, log: true}}}}",
    "sampler: {tpe: {n_startup_trials: 5}}",
    "sampler: {nsgaii: {crossover: sbx}}",
    "sampler: {'mine:Sampler': {a: 1}}",
    "sampler: mine:Sampler",
    "pruner: none",
    "pruner: asha",
    "pruner: {hyperband: {max_resource: 9}}",
    "pruner: {patient: {wrapped: {median: {}}, patience: 3}}",
    "resources: {memory: 2GB, time: 5m, gpus_per_rank: auto, cpus: 2, grace: 0}",
    "retry: {max: 2, on: [lost, oom]}",
    "retry: {on: lost}",
    "cluster: {kind: local}",
]
BAD = [
    "parameters: {a: {min: 1}}",
    "parameters: {a: {min: 1, mux: 2}}",
    "parameters: {a: []}",
    "sampler: tpee",
    "sampler: {tpe: {n_startup_trails: 5}}",
    "sampler: {tpe: {n_startup_trials: -5}}",
    "sampler: {tpe: {gamma: 5}}",
    "pruner: hyperband",
    "pruner: {hyperband: {min_resource: 9}}",
    "resources: {memory: big}",
    "resources: {ranks: 0}",
    "retry: {on: [lots]}",
    "bugdet: {}",
    "name: a/b",
    "seed: -1",
]


@pytest.mark.parametrize("added", GOOD)
def test_what_the_reader_takes_fits(validator, added):
    assert valid(validator, f"{BASE}{added}\n")


@pytest.mark.parametrize("added", BAD)
def test_what_the_reader_refuses_does_not(validator, added):
    assert not valid(validator, f"{BASE}{added}\n")
