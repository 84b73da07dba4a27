"""The state machine by example: events in, commands out, no clock."""

import re
from typing import Any

import pytest
from local_slots import LocalSlots

from hpsearch.budget import Budgets
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
    SearchExhausted,
    Seat,
    Seated,
    StopAttempt,
    Tell,
    Ticked,
    TrialReady,
    TrialStopRequested,
    Verdict,
    Warn,
    Withdraw,
    WorkerJoined,
    WorkerLost,
    WorkerPreempted,
)
from hpsearch.lifecycle import MAX_LOST, WORKERLESS_S, Lifecycle, RetryRules
from hpsearch.placement import RankRequest


class Study:
    """A lifecycle with a clock that the test moves, answering Ask with the next number."""

    def __init__(
        self, *, slots: int = 1, ranks: int = 1, retry: RetryRules | None = None, ask_ahead: int = 0, **budgets: Any
    ) -> None:
        self.now = 0.0
        self.n_trials = 0
        self.slots = LocalSlots(RankRequest(ranks=ranks))
        self.lifecycle = Lifecycle(
            self.slots.request, Budgets(**budgets), retry or RetryRules(), grace_s=10, ask_ahead=ask_ahead
        )
        self.n_slots = slots

    def do(self, event: AnyEvent) -> list[AnyCommand]:
        return self.slots.handle(self.lifecycle, event, self.now)

    def start(self) -> list[AnyCommand]:
        return self.do(WorkerJoined(worker="w", host="h", cpus=self.n_slots))

    def ready(self, trial: int, attempt: int = 1, *, next_step: int | None = None) -> list[AnyCommand]:
        return self.do(TrialReady(trial=trial, attempt=attempt, next_step=next_step))

    def found(self, trial: int) -> list[AnyCommand]:
        self.lifecycle.expect(1)
        return self.ready(trial, attempt=2)

    def exit(self, trial: int, cause: Cause = Cause.RETURNED, attempt: int = 1, rank: int = 0) -> list[AnyCommand]:
        values = (1.0,) if cause is Cause.RETURNED else ()
        ending = Ending(cause=cause, reason=cause.value, values=values)
        return self.do(RankExited(trial=trial, attempt=attempt, rank=rank, ending=ending))

    def report(self, trial: int, step: int, attempt: int = 1, rank: int = 0) -> list[AnyCommand]:
        return self.do(Reported(trial=trial, attempt=attempt, rank=rank, step=step, value=0.5))


def kinds(commands: list[AnyCommand]) -> list[type]:
    return [type(command) for command in commands]


def only(commands: list[AnyCommand], kind: type) -> Any:
    (found,) = (command for command in commands if isinstance(command, kind))
    return found


def test_asks_as_many_as_there_are_free_slots() -> None:
    study = Study(slots=3, trials=10)
    assert kinds(study.start()) == [Ask, Ask, Ask]
    assert study.do(Ticked()) == []


def test_never_asks_past_the_total() -> None:
    study = Study(slots=4, trials=2)
    assert len(study.start()) == 2


def test_one_trial_from_ask_to_finish() -> None:
    study = Study(trials=1)
    study.start()
    launch = only(study.ready(0), Launch)
    assert [seat.worker for seat in launch.seats] == ["w"]
    commands = study.exit(0)
    assert kinds(commands) == [EndAttempt, Tell, Finish]
    assert commands[-1] == Finish(reason="all 1 trials are done", exit_code=0)
    assert study.do(Ticked()) == []


def test_a_freed_slot_asks_at_once() -> None:
    study = Study(trials=5)
    study.start()
    study.ready(0)
    assert kinds(study.exit(0)) == [EndAttempt, Tell, Ask]


def test_judges_only_at_decision_steps_and_once_each() -> None:
    study = Study(trials=5)
    study.start()
    study.ready(0, next_step=3)
    assert kinds(study.report(0, 1)) == [Record]
    assert kinds(study.report(0, 3)) == [Record, Judge]
    assert study.report(0, 3) == []  # a repeated step changes nothing
    assert study.report(0, 2) == []
    deliver = only(
        study.do(Judged(trial=0, attempt=1, step=3, value=0.5, verdict=Verdict.CONTINUE, next_step=9)), Deliver
    )
    assert deliver.next_step == 9
    assert kinds(study.report(0, 8)) == [Record]
    assert kinds(study.report(0, 10)) == [Record, Judge]


