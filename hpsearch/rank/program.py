"""A rank that is a program of its own: started, listened to, and ended; the rank's process only relays.

The program and whatever it starts reach their trial through an abstract unix socket that HPSEARCH_SOCKET names, so
that nothing is left on a disk however this process ends. Only processes of the same user are heard.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.events import MAX_STEP
from hpsearch.report import SOCKET
from hpsearch.report.output import Scanner, write_all
from hpsearch.trial.line import MAX_LINE, Line, TrialStopped

CHUNK = 1 << 16
PR_SET_PDEATHSIG = 1
MAX_LAST_TURNS = 256
ASK_S = 2.0  # how long a program that reports by itself may take to ask whether it is pruned
LAST_NEWS_S = 1.0  # a gang's rank that failed waits so long for the reason why its peers went
NO_REPORT = (
    "exited with 0 and reported no value: give the metric a pattern, or call hpsearch.current().report(value, step), "
    "or run python -m hpsearch.report VALUE"
)


@dataclass(eq=False, slots=True)
class Client:
    """One connection of the program."""

    connection: socket.socket
    heard: bytes = b""
    unsent: bytes = b""
    greeted: bool = False  # it holds a Trial, and hears what a trial hears
    waiting: bool = False  # for an answer to should_prune


class Program:
    """One program from start to end."""

    def __init__(self, line: Line, assignment: Mapping[str, Any]) -> None:
        self._line = line
        self._assignment = assignment
        self._selector = selectors.DefaultSelector()
        self._clients: set[Client] = set()
        self._questions: dict[str, list[Client]] = {}  # suggestions under way, by name
        pattern = assignment["objective"]["pattern"]
        self._scanner = Scanner(pattern) if pattern and assignment["rank"] == 0 else None
        self._value: float | None = None
        self._step: int | None = None
        self._next_step: int | None = assignment["next_decision_step"]
        self._verdicts: list[dict[str, Any]] = []  # for those who connect later
        self._pruned = self._asked = self._terminated = self._word_sent = False
        self._talks = False  # by itself, and not only by what it prints
        self._stop: dict[str, Any] | None = None
        self._prune_at: float | None = None  # when a program that does not ask is ended
        self._own_end = ""  # what the program raised: "pruned" or "stopped"
        self._exit_code: int | None = None

    def run(self) -> int:
        """Until the program has ended and its end is told; the exit code of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):  # meant for the program; ignored ones would be inherited
            signal.signal(number, self._on_signal)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            name = f"hpsearch-{secrets.token_hex(16)}"
            listener.bind(f"\0{name}")
            listener.listen(128)
            try:
                process = self._start(name)
            except (OSError, ValueError) as error:
                program = self._assignment["objective"]["arguments"][0]
                said = getattr(error, "strerror", None) or error
                return self._say_word(_failed("import", f"cannot start {program!r}: {said}"))
            self._line.send({"op": "ready", "pid": os.getpid()})
            self._watch(listener, lambda: self._accept(listener))
            self._watch(self._line, lambda: self._line.receive(self._take))
            life = os.pidfd_open(process.pid)
            self._watch(life, lambda: self._ended(life, process))
            with contextlib.suppress(TrialStopped):
                self._line.receive(self._take)  # what came together with the assignment
                while self._exit_code is None:
                    self._turn()
                self._hear_last_words()
                self._linger()
                return self._finish()
            os.killpg(0, signal.SIGKILL)  # nobody would hear of it
        return 1

    def _start(self, socket_name: str) -> subprocess.Popen[bytes]:
        order, (program, *arguments) = self._assignment, self._assignment["objective"]["arguments"]
        env = {
            "PYTHONUNBUFFERED": "1",  # or what it prints would be read when it ends
            **os.environ,
            SOCKET: socket_name,
            "HPSEARCH_STUDY": order["study"],
            "HPSEARCH_TRIAL_NUMBER": str(order["trial"]),
            "HPSEARCH_TRIAL_DIRECTORY": order["directory"],
            "HPSEARCH_ATTEMPT": str(order["attempt"]),
        }
        process = subprocess.Popen(
            [sys.executable if program == "python" else program, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            stdout=None if self._scanner is None else subprocess.PIPE,
        )
        if process.stdout is not None:
            stdout = process.stdout.fileno()
            self._watch(stdout, lambda: self._read(stdout))
        return process

    def _watch(self, source: Any, on_readable: Callable[[], object]) -> None:
        self._selector.register(source, selectors.EVENT_READ, on_readable)

    def _turn(self, timeout_s: float | None = None) -> bool:
        """Wait for something to happen, and see to it; whether anything did."""
        if self._prune_at is not None:
            wait_s = self._prune_at - time.monotonic()
            if wait_s <= 0:
                self._prune()
            else:
                timeout_s = wait_s if timeout_s is None else min(timeout_s, wait_s)
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            key.data()
        return bool(ready)

    def _on_signal(self, number: int, frame: Any) -> None:
        """The keeper sends signals to the whole group; the program has got this one, too."""
        self._terminated = True

    # ------------------------------------------------------------------------------------- the program

    def _read(self, stdout: int) -> None:
        assert self._scanner is not None
        data = os.read(stdout, CHUNK)
        if not data:
            self._selector.unregister(stdout)
            return
        write_all(sys.stdout.fileno(), data)
        for report in self._scanner.feed(data):
            self._report(report)

    def _ended(self, life: int, process: subprocess.Popen[bytes]) -> None:
        self._exit_code = process.wait()
        self._selector.unregister(life)

    def _hear_last_words(self) -> None:
        """What is in its pipe and sockets; whom it left behind may hold those open, and is not waited for."""
        for _ in range(MAX_LAST_TURNS):
            if not self._turn(0):
                break
        if self._scanner is not None:
            for report in self._scanner.finish():
                self._report(report)

    def _report(self, message: dict[str, Any]) -> None:
        if not 0 <= message["step"] <= MAX_STEP:
            return
        self._value, self._step = message["value"], message["step"]
        if self._pruned and not self._asked:  # it had its chance to ask
            self._prune()
        if not self._word_sent:
            self._line.send(message)

    # ------------------------------------------------------------------------------------- its clients

    def _accept(self, listener: socket.socket) -> None:
        self._talks = True
        connection, _ = listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in (os.getuid(), 0):
            connection.close()
            return
        client = Client(connection)
        self._clients.add(client)
        self._watch(connection, lambda: self._hear(client))

    def _hear(self, client: Client) -> None:
        if client.unsent:
            self._flush(client)
        if client not in self._clients:  # dropped since the selector saw it
            return
        try:
            data = client.connection.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        *lines, client.heard = (client.heard + data).split(b"\n")
        try:
            for line in lines:
                self._obey(client, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:  # none of ours is at the other end
            sys.stderr.write(f"hpsearch: a message to {SOCKET} cannot be read: {type(error).__name__}: {error}\n")
            data = b""
        if not data or len(client.heard) > MAX_LINE:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._selector.unregister(client.connection)
            client.connection.close()

    def _obey(self, client: Client, message: dict[str, Any]) -> None:
        match message["op"]:
            case "hello":
                client.greeted = True
                self._send(client, self._assignment)
                for verdict in self._verdicts:
                    self._send(client, verdict)
                if self._stop is not None:
                    self._send(client, self._stop)
            case "report":
                if message["step"] is None:
                    message["step"] = 0 if self._step is None else self._step + 1
                if self._assignment["rank"] == 0:
                    self._report(message)
                else:
                    self._step = message["step"]
                if not client.greeted:
                    self._send(client, {"op": "heard"})
            case "asks" | "should_prune":
                self._asked, self._prune_at = True, None
                client.waiting = message["op"] == "should_prune"
                self._answer()
            case "pruned" | "stopped" as end:
                self._own_end = end
            case "suggest":
                self._questions.setdefault(message["name"], []).append(client)
                self._line.send(message)
            case _:
                self._line.send(message)

    def _send(self, client: Client, message: Mapping[str, Any]) -> None:
        client.unsent += json.dumps(message).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: Client) -> None:
        """Send what it takes now. It may not listen for hours, and everybody else must not wait for it."""
        if client not in self._clients:
            return
        try:
            client.unsent = client.unsent[client.connection.send(client.unsent, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, events, lambda: self._hear(client))

    def _answer(self) -> None:
        """To all who wait: whether to go on, once it is decided."""
        decided = self._step is None or self._next_step is None or self._step < self._next_step
        if not (self._pruned or self._stop or decided):
            return
        for client in [client for client in self._clients if client.waiting]:
            client.waiting = False
            self._send(client, {"op": "answer", "prune": self._pruned, "stop": self._stop is not None})

    # ------------------------------------------------------------------------------------ the supervisor

    def _take(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "verdict":
                self._verdicts.append(message)
                self._next_step = message["next_step"]
                if message["verdict"] == "prune" and not self._pruned:
                    self._pruned = True
                    if not self._asked:
                        self._prune_at = time.monotonic() + (ASK_S if self._talks else 0.0)
            case "suggested" | "refused":
                for client in self._questions.pop(message["name"], []):
                    self._send(client, message)
                return
            case "stop":
                self._stop = message
                if not any(client.greeted for client in self._clients):
                    self._terminate()
        for client in [client for client in self._clients if client.greeted]:
            self._send(client, message)
        self._answer()

    def _prune(self) -> None:
        """End a program that does not ask. The word is said at once: from it on, the keeper counts the grace."""
        self._prune_at = None
        if not self._word_sent:
            self._say_word({"op": "pruned"})
            self._terminate()

    def _terminate(self) -> None:
        self._terminated = True
        os.killpg(0, signal.SIGTERM)

    # --------------------------------------------------------------------------------------------- the end

    def _linger(self) -> None:
        """A rank that fails after its peers were pruned or stopped is to be told so, too."""
        deadline = time.monotonic() + (LAST_NEWS_S if self._assignment["world_size"] > 1 and self._exit_code else 0.0)
        while not (self._pruned or self._stop or self._own_end) and (left_s := deadline - time.monotonic()) > 0:
            self._turn(left_s)

    def _finish(self) -> int:
        code = self._exit_code
        assert code is not None
        if self._word_sent:
            return 0
        if self._pruned or self._own_end == "pruned":
            return self._say_word({"op": "pruned"})
        if self._own_end == "stopped" or (self._stop is not None and (self._terminated or code != 0)):
            return self._say_word({"op": "stopped"})
        if code < 0:
            return _die_of(-code)
        if code > 0:
            return self._say_word(_failed("error", f"exited with {code}"))
        if self._assignment["rank"] != 0:
            return self._say_word({"op": "returned", "values": [0.0]})
        if self._value is None:
            return self._say_word(_failed("bad_result", NO_REPORT))
        if self._value != self._value:
            return self._say_word(_failed("bad_result", "the last value that it reported is NaN"))
        return self._say_word({"op": "returned", "values": [self._value]})

    def _say_word(self, word: dict[str, Any]) -> int:
        self._word_sent = True
        self._line.send(word)
        return 1 if word["op"] == "failed" else 0


def _failed(cause: str, reason: str) -> dict[str, Any]:
    return {"op": "failed", "cause": cause, "reason": reason[:300], "traceback": ""}


def _die_of(number: int) -> int:
    """End as the program did, so that the same words are found for it as for any other rank."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
