"""Any schedule of events, with losses, repeats and late arrivals: each trial ends once and no slot leaks."""

import random
from collections import Counter, deque
from typing import Any

import pytest

from hpsearch.budget import Budgets
from hpsearch.coordinator.leases import Leases
from hpsearch.events import (
    Acquire,
    AnyCommand,
    AnyEvent,
    Ask,
    Cause,
    Deliver,
    DrainRequested,
    EndAttempt,
    Ending,
    Finish,
    Judge,
    Judged,
    KillRequested,
    Launch,
    Queued,
    RankExited,
    Record,
    Release,
    Reported,
    Requeue,
    Seat,
    Seated,
    StopAttempt,
    Tell,
    Ticked,
    TrialReady,
    Verdict,
    Warn,
    Withdraw,
    WorkerJoined,
    WorkerLost,
    WorkerPreempted,
)
from hpsearch.lifecycle import Lifecycle, RetryRules
from hpsearch.placement import RankRequest
from hpsearch.supervisor.leasing import Leasing

N_SCHEDULES = 2_000
CAUSES = [Cause.RETURNED] * 4 + [Cause.PRUNED, Cause.ERROR, Cause.SIGNAL, Cause.TIMEOUT, Cause.OOM, Cause.LOST]


class VirtualCluster:
    """Workers and ranks that live, report and die as a seed says; carries out what the lifecycle orders."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.ranks = self.random.choice([1, 1, 2, 3])
        self.n_trials = self.random.randint(1, 12)
        request = RankRequest(ranks=self.ranks)
        self.p_lost = self.random.choice([0.0, 0.1, 0.5])  # of an order for slots, of its answer
        self.stream: deque[AnyEvent] = deque()  # from the slot table, in order
        self.leasing = Leasing(self.answer)
        self.leases = Leases(self, lambda: self.now, request)  # type: ignore[arg-type]
        retry = RetryRules(max=1, on=frozenset({"lost", "oom"}))
        self.ask_ahead = self.random.choice([0, 1, 3])
        budgets = Budgets(trials=self.n_trials, failures=99)
        self.lifecycle = Lifecycle(request, budgets, retry, ask_ahead=self.ask_ahead)
        self.workers: dict[str, int] = {}
        self.n_joined = 0
        self.asked = 0
        self.next_number = 0
        self.alive: dict[tuple[int, int, int], str] = {}  # (trial, attempt, rank) -> worker
        self.taken: dict[tuple[int, int, int], tuple[str, int]] = {}  # the same ranks -> worker, slot
        self.told: Counter[int] = Counter()
        self.requeued: Counter[int] = Counter()
        self.attempts: dict[int, int] = {}
        self.judges: Counter[tuple[int, int, int]] = Counter()
        self.pending: list[AnyEvent] = []  # answers on their way
        self.history: list[AnyEvent] = []
        self.finish: Finish | None = None

    def order(self, body: dict[str, Any]) -> None:
        """As the coordinator's link: to the slot table, or nowhere."""
        if self.random.random() >= self.p_lost:
            self.leasing.order("client", {**body, "run": "run"})

    def answer(self, client: str, body: dict[str, Any]) -> bool:
        key = {"trial": body["trial"], "attempt": body["attempt"]}
        if self.random.random() >= self.p_lost:
            seats = tuple(Seat(**{**seat, "gpus": tuple(seat["gpus"])}) for seat in body.get("seats", ()))
            self.stream.append(Seated(**key, seats=seats) if body["op"] == "seated" else Queued(**key))
        return True

    def hear(self) -> None:
        """The oldest answer of the slot table."""
        event = self.stream.popleft()
        if isinstance(event, Seated):
            self.leases.seated(event.trial, event.attempt)
        self.feed(event)

    def feed(self, event: AnyEvent) -> None:
        self.history.append(event)
        for command in self.lifecycle.handle(event, now=self.now):
            self.carry_out(command)

    def carry_out(self, command: AnyCommand) -> None:
        assert self.finish is None, "a command after Finish"
        match command:
            case Ask():
                self.pending.append(TrialReady(trial=self.next_number, attempt=1, next_step=1))
                self.next_number += 1
            case Acquire():
                self.leases.acquire(command.trial, command.attempt, command.avoid)
            case Release():
                self.leases.release(command.trial, command.attempt)
            case Launch():
                assert command.attempt == self.attempts.get(command.trial, 0) + 1, "attempts form a chain"
                self.attempts[command.trial] = command.attempt
                assert len(command.seats) == self.ranks, "all or none"
                for seat in command.seats:
                    assert seat.worker in self.workers
                    assert (seat.worker, seat.slot) not in self.taken.values(), "a slot is held twice"
                    self.taken[command.trial, command.attempt, seat.rank] = (seat.worker, seat.slot)
                    self.alive[command.trial, command.attempt, seat.rank] = seat.worker
            case Judge():
                self.judges[command.trial, command.attempt, command.step] += 1
                self.pending.append(
                    Judged(
                        trial=command.trial,
                        attempt=command.attempt,
                        step=command.step,
                        value=0.0,
                        verdict=self.random.choice(list(Verdict)),
                        next_step=command.step + self.random.randint(1, 3),
                    )
                )
            case StopAttempt():
                for seat in command.seats:
                    key = (command.trial, command.attempt, seat.rank)
                    if key in self.alive:
                        self.pending.append(self.exit(key, command.cause))
            case EndAttempt():
                assert not [key for key in self.alive if key[:2] == (command.trial, command.attempt)], "still alive"
            case Tell():
                self.told[command.trial] += 1
            case Requeue() | Withdraw():
                self.requeued[command.trial] += 1
            case Finish():
                self.finish = command
            case Deliver() | Record() | Warn():
                pass

    def exit(self, key: tuple[int, int, int], cause: Cause) -> RankExited:
        trial, attempt, rank = key
        values = (0.5,) if cause is Cause.RETURNED else ()
        return RankExited(trial=trial, attempt=attempt, rank=rank, ending=Ending(cause=cause, reason="", values=values))

    def step(self) -> None:
        """One thing happens, chosen at random among what can."""
        self.now += self.random.random()
        self.leases.repeat()
        choice = self.random.random()
        if choice < 0.05 and self.history:
            self.feed(self.repeat())
        elif choice < 0.12 or not self.workers:
            self.join()
        elif choice < 0.16:
            self.lose()
        elif choice < 0.18:
            while self.stream:  # the same connection brings the news
                self.hear()
            worker = self.random.choice(list(self.workers))
            self.leasing.closing(worker)
            self.feed(WorkerPreempted(worker=worker, reason="told to go"))
        elif choice < 0.35 and self.stream:
            self.hear()
        elif choice < 0.55 and self.pending:
            event = self.pending.pop(self.random.randrange(len(self.pending)))
            self.deliver(event)
        elif choice < 0.8 and self.alive:
            trial, attempt, rank = self.random.choice(list(self.alive))
            self.feed(Reported(trial=trial, attempt=attempt, rank=rank, step=self.random.randint(0, 9), value=0.1))
        elif self.alive:
            self.deliver(self.exit(self.random.choice(list(self.alive)), self.random.choice(CAUSES)))
        else:
            self.feed(Ticked())

    def deliver(self, event: AnyEvent) -> None:
        if isinstance(event, RankExited):
            key = (event.trial, event.attempt, event.rank)
            if self.alive.pop(key, None) is not None:
                del self.taken[key]
                if self.random.random() >= self.p_lost:
                    self.leasing.ended("client", "", ["run", *key])
        self.feed(event)

    def repeat(self) -> AnyEvent:
        """Something said before, again: what a resending channel may do. Answers to Ask are never repeated."""
        repeatable = [e for e in self.history if isinstance(e, Reported | RankExited | Judged | WorkerLost)]
        if not repeatable:
            return Ticked()
        event = self.random.choice(repeatable)
        if isinstance(event, WorkerLost) and event.worker in self.workers:
            return Ticked()
        if isinstance(event, RankExited) and (event.trial, event.attempt, event.rank) in self.alive:
            return Ticked()
        return event

    def join(self) -> None:
        worker = f"w{self.n_joined}"
        self.n_joined += 1
        self.workers[worker] = self.random.randint(1, 4)
        event = WorkerJoined(worker=worker, host=self.random.choice("ab"), cpus=self.workers[worker])
        self.leasing.joined(worker, {"host": event.host, "cpus": event.cpus, "gpus": [], "memory_bytes": None})
        self.feed(event)

    def lose(self) -> None:
        while self.stream:  # the same connection brings the news
            self.hear()
        worker = self.random.choice(list(self.workers))
        del self.workers[worker]
        self.leasing.left(worker)
        for key in [key for key, at in self.alive.items() if at == worker]:
            del self.alive[key], self.taken[key]
        self.feed(WorkerLost(worker=worker, reason="gone"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(4))
def test_every_trial_ends_once_whatever_happens(part: int) -> None:
    for seed in range(part * N_SCHEDULES // 4, (part + 1) * N_SCHEDULES // 4):
        cluster = VirtualCluster(seed)
        drain_at = cluster.random.choice([None, None, cluster.random.randint(1, 200)])
        for step in range(20_000):
            if cluster.finish:
                break
            if step == drain_at:
                cluster.feed(DrainRequested(reason="interrupted", exit_code=130))
            if drain_at and step == drain_at + 50:
                cluster.feed(KillRequested(reason="twice", exit_code=130))
            cluster.step()
        check(cluster, seed)


def check(cluster: VirtualCluster, seed: int) -> None:
    finish = cluster.finish
    assert finish is not None, f"seed {seed}: never finished"
    assert all(n == 1 for n in cluster.told.values()), f"seed {seed}: told twice"
    over = set(cluster.told) | set(cluster.requeued)
    assert not set(cluster.told) & set(cluster.requeued), f"seed {seed}: told and requeued"
    assert over == set(range(cluster.next_number)), f"seed {seed}: a trial without an end"
    assert all(n == 1 for n in cluster.judges.values()), f"seed {seed}: a step judged twice"
    if finish.exit_code in (0, 3):
        assert len(cluster.told) == cluster.n_trials, f"seed {seed}: the budget was not met exactly"
    cluster.p_lost = 0.0
    cluster.now += 60
    cluster.leases.repeat()
    assert cluster.leasing.table.holders == [], f"seed {seed}: a slot leaked"
    assert not cluster.alive, f"seed {seed}: a rank outlived the search"