def test_only_rank_0_speaks_for_the_gang() -> None:
    study = Study(slots=2, ranks=2, trials=1)
    study.start()
    study.ready(0, next_step=0)
    assert study.report(0, 1, rank=1) == []
    assert kinds(study.report(0, 1)) == [Record, Judge]


def test_stale_words_change_nothing() -> None:
    study = Study(trials=5, retry=RetryRules(on=frozenset({"lost"})))
    study.start()
    study.ready(0)
    study.exit(0, Cause.LOST)
    assert study.lifecycle.is_current(0, 2)
    assert study.report(0, 1, attempt=1) == []
    assert study.exit(0, Cause.ERROR, attempt=1) == []
    assert study.do(Judged(trial=0, attempt=1, step=1, value=0, verdict=Verdict.PRUNE, next_step=None)) == []


def test_a_lost_attempt_goes_on_as_the_next_attempt_and_is_not_charged() -> None:
    study = Study(trials=1, retry=RetryRules(max=0, on=frozenset({"lost"}), exclude_host_after=0))
    study.start()
    study.ready(0)
    for attempt in range(1, MAX_LOST + 1):
        commands = study.exit(0, Cause.LOST, attempt=attempt)
        assert kinds(commands) == [EndAttempt, Launch]
        assert only(commands, EndAttempt).retry
        assert only(commands, Launch).attempt == attempt + 1
    commands = study.exit(0, Cause.LOST, attempt=MAX_LOST + 1)
    assert kinds(commands) == [EndAttempt, Tell, Finish]
    assert commands[-1].exit_code == 3


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        (Cause.ERROR, "error"),
        (Cause.EXIT, "error"),
        (Cause.SIGNAL, "error"),
        (Cause.BAD_RESULT, "error"),
        (Cause.TIMEOUT, "timeout"),
        (Cause.STALLED, "timeout"),
        (Cause.OOM, "oom"),
    ],
)
def test_the_jobs_own_faults_are_retried_as_asked_and_charged(cause: Cause, word: str) -> None:
    study = Study(trials=2, retry=RetryRules(max=1, on=frozenset({word})))
    study.start()
    study.ready(0)
    assert only(study.exit(0, cause), EndAttempt).retry
    assert Tell in kinds(study.exit(0, cause, attempt=2))
    never = Study(trials=2, retry=RetryRules(max=1, on=frozenset()))
    never.start()
    never.ready(0)
    assert Tell in kinds(never.exit(0, cause))


def test_earlier_runs_count_against_the_retries() -> None:
    study = Study(trials=1, retry=RetryRules(max=1, on=frozenset({"error"})))
    study.start()
    study.lifecycle.expect(1)
    study.do(TrialReady(trial=0, attempt=2, n_charged=1))
    assert Tell in kinds(study.exit(0, Cause.ERROR, attempt=2))


def test_a_lost_worker_loses_its_attempts_and_no_others() -> None:
    study = Study(trials=2)
    study.do(WorkerJoined(worker="a", host="h", cpus=1))
    study.do(WorkerJoined(worker="b", host="h", cpus=1))
    launches = [only(study.ready(number), Launch) for number in (0, 1)]
    victim = next(launch for launch in launches if launch.seats[0].worker == "a")
    commands = study.do(WorkerLost(worker="a", reason="gone"))
    assert kinds(commands) == [EndAttempt]
    assert commands[0] == EndAttempt(
        trial=victim.trial, attempt=1, ending=Ending(cause=Cause.LOST, reason="gone"), retry=True
    )
    launch = only(study.do(WorkerJoined(worker="c", host="h", cpus=1)), Launch)
    assert (launch.trial, launch.attempt, launch.seats[0].worker) == (victim.trial, 2, "c")


def test_a_rank_that_fails_takes_the_gang_down_and_its_reason_stands() -> None:
    study = Study(slots=2, ranks=2, trials=1)
    study.start()
    study.ready(0)
    stop = only(study.exit(0, Cause.ERROR, rank=1), StopAttempt)
    assert [seat.rank for seat in stop.seats] == [0]
    commands = study.exit(0, Cause.RETURNED, rank=0)
    assert only(commands, Tell).ending.cause is Cause.ERROR


def test_ranks_that_return_wait_for_each_other_and_rank_0_speaks() -> None:
    study = Study(slots=2, ranks=2, trials=1)
    study.start()
    study.ready(0)
    assert study.exit(0, rank=1) == []
    assert kinds(study.exit(0, rank=0)) == [EndAttempt, Tell, Finish]


