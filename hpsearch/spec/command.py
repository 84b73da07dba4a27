"""A program as the objective: its arguments with substitutions, read once and filled in for each trial."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.spec.tree import Item, printable, shown, suggestion

EXAMPLE = '[python, train.py, "${args}"]'
SEVERAL = ("args", "args_no_hyphens")  # these stand for several arguments, so they stand alone
KNOWN = (*SEVERAL, "json", "params.NAME", "env:NAME")
_SUBSTITUTION = re.compile(r"\$(\$|\{([^}]*)(\}?))")
PYTHON = "python"  # the interpreter of whoever runs it


@dataclass(frozen=True, slots=True)
class Part:
    """Of one argument: ``text`` is itself, any other kind stands for parameters."""

    kind: str  # "text", "env", "param", "json" or one of SEVERAL
    text: str = ""  # the text, or the name of the parameter or variable


Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments."""

    words: tuple[Word, ...]
    written: tuple[str, ...]  # as in the study file

    def arguments(self, params: Mapping[str, Any]) -> list[str]:
        """The program and its arguments for a trial with these parameters, as the objective would see them."""
        found: list[str] = []
        for word in self.words:
            match word:
                case (Part(kind="args"),):
                    found += [f"--{name}={text_of(value)}" for name, value in params.items()]
                case (Part(kind="args_no_hyphens"),):
                    found += [f"{name}={text_of(value)}" for name, value in params.items()]
                case _:
                    found.append("".join(_filled(part, params) for part in word))
        return found

    @property
    def label(self) -> str:
        """For people: ``python train.py``."""
        plain = [word for word in self.written if "$" not in word]
        return printable(" ".join(Path(word).name if "/" in word else word for word in plain[:2]))


def _filled(part: Part, params: Mapping[str, Any]) -> str:
    match part.kind:
        case "param":
            return text_of(params[part.text])
        case "json":
            return json.dumps(dict(params), ensure_ascii=False)
        case _:
            return part.text


def text_of(value: object) -> str:
    """A value as an argument: text as it is, all else as JSON (``true``, ``0.001``, ``[64,64]``)."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class CommandReader:
    """Reads a list of arguments."""

    def read(self, item: Item) -> Command | None:
        if not isinstance(item.node.value, list) or not item.node.value:
            item.expected(f"a list such as {EXAMPLE}")
            return None
        words: list[Word] = []
        written: list[str] = []
        for element in item.elements():
            text = _text(element)
            if text is None or "\0" in text or not (text or words):
                element.expected("text without NUL" if words else "a program")
                continue
            words.append(tuple(_parts(element, text)))
            written.append(text)
        if len(words) < len(item.node.value):
            return None
        if any(part.kind not in {"text", "env"} for part in words[0]):
            next(item.elements()).problem("the program itself must not depend on parameters")
        return Command(tuple(words), tuple(written))

    def schema(self) -> dict[str, Any]:
        one = {"type": ["string", "number", "boolean"]}
        return {"type": "array", "minItems": 1, "items": one, "examples": [["python", "train.py", "${args}"]]}


def _text(item: Item) -> str | None:
    value = item.node.value
    if isinstance(value, str):
        return value
    return (item.node.text or shown(value)) if isinstance(value, bool | int | float) else None


def _parts(item: Item, text: str) -> Iterator[Part]:
    end = 0
    for found in _SUBSTITUTION.finditer(text):
        if found.start() > end:
            yield Part("text", text[end : found.start()])
        end = found.end()
        yield Part("text", "$") if found[1] == "$" else _part(item, found, text)
    if end < len(text) or not text:
        yield Part("text", text[end:])


def _part(item: Item, found: re.Match[str], text: str) -> Part:
    name = found[2]
    if not found[3]:
        item.problem(f"'{printable(found[0])}' has no end: write }}, or $$ for a dollar sign")
    elif name.startswith("params.") and len(name) > len("params."):
        return Part("param", name.removeprefix("params."))
    elif name.startswith("env:") and len(name) > len("env:"):
        return Part("env", name.removeprefix("env:"))
    elif name in SEVERAL and found[0] != text:
        item.problem(f"${{{name}}} stands for several arguments: give it an element of its own")
    elif name in (*SEVERAL, "json"):
        return Part(name)
    else:
        item.problem(f"unknown substitution '{printable(found[0])}'{suggestion(name, KNOWN)}; $$ is a dollar sign")
    return Part("text")


# ------------------------------------------------------------------- once the rest of the study file is known


def settle(
    item: Item, command: Command, *, known: Sequence[str], conditional: Sequence[str], environ: Mapping[str, str]
) -> Command:
    """Fill in the environment, and report parameters and variables that are not there.

    Args:
        item: of the command.
        known: names of all parameters, constants included.
        conditional: those that not every trial has.
        environ: of the coordinator.
    """
    words = []
    for element, word in zip(item.elements(), command.words, strict=False):
        settled = []
        for part in word:
            if part.kind == "param" and part.text not in known:
                element.problem(f"there is no parameter '{printable(part.text)}'{suggestion(part.text, known)}")
            elif part.kind == "param" and part.text in conditional:
                element.problem(
                    f"not every trial has '{printable(part.text)}', which has a condition: use ${{args}} or ${{json}}"
                )
            elif part.kind == "env" and part.text not in environ:
                element.problem(f"environment variable {printable(part.text)} is not set")
            settled.append(Part("text", environ.get(part.text, "")) if part.kind == "env" else part)
        words.append(tuple(settled))
    return Command(tuple(words), command.written)


def located(item: Item, command: Command, folders: Sequence[Path], *, here: bool) -> Command:
    """A script that lies beside the study file gets its whole path; what is nowhere is reported.

    Args:
        item: of the command.
        folders: where relative paths may begin; the first is where the program runs.
        here: the program runs on this machine. On others its programs may be elsewhere, and nothing is reported.
    """
    words, elements = list(command.words), list(item.elements())
    program = _plain(words[0])
    if program is None:
        return command
    if "/" in program:
        words[0] = (Part("text", _beside(elements[0], program, folders, here=here)),)
    elif here and program != PYTHON and shutil.which(program) is None:
        elements[0].problem(f"there is no program '{printable(program)}' on the PATH")
    script = _plain(words[1]) if len(words) > 1 else None
    if script and re.fullmatch(r"python[\d.]*", Path(program).name) and not script.startswith("-"):
        words[1] = (Part("text", _beside(elements[1], script, folders, here=here)),)
    return Command(tuple(words), command.written)


def _plain(word: Word) -> str | None:
    return "".join(part.text for part in word) if all(part.kind == "text" for part in word) else None


def _beside(item: Item, name: str, folders: Sequence[Path], *, here: bool) -> str:
    """The path as it is written if it is found from the first folder, the whole path if from another."""
    for index, folder in enumerate(folders):
        path = Path(os.path.normpath(folder / name))
        if path.is_file():
            return name if index == 0 else str(path)
    if here:
        item.problem(f"no such file: {printable(name)}")
    return name
