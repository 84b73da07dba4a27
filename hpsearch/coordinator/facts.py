"""Messages from the cluster as events, and orders to ranks as messages."""

from typing import Any

from hpsearch.events import Deliver, Queued, Reported, Seat, Seated, StopAttempt, WorkerJoined
from hpsearch.supervisor.plugin import RankKey


def worker_joined(body: dict[str, Any]) -> WorkerJoined:
    """A worker's introduction."""
    known = {key: body[key] for key in ("worker", "host", "cpus", "memory_bytes")}
    return WorkerJoined(**known, gpus=tuple(body["gpus"]))


def words_of(event: WorkerJoined, n_slots: int) -> dict[str, Any]:
    """For people: what a worker brings."""
    said = {"worker": event.worker, "host": event.host, "slots": n_slots}
    return {**said, "cpus": event.cpus, "gpus": list(event.gpus)}


def order(command: Deliver | StopAttempt) -> dict[str, Any]:
    """For every rank that the command names."""
    return verdict(command) if isinstance(command, Deliver) else stop(command)


def seats_answer(body: dict[str, Any]) -> Seated | Queued:
    """What the slot table answers."""
    trial, attempt = body["trial"], body["attempt"]
    if body["op"] == "queued":
        return Queued(trial=trial, attempt=attempt)
    seats = tuple(Seat(**{**seat, "gpus": tuple(seat["gpus"])}) for seat in body["seats"])
    return Seated(trial=trial, attempt=attempt, seats=seats)


def reported(key: RankKey, body: dict[str, Any]) -> Reported:
    """A rank's report."""
    trial, attempt, rank = key
    return Reported(
        trial=trial, attempt=attempt, rank=rank, step=body["step"], value=body["value"], metrics=body["metrics"]
    )


def verdict(command: Deliver) -> dict[str, Any]:
    """For every rank of the attempt."""
    said = {"step": command.step, "verdict": command.verdict.value, "next_step": command.next_step}
    return {"op": "verdict", **said}


def stop(command: StopAttempt) -> dict[str, Any]:
    """For the ranks that the command names."""
    said = {"cause": command.cause.value, "reason": command.reason, "grace_s": command.grace_s}
    return {"op": "stop", **said, "after_step": command.after_step}