def test_workers_that_join_before_the_leftovers_are_ready_ask_for_no_more_than_the_rest() -> None:
    study = Study(slots=4, trials=3)
    study.lifecycle.expect(2)
    assert kinds(study.start()) == [Ask]
    assert kinds(study.ready(0, attempt=2)) == [Launch]
    assert kinds(study.ready(1, attempt=2)) == [Launch]
    assert kinds(study.ready(2)) == [Launch]


def test_a_search_whose_budget_is_spent_on_leftovers_waits_for_them() -> None:
    study = Study(slots=2, trials=1)
    study.lifecycle.expect(1)
    assert study.start() == []
    assert kinds(study.ready(0, attempt=2)) == [Launch]
    assert kinds(study.exit(0, attempt=2)) == [EndAttempt, Tell, Finish]


def test_drain_stops_what_runs_and_requeues_what_waits() -> None:
    study = Study(slots=2, trials=9)
    study.start()
    study.ready(0)
    study.found(7)
    study.found(8)  # no slot free: it waits
    commands = study.do(DrainRequested(reason="interrupted", exit_code=130))
    assert kinds(commands) == [Requeue, StopAttempt, StopAttempt]
    assert study.do(DrainRequested(reason="again", exit_code=130)) == []
    assert kinds(study.ready(1)) == [Withdraw]  # asked before, arrived too late
    assert kinds(study.exit(0, Cause.STOPPED)) == [EndAttempt, Requeue]
    assert kinds(study.exit(7, Cause.RETURNED, attempt=2)) == [EndAttempt, Tell, Finish]


def test_kill_after_drain_stops_again_without_grace() -> None:
    study = Study(trials=9)
    study.start()
    study.ready(0)
    study.do(DrainRequested(reason="interrupted", exit_code=130))
    stop = only(study.do(KillRequested(reason="twice", exit_code=130)), StopAttempt)
    assert stop.grace_s == 0
    commands = study.exit(0, Cause.STOPPED)
    assert commands[-1] == Finish(reason="twice", exit_code=130)


def test_the_target_prunes_what_runs() -> None:
    study = Study(slots=2, trials=9, target=2.0)
    study.start()
    study.ready(0)
    study.ready(1)
    assert StopAttempt in kinds(study.exit(0))
    commands = study.exit(1, Cause.STOPPED)
    assert only(commands, Tell).ending.cause is Cause.PRUNED
    assert commands[-1] == Finish(reason="target 2 reached: 1", exit_code=0)


def test_time_drains() -> None:
    study = Study(trials=9, time_s=60)
    study.start()
    study.ready(0)
    study.now = 60
    assert kinds(study.do(Ticked())) == [StopAttempt]
    assert kinds(study.exit(0, Cause.STOPPED)) == [EndAttempt, Requeue, Finish]


def test_five_failures_in_the_beginning_end_with_exit_code_4() -> None:
    study = Study(trials=60)
    study.start()
    for number in range(5):
        study.ready(number)
        commands = study.exit(number, Cause.ERROR)
    assert commands[-1] == Finish(reason="the first 5 trials all failed", exit_code=4)


def test_an_exhausted_sampler_ends_the_search() -> None:
    study = Study(slots=2, trials=9)
    study.start()
    study.ready(0)
    assert study.do(SearchExhausted()) == []
    assert kinds(study.exit(0)) == [EndAttempt, Tell, Finish]


def test_a_person_stops_a_running_and_a_waiting_trial() -> None:
    study = Study(trials=9)
    study.start()
    study.ready(0)
    study.found(5)
    assert only(study.do(TrialStopRequested(trial=0)), StopAttempt).cause is Cause.CANCELLED
    assert only(study.do(TrialStopRequested(trial=5)), Tell).ending.cause is Cause.CANCELLED
    assert study.do(TrialStopRequested(trial=99)) == []
    assert not only(study.exit(0, Cause.CANCELLED), EndAttempt).retry


def test_without_any_worker_for_long_it_gives_up() -> None:
    study = Study(trials=9)
    assert study.do(Ticked()) == []
    study.now = WORKERLESS_S + 1
    assert study.do(Ticked()) == [Finish(reason=f"too few workers for a trial for {WORKERLESS_S:.0f} s", exit_code=5)]


