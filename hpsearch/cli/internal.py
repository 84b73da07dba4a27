"""What happens when hpsearch itself is wrong: one line for the person, the traceback where it can be sent on."""

import os
import tempfile
import traceback

import typer

from hpsearch import __version__, passwords
from hpsearch.console.words import one_line


def say_internal_error(error: Exception) -> int:
    """Report ``error`` in one line; its traceback goes to a file, or to stderr with HPSEARCH_DEBUG. Returns 1."""
    trace = passwords.scrub("".join(traceback.format_exception(error)))
    text = one_line(passwords.scrub(f"{type(error).__name__}: {error}"))
    if os.environ.get("HPSEARCH_DEBUG", "") not in ("", "0"):
        typer.echo(trace, err=True)
        typer.echo(f"hpsearch: internal error: {text}", err=True)
        return 1
    where = _keep(trace)
    typer.echo(f"hpsearch: internal error: {text} ({where})", err=True)
    return 1


def _keep(trace: str) -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="hpsearch-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"hpsearch {__version__}\n{trace}")
    except OSError:
        return "HPSEARCH_DEBUG=1 shows the traceback"
    return f"traceback in {path}"
