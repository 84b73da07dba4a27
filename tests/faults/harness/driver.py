"""``hpsearch run STUDY``, with its operations logged: the coordinator of the standard run.

What is observed is not changed. Options that begin with ``--fault`` break things on purpose, and ``--fresh`` and
``--beat`` shorten the life of a heartbeat so that a test need not wait for it.
"""

import argparse
import random
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from harness.oplog import OpLog
from hpsearch.cli import main
from hpsearch.coordinator.announcer import Announcer
from hpsearch.coordinator.attempts import Attempts
from hpsearch.coordinator.link import Link
from hpsearch.coordinator.proposals import Proposals
from hpsearch.storage import holder, requests
from hpsearch.storage.writer import Writer

LOST_SHARE = 0.25  # of the answers to commits
TOLD = {"trial.completed", "trial.pruned", "trial.failed"}


class Observer:
    """Logs, and sends this very process a signal after the n-th line of a kind."""

    def __init__(self, log: OpLog, number: signal.Signals, after: tuple[str, str, int] | None) -> None:
        self._log = log
        self._number = number
        self._after = after
        self._seen: Counter[tuple[str, str]] = Counter()

    def say(self, op: str, phase: str, **fields: Any) -> None:
        self._log.say(op, phase, **fields)
        self._seen[op, phase] += 1
        if self._after == (op, phase, self._seen[op, phase]):
            signal.pthread_kill(threading.get_ident(), self._number)  # at this very line, not some microseconds later


def before(owner: type, name: str, observe: Callable[..., None]) -> None:
    """Have ``observe`` see the arguments of each call of a method before it is made."""
    method = getattr(owner, name)

    def observed(self: Any, *args: Any, **kwargs: Any) -> Any:
        observe(*args, **kwargs)
        return method(self, *args, **kwargs)

    setattr(owner, name, observed)


def observe(said: Observer) -> None:
    """Ask, submit, report, tell and commit, before and after."""
    before(Proposals, "ask", lambda: said.say("ask", "invoked"))
    before(
        Link,
        "launch",
        lambda seat, key, order: said.say(
            "ask", "acknowledged", trial=key[0], attempt=key[1], params=order["assignment"]["params"]
        ),
    )
    before(
        Attempts,
        "reported",
        lambda record: said.say(
            "record", "invoked", trial=record.trial, attempt=record.attempt, step=record.step, value=record.value
        ),
    )
    before(
        Proposals,
        "tell",
        lambda number, ending: said.say("tell", "invoked", trial=number, cause=ending.cause, values=ending.values),
    )

    def announced(kind: str, **fields: Any) -> None:
        if kind in TOLD:
            values = fields.get("values", ())
            said.say("tell", "acknowledged", trial=fields["trial"], attempt=fields["attempt"], kind=kind, values=values)
        elif kind != "trial.reported":
            said.say("notice", kind, **{key: str(value) for key, value in fields.items() if key != "params"})

    before(Announcer, "say", announced)
    sa.event.listen(sa.Engine, "commit", lambda connection: said.say("commit", "invoked"))
    construct = Writer.__init__

    def constructed(writer: Writer, *args: Any, on_commit: Callable[[int], None], **kwargs: Any) -> None:
        def committed(ticket: int) -> None:
            said.say("commit", "acknowledged", ticket=ticket)
            on_commit(ticket)

        construct(writer, *args, on_commit=committed, **kwargs)

    Writer.__init__ = constructed  # type: ignore[method-assign]


def lose_answers(said: Observer, seed: int) -> None:
    """SQLite: some commits of the writer thread are done, then said to have failed; some again and again."""
    commit = SQLiteDialect_pysqlite.do_commit
    chance = random.Random(seed)

    def do_commit(dialect: SQLiteDialect_pysqlite, connection: Any) -> None:
        commit(dialect, connection)
        if threading.current_thread().name == "hpsearch-writer" and chance.random() < LOST_SHARE:
            said.say("fault", "answer lost")
            error = sqlite3.OperationalError("database is locked (the answer to a commit was lost)")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

    SQLiteDialect_pysqlite.do_commit = do_commit  # type: ignore[method-assign]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The driver's own options, and those of ``hpsearch run``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--fault-signal", default="SIGKILL")
    parser.add_argument("--fault-after", help="OP:PHASE:N, the line after which the signal comes")
    parser.add_argument("--fault-lose", type=int, help="seed of which answers to commits are lost")
    parser.add_argument("--fresh", type=float, default=holder.FRESH_S)
    parser.add_argument("--beat", type=float, default=requests.POLL_S)
    return parser.parse_known_args(arguments)


def run(arguments: list[str]) -> int:
    """Observe, and run the command line."""
    options, rest = parse(arguments)
    after = None
    if options.fault_after:
        op, phase, number = options.fault_after.split(":")
        after = (op, phase, int(number))
    said = Observer(OpLog(options.log), signal.Signals[options.fault_signal], after)
    said.say("coordinator", "begun")
    observe(said)
    if options.fault_lose is not None:
        lose_answers(said, options.fault_lose)
    holder.FRESH_S, requests.POLL_S = options.fresh, options.beat  # each poll is a heartbeat
    code = main(["run", *rest, "--json"])
    said.say("coordinator", "ended", exit_code=code)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