def test_a_prune_says_whose_choice_it_was() -> None:
    study = Study(slots=2, trials=9)
    study.start()
    study.ready(0, next_step=1)
    study.ready(1)
    study.report(0, 1)
    judged = Judged(trial=0, attempt=1, step=1, value=0.5, verdict=Verdict.PRUNE, next_step=3, reason="asha at step 1")
    study.do(judged)
    assert only(study.exit(0, Cause.PRUNED), Tell).ending.reason == "asha at step 1"
    assert only(study.exit(1, Cause.PRUNED), Tell).ending.reason == "by the objective itself"


def test_a_worker_too_small_for_a_trial_does_not_stop_the_clock() -> None:
    study = Study(trials=9)
    study.start()
    study.do(WorkerLost(worker="w", reason="gone"))
    study.now = WORKERLESS_S
    study.do(WorkerJoined(worker="tiny", host="h", cpus=0))
    study.do(WorkerLost(worker="tiny", reason="gone"))
    study.now = WORKERLESS_S + 1
    study.do(SearchExhausted())  # the answer to what was asked before
    study.do(Ticked())
    assert "too few workers" in study.lifecycle.draining


def test_a_gang_that_no_longer_fits_ends_the_search() -> None:
    study = Study(slots=2, ranks=2, trials=9)
    study.start()
    study.ready(0)
    study.do(WorkerJoined(worker="half", host="h", cpus=1))
    study.do(WorkerLost(worker="w", reason="gone"))
    study.now = WORKERLESS_S + 1
    assert Requeue in kinds(study.do(Ticked()))


def asks(commands: list[AnyCommand]) -> list[bool]:
    return [command.ahead for command in commands if isinstance(command, Ask)]


def test_trials_are_asked_for_ahead_of_the_slots_and_never_past_the_depth_or_the_budget():
    study = Study(slots=2, ask_ahead=3, trials=6)
    assert asks(study.start()) == [False, False, True, True, True]
    for number in range(5):
        study.ready(number)
    assert asks(study.do(Ticked())) == []  # two run, three wait
    freed = study.exit(0, Cause.RETURNED)
    assert [command.trial for command in freed if isinstance(command, Launch)] == [2]  # at once, from what is ready
    assert asks(freed) == [True]  # the sixth is the last of the budget
    assert asks(study.exit(1, Cause.RETURNED)) == []


def test_nothing_is_asked_ahead_of_a_cluster_that_holds_no_gang():
    study = Study(slots=1, ranks=2, ask_ahead=3)
    assert asks(study.start()) == []


def test_what_was_asked_ahead_is_withdrawn_when_the_search_ends():
    study = Study(slots=1, ask_ahead=1, target=1.0, goal="maximize")
    study.start()
    study.ready(0)
    study.ready(1)
    commands = study.exit(0, Cause.RETURNED)
    assert [command.trial for command in commands if isinstance(command, Withdraw)] == [1]
    assert commands[-1] == Finish(reason="target 1 reached: 1", exit_code=0)


# -------------------------------------------------------------------------------- hosts, logs and notices


def warnings(commands: list[AnyCommand]) -> list[str]:
    return [command.message for command in commands if isinstance(command, Warn)]


def hosts(study: Study, *names: str, cpus: int = 1) -> None:
    for name in names:
        study.do(WorkerJoined(worker=f"w-{name}", host=name, cpus=cpus))


def test_a_trial_avoids_a_host_that_lost_it_twice() -> None:
    study = Study(trials=1, retry=RetryRules(exclude_host_after=2))
    hosts(study, "a")
    assert only(study.ready(0), Launch).seats[0].host == "a"
    hosts(study, "b")
    first = study.exit(0, Cause.LOST)
    assert warnings(first) == []
    assert only(first, Launch).seats[0].host == "a"
    second = study.exit(0, Cause.LOST, attempt=2)
    assert warnings(second) == ["trial 0 avoids host a from now on"]
    assert only(second, Launch).seats[0].host == "b"


def test_where_there_is_no_other_host_it_goes_back_and_that_is_said_once() -> None:
    study = Study(trials=1, retry=RetryRules(exclude_host_after=1))
    hosts(study, "a")
    study.ready(0)
    commands = study.exit(0, Cause.LOST)
    assert warnings(commands) == [
        "trial 0 avoids host a from now on",
        "trial 0 goes to a all the same: no other host could hold it",
    ]
    assert only(commands, Launch).seats[0].host == "a"
    assert warnings(study.exit(0, Cause.LOST, attempt=2)) == []


