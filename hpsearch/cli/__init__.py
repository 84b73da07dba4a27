"""The command line: one file a verb group, each importing what it needs when its verb runs.

Nothing here may import torch, dask, optuna, pandas or SQLAlchemy at module level: ``hpsearch --help`` and a mistyped
option should not wait for them.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from hpsearch import __version__, passwords
from hpsearch.cli import control, database, logs, look, run, study_files
from hpsearch.cli.options import Invocation, program_name
from hpsearch.errors import HpsearchError

app = typer.Typer(
    name="hpsearch",
    help="Distributed hyperparameter search. Begin with `hpsearch init`, or `hpsearch run train.py:train --trials 50`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help pages cost more time than the whole rest of `--help`
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for verb in (
    run.run,
    study_files.validate,
    study_files.schema,
    study_files.init,
    look.status,
    look.trials,
    look.best,
    logs.logs,
    control.stop,
):
    app.command()(verb)
app.add_typer(database.db, name="db")

# typer ships its own copy of click's exceptions in newer versions, and uses click's in older ones.
_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="HPSEARCH_DEBUG", help="Show the traceback of an internal error.")
    ] = False,
) -> None:
    if debug:
        os.environ["HPSEARCH_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return its exit code; never raises."""
    typed = tuple(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no name of a parameter ends a search
    if any(passwords.shows(argument) for argument in typed):
        typer.echo(
            "hpsearch: warning: `ps` shows the password to everybody: use storage.password_file, PGPASSFILE or "
            "HPSEARCH_STORAGE instead",
            err=True,
        )
    try:
        result = app(
            args=list(typed),
            prog_name="hpsearch",
            obj=Invocation(typed, program_name()),
            standalone_mode=False,
        )
        sys.stdout.flush()
    except HpsearchError as error:
        return _refuse(error)
    except _ClickException as error:
        return _refuse_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except Exception as error:
        from hpsearch.cli.internal import say_internal_error

        return say_internal_error(error)
    return result if isinstance(result, int) else 0


def _refuse(error: HpsearchError) -> int:
    from hpsearch.console.words import one_line
    from hpsearch.errors import StudyFileError

    # The lines of a study file name a place, as compilers do; anything else names the program.
    prefix = "" if isinstance(error, StudyFileError) else "hpsearch: "
    for line in passwords.scrub(passwords.masked(str(error))).splitlines():
        typer.echo(prefix + one_line(line), err=True)
    return error.exit_code


def _refuse_usage(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(str(error), err=True)
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "hpsearch"
    message = passwords.masked(" ".join(str(getattr(error, "format_message", error.__str__)()).split()))
    typer.echo(f"{path}: {message.rstrip('.')} (see {path} --help)", err=True)
    return 2


def _forget_stdout() -> None:
    """The reader is gone: let the interpreter flush into nothing at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
