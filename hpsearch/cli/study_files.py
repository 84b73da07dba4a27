"""Verbs about files: ``validate``, ``schema``, ``init``."""

from pathlib import Path
from typing import Annotated

import typer

from hpsearch.errors import UsageError


def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, as for run.", show_default=False)
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each value and where it came from.")] = False,
) -> None:
    """Check a study file.

    All its problems at once, one line each.
    """
    from hpsearch.cli.words import explained, in_short
    from hpsearch.spec import load_study

    spec = load_study(file, overrides or ())
    if explain:
        for line in explained(spec):
            typer.echo(line)
    else:
        typer.echo(f"{file}: valid: {in_short(spec)}")


def schema() -> None:
    """Print the JSON Schema of study files.

    Editors complete and check by it: `# yaml-language-server: $schema=FILE`.
    """
    import json

    from hpsearch.spec import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write; made if missing.")] = Path(),
) -> None:
    """Write an example to start from.

    A study file, a training job, and the schema for editors. Nothing is overwritten.
    """
    import json

    from hpsearch.cli.templates import STUDY, TRAIN
    from hpsearch.spec import json_schema

    files = {
        "train.py": TRAIN,
        "study.yaml": STUDY,
        "study.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }
    present = [name for name in files if (directory / name).exists()]
    if present:
        raise UsageError(f"{', '.join(present)} already in {directory.absolute()}: nothing was written")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror or error}") from error
    typer.echo(f"wrote {', '.join(files)}" + ("" if directory == Path() else f" in {directory}"))
    typer.echo("once, by hand:  " + _in_directory(directory, "python train.py"))
    typer.echo("the search:     " + _in_directory(directory, "hpsearch run study.yaml"))


def _in_directory(directory: Path, command: str) -> str:
    import shlex

    return command if directory == Path() else f"cd {shlex.quote(str(directory))} && {command}"