def test_a_trial_that_avoids_a_host_waits_for_another_and_lets_others_pass() -> None:
    study = Study(trials=3, retry=RetryRules(exclude_host_after=1))
    hosts(study, "a")
    study.ready(0)
    hosts(study, "b")
    assert only(study.ready(1), Launch).seats[0].host == "b"
    commands = study.exit(0, Cause.LOST)
    assert Launch not in kinds(commands)
    assert kinds(commands)[-1] is Ask  # for the slot that it leaves
    assert only(study.ready(2), Launch).seats[0].host == "a"
    launch = only(study.exit(1), Launch)
    assert (launch.trial, launch.seats[0].host) == (0, "b")


def test_the_study_avoids_a_host_that_loses_several_trials() -> None:
    study = Study(trials=9, retry=RetryRules(exclude_host_after=1))
    hosts(study, "a", cpus=2)
    study.ready(0)
    study.ready(1)
    hosts(study, "b")
    study.exit(0, Cause.LOST)
    commands = study.exit(1, Cause.LOST)
    assert warnings(commands) == ["host a is avoided from now on: 2 trials were lost there"]
    assert Ask not in kinds(commands)
    launch = only(study.do(WorkerJoined(worker="w2-b", host="b", cpus=1)), Launch)
    assert launch.seats[0].host == "b"
    assert all(isinstance(c, Ask) is False for c in study.do(Ticked()))  # nobody is asked for what stays empty


def failed(study: Study, trial: int, said: str, attempt: int = 1) -> list[AnyCommand]:
    ending = Ending(cause=Cause.ERROR, reason="it went wrong", log_tail=f"line\n{said}\n")
    return study.do(RankExited(trial=trial, attempt=attempt, rank=0, ending=ending))


POLICIES = ((re.compile("ValueError: bad"), "dont_retry"), (re.compile(r"^CUDA error: .*ECC"), "exclude_host"))


def test_what_the_log_says_can_forbid_a_retry() -> None:
    study = Study(trials=1, retry=RetryRules(max=5, on=frozenset({"error"}), policies=POLICIES))
    study.start()
    study.ready(0)
    assert only(failed(study, 0, "something else"), EndAttempt).retry
    ended = failed(study, 0, "ValueError: bad config", attempt=2)
    assert not only(ended, EndAttempt).retry
    assert only(ended, Tell).ending.cause is Cause.ERROR


@pytest.mark.timeout(20)
def test_a_long_line_does_not_hold_up_the_study() -> None:
    policies = ((re.compile(r"\s+\s+X"), "dont_retry"), (re.compile("ValueError: bad"), "exclude_host"))
    study = Study(trials=1, retry=RetryRules(max=5, on=frozenset({"error"}), policies=policies))
    study.start()
    study.ready(0)
    assert only(failed(study, 0, "ValueError: bad" + " " * 60_000 + "!"), EndAttempt).ending.cause is Cause.LOST


def test_what_the_log_says_can_be_the_hosts_fault() -> None:
    study = Study(trials=1, retry=RetryRules(max=0, policies=POLICIES))
    hosts(study, "a")
    study.ready(0)
    hosts(study, "b")
    commands = failed(study, 0, "CUDA error: uncorrectable ECC error encountered")
    ended = only(commands, EndAttempt)
    assert ended.retry
    assert ended.ending.cause is Cause.LOST
    assert ended.ending.reason == "it went wrong (the log says '^CUDA error: .*ECC')"
    assert only(commands, Launch).seats[0].host == "b"


def test_a_worker_that_is_told_to_go_gets_nothing_more_and_its_trials_go_elsewhere() -> None:
    study = Study(trials=2, retry=RetryRules(max=0, on=frozenset()))
    hosts(study, "a")
    study.ready(0)
    commands = study.do(WorkerPreempted(worker="w-a", reason="its worker was told to go"))
    stop = only(commands, StopAttempt)
    assert (stop.cause, stop.grace_s) == (Cause.PREEMPTED, 10)
    ended = study.exit(0, Cause.PREEMPTED)
    assert only(ended, EndAttempt).retry
    assert kinds(ended) == [EndAttempt]  # no slot is left: it waits
    hosts_joined = study.do(WorkerJoined(worker="w-b", host="b", cpus=1))
    launch = only(hosts_joined, Launch)
    assert (launch.attempt, launch.seats[0].host) == (2, "b")


