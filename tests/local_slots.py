"""A slot table right beside a lifecycle: what the scheduler's does for a coordinator, without a scheduler."""

from dataclasses import replace

from hpsearch.events import (
    Acquire,
    AnyCommand,
    AnyEvent,
    Queued,
    Release,
    Seated,
    WorkerJoined,
    WorkerLost,
    WorkerPreempted,
)
from hpsearch.lifecycle import Lifecycle
from hpsearch.placement import RankRequest, SlotTable


class LocalSlots:
    """Carries out Acquire and Release at once; everything else comes back."""

    def __init__(self, request: RankRequest) -> None:
        self.table = SlotTable()
        self.request = request

    def handle(self, lifecycle: Lifecycle, event: AnyEvent, now: float) -> list[AnyCommand]:
        match event:
            case WorkerJoined():
                self.table.join(event.worker, host=event.host, cpus=event.cpus, gpus=event.gpus)
            case WorkerLost():
                self.table.leave(event.worker)
            case WorkerPreempted():
                self.table.close(event.worker)
        left: list[AnyCommand] = []
        events: list[AnyEvent] = [event, *self._seated()]
        while events:
            for command in lifecycle.handle(events.pop(0), now=now):
                match command:
                    case Acquire():
                        holder = (command.trial, command.attempt)
                        self.table.ask(holder, replace(self.request, avoid=command.avoid))
                        granted = self._seated()
                        events += granted
                        if not any((one.trial, one.attempt) == holder for one in granted):
                            events.append(Queued(trial=command.trial, attempt=command.attempt))
                    case Release():
                        self.table.release((command.trial, command.attempt))
                        events += self._seated()
                    case _:
                        left.append(command)
        return left

    def _seated(self) -> list[Seated]:
        return [Seated(trial=trial, attempt=attempt, seats=seats) for (trial, attempt), seats in self.table.grants()]
