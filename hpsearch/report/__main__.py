"""``python -m hpsearch.report 0.93 --step 3``: a program in any language reports to its trial.

Imports nothing but a little of the standard library, so that it is done before anybody waits for it.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from hpsearch.report import SOCKET, connect

PRUNE = 10  # exit status of --should-prune: end now
GO_ON = 0
MAX_STEP = 2**31 - 1
MAX_NAME = 512


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hpsearch.report",
        description="Report a value to the trial that this program is part of. Without a trial it is printed.",
        epilog=f"exit status: {GO_ON} go on, {PRUNE} end now (only with --should-prune), 1 trial is gone, 2 usage",
    )
    parser.add_argument("value", type=float, nargs="?", help="of the study's metric")
    parser.add_argument("more", type=_named, nargs="*", metavar="name=value", help="other metrics beside it")
    parser.add_argument("--step", type=_step, help="epoch or the like; counts from 0 if not given")
    parser.add_argument("--should-prune", action="store_true", help="ask whether the trial is worth going on with")
    # argparse takes -1e-3 and -inf for options; with a space before them they are numbers.
    spaced = [f" {word}" if word.startswith("-") and _is_number(word) else word for word in arguments]
    given = parser.parse_intermixed_args(spaced)
    if given.value is None and not given.should_prune:
        parser.error("a value is needed, or --should-prune")
    return given


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _named(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name")
    if len(name) > MAX_NAME or any("\ud800" <= sign <= "\udfff" for sign in name):
        raise argparse.ArgumentTypeError(f"a name is UTF-8 of at most {MAX_NAME} characters")
    return name, float(value)


def _step(text: str) -> int:
    step = int(text)
    if not 0 <= step <= MAX_STEP:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_STEP}")
    return step


def main(arguments: Sequence[str] | None = None) -> int:
    """Report, ask, or both; the exit status."""
    given = _parsed(sys.argv[1:] if arguments is None else arguments)
    name = os.environ.get(SOCKET, "")
    if not name:
        if given.value is not None:
            more = "".join(f" {key}={value:g}" for key, value in given.more)
            sys.stdout.write(f"{'' if given.step is None else f'step {given.step}: '}{given.value:g}{more}\n")
        return GO_ON
    try:
        with connect(name) as connection, connection.makefile("rwb") as stream:
            if given.value is not None:
                metrics = dict(given.more)
                _ask(stream, {"op": "report", "step": given.step, "value": given.value, "metrics": metrics})
            if given.should_prune:
                answer = _ask(stream, {"op": "should_prune"})
                return PRUNE if answer["prune"] or answer["stop"] else GO_ON
    except (OSError, ValueError):
        sys.stderr.write("hpsearch.report: the trial is gone\n")
        return 1
    return GO_ON


def _ask(stream: Any, message: dict[str, Any]) -> dict[str, Any]:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()
    return dict(json.loads(stream.readline()))


if __name__ == "__main__":
    sys.exit(main())