def test_a_worker_that_was_told_to_go_and_went_too_early_is_no_loss() -> None:
    study = Study(trials=1, retry=RetryRules(exclude_host_after=1))
    hosts(study, "a")
    study.ready(0)
    study.do(WorkerPreempted(worker="w-a", reason="told to go"))
    commands = study.do(WorkerLost(worker="w-a", reason="gone"))
    assert only(commands, EndAttempt).ending.cause is Cause.PREEMPTED
    assert warnings(commands) == []


def test_a_preempted_trial_of_a_search_that_ends_stays_resumable() -> None:
    study = Study(trials=1)
    study.start()
    study.ready(0)
    study.do(WorkerPreempted(worker="w", reason="told to go"))
    study.do(DrainRequested(reason="interrupted", exit_code=130))
    assert Requeue(trial=0) in study.exit(0, Cause.PREEMPTED)


# ---------------------------------------------------------------------------------------------- gangs

GLOO = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"


def gang(ranks: int = 2, retry: RetryRules | None = None) -> Study:
    study = Study(slots=ranks, ranks=ranks, retry=retry, trials=9)
    study.start()
    study.ready(0)
    return study


def ended(study: Study, *ends: tuple[int, Cause, str]) -> EndAttempt:
    """The end of the attempt after these ends of ranks, in the order in which they were heard of."""
    for rank, cause, reason in ends:
        values = (float(rank),) if cause is Cause.RETURNED else ()
        ending = Ending(cause=cause, reason=reason, values=values)
        commands = study.do(RankExited(trial=0, attempt=1, rank=rank, ending=ending))
    return only(commands, EndAttempt)


@pytest.mark.parametrize(
    ("ends", "cause", "reason"),
    [
        ([(1, Cause.ERROR, GLOO), (0, Cause.SIGNAL, "SIGKILL")], Cause.SIGNAL, "rank 0: SIGKILL"),
        ([(1, Cause.ERROR, GLOO), (0, Cause.LOST, "worker gone")], Cause.LOST, "rank 0: worker gone"),
        ([(1, Cause.ERROR, "ValueError: x"), (0, Cause.ERROR, "rank 1: x")], Cause.ERROR, "rank 1: ValueError: x"),
        ([(1, Cause.OOM, "out of memory"), (0, Cause.ERROR, GLOO)], Cause.OOM, "rank 1: out of memory"),
        ([(0, Cause.PRUNED, "pruned"), (1, Cause.ERROR, GLOO)], Cause.ERROR, f"rank 1: {GLOO}"),
        ([(0, Cause.STOPPED, "drained"), (1, Cause.ERROR, GLOO)], Cause.STOPPED, "drained"),
        ([(1, Cause.STOPPED, "drained"), (0, Cause.RETURNED, "")], Cause.RETURNED, ""),
        ([(1, Cause.RETURNED, ""), (0, Cause.RETURNED, "")], Cause.RETURNED, ""),
        ([(1, Cause.PRUNED, "pruned"), (0, Cause.PRUNED, "pruned")], Cause.PRUNED, "by the objective itself"),
    ],
)
def test_what_struck_the_gang_first_counts_and_not_what_that_did_to_the_others(
    ends: list[tuple[int, Cause, str]], cause: Cause, reason: str
) -> None:
    ending = ended(gang(), *ends).ending
    assert (ending.cause, ending.reason) == (cause, reason)
    assert ending.values == ((0.0,) if cause is Cause.RETURNED else ())  # rank 0's


def test_ranks_that_stay_behind_are_ended_after_the_grace_time() -> None:
    study = gang(3)
    study.exit(0, Cause.PRUNED, rank=0)
    study.now = 10.0
    assert study.do(Ticked()) == []
    study.now = 10.1
    stop = only(study.do(Ticked()), StopAttempt)
    assert [seat.rank for seat in stop.seats] == [1, 2]
    assert stop.reason == "rank 1: still busy 10 s after rank 0 pruned"
    assert stop.grace_s == 0
    assert study.do(Ticked()) == []  # once


def test_a_retried_gang_waits_for_its_seats_like_everybody() -> None:
    study = gang(retry=RetryRules(max=1, on=frozenset({"lost"})))
    ended(study, (0, Cause.LOST, "gone"), (1, Cause.LOST, "rank 0: gone"))
    assert study.lifecycle.is_current(0, 2)
    assert len(study.lifecycle.seats(0)) == 2


