"""The life of trials and their attempts: ``handle(event, now) -> commands``.

Pure: no clock, no sockets, no database. The coordinator carries the commands out; tests and simulations drive the same
code with any order of events. Stale words are refused by identity: an event of another attempt changes nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from hpsearch.budget import Budgets, Standing
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
    RankStarted,
    Record,
    Release,
    Reported,
    Requeue,
    SearchExhausted,
    Seat,
    Seated,
    Tell,
    Ticked,
    TrialReady,
    TrialStopRequested,
    Verdict,
    WorkerJoined,
    WorkerLost,
    WorkerPreempted,
)
from hpsearch.lifecycle.demand import Demand
from hpsearch.lifecycle.hosts import Hosts
from hpsearch.lifecycle.record import FINE, LiveTrial, RetryRules, decisive, put_back, release, stop_order
from hpsearch.placement import RankRequest

# A nanny is back within seconds; longer than this without any worker is no hiccup.
WORKERLESS_S = 60.0
MIN_PARTED_S = 2.0  # ranks of a gang leave at about the same time, but not at the same moment


class Lifecycle:
    """All trials of one run of the coordinator.

    Args:
        request: the shape of every gang.
        budgets: when the search is over.
        retry: which ends are worth another attempt.
        grace_s: from asking an attempt to stop to killing it.
        ask_ahead: how many trials may be asked for beyond the free slots, so that a freed slot finds one ready.
    """

    def __init__(
        self, request: RankRequest, budgets: Budgets, retry: RetryRules, *, grace_s: float = 10.0, ask_ahead: int = 0
    ) -> None:
        self._demand = Demand(request, ask_ahead)
        self._budgets = budgets
        self._retry = retry
        self._hosts = Hosts(retry.exclude_host_after)
        self._grace_s = grace_s
        self.standing = Standing(budgets)
        self._trials: dict[int, LiveTrial] = {}  # not over, by number
        self._parted: dict[int, float] = {}  # gangs of which some ranks ended well -> when the first did
        self._n_asked = 0  # on their way: Ask sent or expected, and not ready yet
        self._exhausted = False
        self._ending: tuple[str, int] | None = None  # reason, exit code: nothing new is started any more
        self._ending_for_good = False  # no later run would go on with what runs now
        self._finished = False
        self._started_at: float | None = None
        self._workerless_since: float | None = None

    def expect(self, n_trials: int) -> None:
        """So many trials were found in the database. They count as begun from now on, and are ready once they say so.

        Workers may join before that: what they then ask for must leave room for these.
        """
        self._n_asked += n_trials

    # ------------------------------------------------------------------------------------ questions

    def is_current(self, trial: int, attempt: int) -> bool:
        """Whether this attempt is the one that runs now; words of any other are stale."""
        record = self._trials.get(trial)
        return record is not None and record.running and record.attempt == attempt

    def seats(self, trial: int) -> tuple[Seat, ...]:
        """Where the current attempt of a trial sits; empty when it does not run."""
        record = self._trials.get(trial)
        return record.seats if record else ()

    def n_slots_of(self, worker: str) -> int:
        """Ranks that one worker holds, whoever uses it now."""
        return self._demand.n_slots_of(worker)

    @property
    def n_unfinished(self) -> int:
        """Trials begun and not over."""
        return len(self._trials)

    @property
    def draining(self) -> str:
        """Why nothing new is started any more; empty while the search goes on."""
        return self._ending[0] if self._ending else ""

    # --------------------------------------------------------------------------------------- events

    def handle(self, event: AnyEvent, *, now: float) -> list[AnyCommand]:
        """Take one fact, return what to do about it, in order."""
        if self._finished:
            return []
        if self._started_at is None:
            self._started_at = now
            self._workerless_since = None if self._demand.holds_a_gang else now
        commands = list(self._dispatch(event, now))
        commands += self._stop_stragglers(now)
        commands += self._check_budgets(now)
        commands += self._acquires_and_asks()
        commands += self._finish()
        return commands

    def _dispatch(self, event: AnyEvent, now: float) -> Iterable[AnyCommand]:
        match event:
            case WorkerJoined():
                return self._worker_joined(event)
            case WorkerLost():
                return self._worker_lost(event, now)
            case WorkerPreempted():
                return self._worker_preempted(event, now)
            case TrialReady():
                return self._trial_ready(event)
            case SearchExhausted():
                self._n_asked -= 1
                self._exhausted = True
            case Queued():
                if self._waits(event.trial, event.attempt):
                    self._demand.queued(event.trial)
            case Seated():
                return self._seated(event)
            case Reported():
                return self._reported(event)
            case Judged():
                return self._judged(event)
            case RankExited():
                return self._rank_exited(event, now)
            case TrialStopRequested():
                return self._trial_stop_requested(event)
            case DrainRequested():
                return self._end(event.reason, event.exit_code)
            case KillRequested():
                return self._kill(event)
            case RankStarted() | Ticked():
                pass
            case _:
                assert_never(event)
        return ()

    def _worker_joined(self, event: WorkerJoined) -> Iterable[AnyCommand]:
        self._demand.join(event)
        if self._demand.holds_a_gang:
            self._workerless_since = None
        return ()

    def _worker_lost(self, event: WorkerLost, now: float) -> Iterable[AnyCommand]:
        for record, seat in self._leave(event.worker, now):
            yield from self._rank_ended(record, seat.rank, Ending(cause=Cause.LOST, reason=event.reason), now)

    def _worker_preempted(self, event: WorkerPreempted, now: float) -> Iterable[AnyCommand]:
        for record, _ in self._leave(event.worker, now):
            record.preempted = True
            if not record.stopping:
                yield from self._stop(record, Cause.PREEMPTED, event.reason, self._grace_s)

    def _leave(self, worker: str, now: float) -> list[tuple[LiveTrial, Seat]]:
        """Count on a worker no more; what sits there."""
        self._demand.leave(worker)
        if not self._demand.holds_a_gang and self._workerless_since is None:
            self._workerless_since = now
        return [(record, seat) for record in self._trials.values() for seat in record.alive if seat.worker == worker]

    def _trial_ready(self, event: TrialReady) -> Iterable[AnyCommand]:
        self._n_asked -= 1
        if self._ending:
            return [put_back(event.trial, event.attempt)]
        self._trials[event.trial] = LiveTrial(event.trial, event.attempt, event.next_step, n_charged=event.n_charged)
        self._demand.waiting[event.trial] = None
        return ()

    def _waits(self, trial: int, attempt: int) -> bool:
        return trial in self._demand.waiting and self._trials[trial].attempt == attempt

    def _seated(self, event: Seated) -> list[AnyCommand]:
        if self.is_current(event.trial, event.attempt):
            return []  # said twice
        if not self._waits(event.trial, event.attempt):
            return [Release(trial=event.trial, attempt=event.attempt)]  # not wanted any more
        self._demand.seated(event.trial)
        record = self._trials[event.trial]
        record.seats = event.seats
        launch = Launch(trial=event.trial, attempt=record.attempt, seats=record.seats, next_step=record.next_step)
        return [*self._hosts.taken(event.trial, frozenset(seat.host for seat in event.seats)), launch]

    def _reported(self, event: Reported) -> Iterable[AnyCommand]:
        if not self.is_current(event.trial, event.attempt) or event.rank != 0:
            return ()  # the last words of a gang that is already gone, or a rank that does not speak for it
        record = self._trials[event.trial]
        if event.step <= record.last_step:
            return ()  # within one attempt the first value of a step stands, as in Optuna
        record.last_step = event.step
        commands: list[AnyCommand] = [
            Record(trial=event.trial, attempt=event.attempt, step=event.step, value=event.value, metrics=event.metrics)
        ]
        if record.next_step is not None and event.step >= record.next_step:
            commands.append(Judge(trial=event.trial, attempt=event.attempt, step=event.step, value=event.value))
        return commands

    def _judged(self, event: Judged) -> Iterable[AnyCommand]:
        if not self.is_current(event.trial, event.attempt):
            return ()
        record = self._trials[event.trial]
        record.next_step = event.next_step
        if event.verdict is Verdict.PRUNE:
            record.pruned = event.reason
        return [
            Deliver(
                trial=event.trial,
                attempt=event.attempt,
                step=event.step,
                verdict=event.verdict,
                next_step=event.next_step,
                seats=record.seats,
            )
        ]

    def _rank_exited(self, event: RankExited, now: float) -> Iterable[AnyCommand]:
        if not self.is_current(event.trial, event.attempt):
            return ()
        record = self._trials[event.trial]
        return self._rank_ended(record, event.rank, event.ending, now)

    def _trial_stop_requested(self, event: TrialStopRequested) -> Iterable[AnyCommand]:
        record = self._trials.get(event.trial)
        if record is None:
            return ()
        reason = "stopped by request"
        if record.running:
            return self._stop(record, Cause.CANCELLED, reason, self._grace_s)
        del self._demand.waiting[event.trial], self._trials[event.trial]
        return [release(record), self._tell(record, Ending(cause=Cause.CANCELLED, reason=reason))]

    # -------------------------------------------------------------------------------- ends of attempts

    def _rank_ended(self, record: LiveTrial, rank: int, ending: Ending, now: float) -> Iterable[AnyCommand]:
        if rank in record.exits:
            return
        if ending.cause is Cause.LOST and record.preempted:
            ending = replace(ending, cause=Cause.PREEMPTED)
        record.exits[rank] = ending
        if ending.cause is Cause.LOST and not record.stopping:  # the others of its gang fall with it, wherever they are
            yield from self._hosts.lost(record.number, record.host_of(rank))
        if record.alive:
            if ending.cause in FINE and not record.stopping:
                self._parted.setdefault(record.number, now)
            elif not record.stopping:
                # One rank alone cannot go on, and its peers would wait for it in a collective for ever.
                yield from self._stop(record, ending.cause, f"rank {rank}: {ending.reason}", self._grace_s)
            return
        self._parted.pop(record.number, None)
        yield release(record)
        ending = decisive(record.exits, len(record.seats))
        if ending.cause is Cause.PRUNED:
            ending = replace(ending, reason=record.pruned or "by the objective itself")
        action, ending = self._retry.by_policy(record, ending)
        if action == "exclude_host":
            yield from self._hosts.exclude(record.number, record.host_of(record.first_fault))
        yield from self._attempt_ended(record, ending, final=action == "dont_retry")

    def _stop_stragglers(self, now: float) -> list[AnyCommand]:
        """Ranks that are left when others have ended wait in a collective, most likely, and would for ever."""
        commands: list[AnyCommand] = []
        patience_s = max(self._grace_s, MIN_PARTED_S)
        for number in [number for number, since in self._parted.items() if now - since > patience_s]:
            del self._parted[number]
            record = self._trials[number]
            rank, first = next(iter(record.exits.items()))
            reason = f"rank {record.alive[0].rank}: still busy {patience_s:g} s after rank {rank} {first.cause.value}"
            commands += [] if record.stopping else self._stop(record, Cause.ERROR, reason, 0.0)
        return commands

    def _attempt_ended(self, record: LiveTrial, ending: Ending, *, final: bool) -> list[AnyCommand]:
        retry = not (final or self._ending) and self._retry.wants(record, ending)
        ended = EndAttempt(trial=record.number, attempt=record.attempt, ending=ending, retry=retry)
        if retry:
            record.n_lost += ending.cause is Cause.LOST
            record.n_charged += ending.cause not in (Cause.LOST, Cause.PREEMPTED)
            record.begin_again()
            self._demand.first(record.number)
            return [ended]
        del self._trials[record.number]
        if ending.cause is Cause.STOPPED or (self._ending and ending.cause in (Cause.LOST, Cause.PREEMPTED)):
            if self._ending_for_good:
                over = Ending(cause=Cause.PRUNED, reason=ending.reason)
                return [ended, self._tell(record, over)]
            return [ended, Requeue(trial=record.number)]
        return [ended, self._tell(record, ending)]

    def _tell(self, record: LiveTrial, ending: Ending) -> Tell:
        self.standing.count(ending.cause, ending.values)
        return Tell(trial=record.number, attempt=record.attempt, ending=ending)

    def _stop(self, record: LiveTrial, cause: Cause, reason: str, grace_s: float) -> list[AnyCommand]:
        record.stopping = True
        return [stop_order(record, cause, reason, grace_s)]

    # --------------------------------------------------------------------------------- the whole search

    def _end(self, reason: str, exit_code: int, *, for_good: bool = False) -> list[AnyCommand]:
        """Start nothing new; ask what runs to stop at its next report."""
        if self._ending:
            return []
        self._ending = (reason, exit_code)
        self._ending_for_good = for_good
        commands: list[AnyCommand] = []
        for number in sorted(self._demand.waiting, reverse=True):  # the last one asked for can be withdrawn first
            record = self._trials.pop(number)
            commands += [release(record), put_back(number, record.attempt)]
        self._demand.waiting.clear()
        for record in self._trials.values():
            if not record.stopping:
                commands += self._stop(record, Cause.STOPPED, reason, self._grace_s)
        return commands

    def _kill(self, event: KillRequested) -> list[AnyCommand]:
        commands = self._end(event.reason, event.exit_code)
        self._ending = (event.reason, event.exit_code)
        self._ending_for_good = False
        for record in self._trials.values():
            commands += self._stop(record, Cause.STOPPED, event.reason, 0.0)
        return commands

    def _check_budgets(self, now: float) -> list[AnyCommand]:
        if self._ending:
            return []
        if self._workerless_since is not None and now - self._workerless_since > WORKERLESS_S:
            return self._end(f"too few workers for a trial for {WORKERLESS_S:.0f} s", 5)
        assert self._started_at is not None
        if spent := self.standing.spent(elapsed_s=now - self._started_at):
            return self._end(spent.reason, spent.exit_code, for_good=spent.for_good)
        return []

    def _acquires_and_asks(self) -> list[AnyCommand]:
        """Seats for ready trials; one more trial for each free gang, and some for those that are freed next."""
        hosts, demand = self._hosts, self._demand
        demand.avoid(hosts.shunned)
        n_running = len(self._trials) - len(demand.waiting)
        choosy = frozenset(number for number in demand.waiting if hosts.avoided_by(number) != hosts.shunned)
        seats: list[AnyCommand] = [
            Acquire(trial=number, attempt=self._trials[number].attempt, avoid=hosts.avoided_by(number))
            for number in demand.to_acquire(n_running, choosy)
        ]
        return seats + self._asks(*demand.counts(n_running=n_running, n_asked=self._n_asked, choosy=choosy))

    def _asks(self, n_needed: int, n_wanted: int) -> list[AnyCommand]:
        if self._exhausted or self._ending:
            return []
        if self._budgets.trials is not None:
            n_begun = self.standing.n_over + len(self._trials) + self._n_asked
            n_wanted = min(n_wanted, self._budgets.trials - n_begun)
        n_wanted = max(n_wanted, 0)
        self._n_asked += n_wanted
        return [Ask(ahead=n >= n_needed) for n in range(n_wanted)]

    def _finish(self) -> list[AnyCommand]:
        if self._trials or self._n_asked:
            return []
        if self._ending:
            reason, exit_code = self._ending
        elif self._exhausted:
            reason, exit_code = "the sampler has nothing left to propose", 0
        elif self._budgets.trials is not None and self.standing.n_over >= self._budgets.trials:
            reason, exit_code = f"all {self._budgets.trials} trials are done", 0
        else:
            return []
        if exit_code == 0 and not self.standing.n_complete:
            reason, exit_code = f"{reason}, but no trial succeeded", 3
        self._finished = True
        return [Finish(reason=reason, exit_code=exit_code)]