def test_seats_for_a_trial_that_was_stopped_meanwhile_are_given_back() -> None:
    lifecycle = Lifecycle(RankRequest(), Budgets(trials=1), RetryRules())
    lifecycle.handle(WorkerJoined(worker="w", host="h", cpus=1), now=0)
    lifecycle.handle(TrialReady(trial=0, attempt=1), now=0)
    commands = lifecycle.handle(TrialStopRequested(trial=0), now=0)
    assert kinds(commands)[:2] == [Release, Tell]
    seat = Seat(worker="w", host="h", slot=0, rank=0, local_rank=0)
    late = Lifecycle(RankRequest(), Budgets(trials=1), RetryRules())
    assert late.handle(Seated(trial=0, attempt=1, seats=(seat,)), now=0) == [Release(trial=0, attempt=1)]


def test_on_slots_that_others_hold_one_trial_at_a_time_finds_out_whether_that_has_changed() -> None:
    lifecycle = Lifecycle(RankRequest(), Budgets(trials=20), RetryRules())
    seat = Seat(worker="w", host="h", slot=0, rank=0, local_rank=0)

    def do(event: AnyEvent) -> list[type]:
        return kinds(lifecycle.handle(event, now=0))

    assert do(WorkerJoined(worker="w", host="h", cpus=3)) == [Ask] * 3
    for trial in range(3):
        assert do(TrialReady(trial=trial, attempt=1)) == [Acquire]
    assert do(Seated(trial=0, attempt=1, seats=(seat,))) == [Launch]
    assert do(Queued(trial=1, attempt=1)) == do(Queued(trial=2, attempt=1)) == []
    assert do(Seated(trial=1, attempt=1, seats=(seat,))) == [Launch]
    returned = Ending(cause=Cause.RETURNED, reason="", values=(1.0,))
    assert do(RankExited(trial=1, attempt=1, rank=0, ending=returned)) == [Release, EndAttempt, Tell]  # 2 waits
    assert do(Seated(trial=2, attempt=1, seats=(seat,))) == [Launch, Ask]  # one to find out
    assert do(TrialReady(trial=3, attempt=1)) == [Acquire]
    assert do(Seated(trial=3, attempt=1, seats=(seat,))) == [Launch]
    assert do(RankExited(trial=3, attempt=1, rank=0, ending=returned)) == [Release, EndAttempt, Tell, Ask]


def test_who_proposes_far_ahead_has_one_request_in_the_queue_like_everybody() -> None:
    lifecycle = Lifecycle(RankRequest(), Budgets(trials=20), RetryRules(), ask_ahead=8)
    seat = Seat(worker="w", host="h", slot=0, rank=0, local_rank=0)

    def do(event: AnyEvent) -> list[int]:
        return [command.trial for command in lifecycle.handle(event, now=0) if isinstance(command, Acquire)]

    do(WorkerJoined(worker="w", host="h", cpus=1))
    assert do(TrialReady(trial=0, attempt=1)) == [0]
    assert do(Seated(trial=0, attempt=1, seats=(seat,))) == []
    assert do(TrialReady(trial=1, attempt=1)) == [1]
    assert [do(TrialReady(trial=trial, attempt=1)) for trial in range(2, 9)] == [[]] * 7
    assert do(Queued(trial=1, attempt=1)) == []
    ending = Ending(cause=Cause.RETURNED, reason="", values=(1.0,))
    assert do(RankExited(trial=0, attempt=1, rank=0, ending=ending)) == []
    assert do(Seated(trial=1, attempt=1, seats=(seat,))) == [2]


def test_a_gang_is_stopped_at_a_step_that_no_rank_has_reached() -> None:
    study = gang()
    early = only(study.do(DrainRequested(reason="interrupted", exit_code=130)), StopAttempt)
    assert early.after_step is None  # nobody has reported: nothing is agreed on yet
    study = gang()
    study.report(0, 4)
    drained = only(study.do(DrainRequested(reason="interrupted", exit_code=130)), StopAttempt)
    assert drained.after_step == 5
    killed = only(study.do(KillRequested(reason="twice", exit_code=130)), StopAttempt)
    assert killed.after_step is None
    alone = Study(trials=1)
    alone.start()
    alone.ready(0)
    alone.report(0, 4)
    assert only(alone.do(DrainRequested(reason="interrupted", exit_code=130)), StopAttempt).after_step is None
