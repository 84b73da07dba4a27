"""The coordinator: event in, lifecycle, commands out. The only writer of the study."""

import time
from collections.abc import Callable, Set
from functools import partial
from typing import Any, assert_never

from optuna.trial import FrozenTrial

from hpsearch.coordinator import facts
from hpsearch.coordinator.afterwards import AfterCommit, Patience
from hpsearch.coordinator.announcer import Announcer
from hpsearch.coordinator.attempts import Attempts
from hpsearch.coordinator.housekeeper import Housekeeper
from hpsearch.coordinator.inbound import Adopted, Committed, DatabaseAway, Inbound, Incoming, Warned, WritesFailed
from hpsearch.coordinator.leases import Leases
from hpsearch.coordinator.lines import Lines
from hpsearch.coordinator.link import Arrived, Link, TaskDone
from hpsearch.coordinator.orders import Orders
from hpsearch.coordinator.proposals import Proposal, Proposals, as_ended
from hpsearch.coordinator.services import Services
from hpsearch.errors import HpsearchError
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
    RankExited,
    RankStarted,
    Record,
    Release,
    Requeue,
    SearchExhausted,
    StopAttempt,
    Tell,
    Ticked,
    TrialReady,
    TrialStopRequested,
    Warn,
    Withdraw,
    WorkerLost,
    WorkerPreempted,
)
from hpsearch.lifecycle import Lifecycle
from hpsearch.placement import RankRequest
from hpsearch.storage import Request, StudyStore
from hpsearch.supervisor.plugin import RankKey
from hpsearch.supervisor.task import ending_from_message

TICK_S = 0.5


class Coordinator:
    """Runs one study to its end.

    Args:
        store: open; its callbacks put :class:`Committed` and :class:`WritesFailed` into ``inbound``.
        lifecycle: decides.
        link: carries.
        request: the shape of every gang.
        orders: writes what a rank is given.
        inbound: where everything arrives.
        announcer: tells the world.
        housekeeper: holds the checkpoints to a quota, if there is one; the caller closes it.
    """

    def __init__(
        self,
        *,
        store: StudyStore,
        proposals: Proposals,
        lifecycle: Lifecycle,
        link: Link,
        request: RankRequest,
        orders: Orders,
        inbound: Inbound,
        announcer: Announcer,
        housekeeper: Housekeeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._proposals = proposals
        self._lifecycle = lifecycle
        self._link = link
        self._orders = orders
        self._inbound = inbound
        self._announcer = announcer
        self._housekeeper = housekeeper
        self._clock = clock
        self._services = Services(proposals, announcer)
        self._attempts = Attempts(store, announcer, lifecycle.standing)
        self._ready: dict[int, Proposal] = {}  # asked or found, and not over
        self._lines = Lines(link, clock)  # to ranks that run
        self._leases = Leases(link, clock, request)
        self._after_commit = AfterCommit(store.ticket, lambda ticket: inbound.put(Committed(ticket=ticket)))
        self._n_ahead = 0  # trials to ask for when nothing else is to be done
        self._patience = Patience()
        self._said_draining = False
        self._finish: Finish | None = None
        self._error: HpsearchError | None = None

    def run(self) -> Finish:
        """Until the search is over and everything is told.

        Raises:
            StorageFailed: the storage refused a write for good; what ran was stopped.
            StudyHeld: another coordinator has taken the study over.
            ComponentFailed: the sampler or the pruner raised.
        """
        leftovers = list(self._proposals.leftovers())
        self._attempts.close_orphans([proposal.number for proposal in leftovers])
        self._lifecycle.expect(len(leftovers))
        for proposal in leftovers:
            self._when_ready(proposal)
        self._keep_house(self._proposals.finished() | {proposal.number for proposal in leftovers})
        self._feed(Ticked())
        ticked = self._clock()
        while self._finish is None:
            if self._n_ahead and self._inbound.is_idle:
                self._ask_ahead()
                continue
            self._take(self._inbound.get(TICK_S))
            if self._clock() - ticked >= TICK_S:  # however much arrives
                ticked = self._clock()
                self._take(Ticked())
                self._ask_ahead()
        if self._error is not None:
            raise self._error
        return self._finish

    # ------------------------------------------------------------------------------------- incoming

    def _take(self, incoming: Incoming) -> None:
        match incoming:
            case Arrived():
                self._arrived(incoming.body)
            case TaskDone():
                self._task_done(incoming)
            case Committed():
                self._after_commit.committed(incoming.ticket)
            case WritesFailed():
                self._error = incoming.error
                self._finish = Finish(reason=str(incoming.error), exit_code=1)
            case Warned():
                self._announcer.say("study.warning", message=incoming.message)
            case DatabaseAway():
                self._announcer.say_database(incoming.reason)
            case Adopted():
                self._adopted(incoming.trial)
            case Request():
                self._requested(incoming)
            case KillRequested():
                self._patience.kill(self._clock())
                self._feed(incoming)
            case Ticked():
                self._check_link()
                self._lines.repeat()
                self._leases.repeat()
                self._feed(incoming)
                if self._finish is None:
                    self._finish = self._patience.over(self._clock())
            case _:
                self._feed(incoming)

    def _check_link(self) -> None:
        """Without the scheduler nothing can be started or heard; what ran there ends by itself and is resumable."""
        if not self._link.connected:
            self._feed(DrainRequested(reason="the connection to the Dask scheduler is gone", exit_code=5))

    def _adopted(self, trial: FrozenTrial) -> None:
        """Another program's trial: one that waits is asked for like any other, one that is over counts as such."""
        self._announcer.say("trial.adopted", trial=trial.number, state=trial.state.name.lower())
        if ended := as_ended(trial):
            self._lifecycle.standing.count(*ended)
        self._feed(Ticked())

    def _feed(self, event: AnyEvent) -> None:
        commands = self._lifecycle.handle(event, now=self._clock())
        if self._lifecycle.draining and not self._said_draining:
            self._said_draining = True
            self._announcer.say("study.draining", reason=self._lifecycle.draining)
        with self._store.together():  # the end of an attempt and that of its trial are one
            for command in commands:
                if not isinstance(command, Ask):
                    self._execute(command)
        for command in commands:
            if isinstance(command, Ask):  # a sampler may take its time
                self._execute(command)

    def _arrived(self, body: dict[str, Any]) -> None:
        match body["op"]:
            case "joined":
                self._worker_joined(body)
            case "seated" | "queued":
                if body["op"] == "seated":
                    self._leases.seated(body["trial"], body["attempt"])
                self._feed(facts.seats_answer(body))
            case "worker-lost":
                self._worker_lost(body["worker"])
            case "preempted":
                self._announcer.say("worker.preempted", worker=body["worker"], reason=body["reason"])
                self._feed(WorkerPreempted(worker=body["worker"], reason=body["reason"]))
            case "heard":
                self._lines.heard((body["trial"], body["attempt"], body["rank"]), body["through"])
            case _:
                key = (body["trial"], body["attempt"], body["rank"])
                # Nothing is lost by turning a deaf ear: what is not acknowledged is said again.
                if not self._store.is_full and self._lines.take(key, body):  # else: of a gang that is gone, or known
                    self._heard(key, body)

    def _worker_joined(self, body: dict[str, Any]) -> None:
        event = facts.worker_joined(body)
        self._feed(event)
        self._announcer.say("worker.joined", **facts.words_of(event, self._lifecycle.n_slots_of(event.worker)))

    def _worker_lost(self, worker: str) -> None:
        self._announcer.say("worker.lost", worker=worker, reason="its connection is gone")
        for key in self._lines.on(worker):
            self._link.abort(key)
        self._feed(WorkerLost(worker=worker, reason=f"worker {worker} is gone"))

    def _task_done(self, done: TaskDone) -> None:
        if done.key not in self._lines:
            self._link.forget(done.key)
            return  # its end came by the faster way
        self._check_link()
        if done.status == "finished":
            if done.words is None:
                self._link.fetch_last_words(done.key)
                return
            for body in self._lines.sift(done.key, done.words):
                self._heard(done.key, body)
        if done.key in self._lines:
            self._rank_exited(done.key, Ending(cause=Cause.LOST, reason=f"its supervisor is gone ({done.status})"))

    def _requested(self, request: Request) -> None:
        match request.kind:
            case "stop":
                self._feed(DrainRequested(reason="stopped by `hpsearch stop`", exit_code=130))
            case "stop_trial":
                self._feed(TrialStopRequested(trial=int(request.arguments["trial"])))
            case _:
                self._announcer.say("study.warning", message=f"unknown request {request.kind!r} ignored")

    # ------------------------------------------------------------------------------------ from a rank

    def _heard(self, key: RankKey, body: dict[str, Any]) -> None:
        trial, attempt, rank = key
        match body["op"]:
            case "ready":
                self._feed(RankStarted(trial=trial, attempt=attempt, rank=rank))
                self._attempts.started(trial, attempt, rank, body["pid"], self._ready[trial].params)
            case "report":
                self._feed(facts.reported(key, body))
            case "exited":
                self._rank_exited(key, ending_from_message(body["ending"]))
            case "suggest" | "user_attr" | "constraint":
                if (answer := self._services.serve(trial, body)) is not None:
                    self._lines.send(key, answer)
            case "resumed":
                self._attempts.resumed(trial, attempt, body["step"], body["path"])
            case "rendezvous":
                for peer in self._lines.of(trial, attempt):
                    if peer != key:
                        self._lines.send(peer, {"op": "rendezvous", "port": body["port"]})
            case "saved":
                self._attempts.saved(trial, body["step"])
                self._keep_house({trial})
        if key in self._lines:  # the sender may forget what it said, once that is committed
            self._after_commit.do(partial(self._lines.acknowledge, key, self._lines.received(key)))

    def _keep_house(self, trials: Set[int]) -> None:
        if self._housekeeper is not None:
            best = self._proposals.best
            self._housekeeper.look(set(trials), self._proposals.finished(), best.number if best else None)

    def _rank_exited(self, key: RankKey, ending: Ending) -> None:
        trial, attempt, rank = key
        self._lines.close(key)
        self._feed(RankExited(trial=trial, attempt=attempt, rank=rank, ending=ending))

    # ------------------------------------------------------------------------------------- commands

    def _execute(self, command: AnyCommand) -> None:
        match command:
            case Ask():
                if command.ahead:
                    self._n_ahead += 1
                else:
                    self._ask()
            case Acquire():
                self._leases.acquire(command.trial, command.attempt, command.avoid)
            case Release():
                self._leases.release(command.trial, command.attempt)
            case Launch():
                self._launch(command)
            case Record():
                self._proposals.report(command.trial, command.step, command.value)
                self._attempts.reported(command)
            case Judge():
                self._judge(command)
            case Deliver() | StopAttempt():
                for seat in command.seats:
                    self._lines.send((command.trial, command.attempt, seat.rank), facts.order(command))
            case EndAttempt():
                self._end_attempt(command)
            case Tell():
                self._tell(command)
            case Requeue():
                self._ready.pop(command.trial, None)
                self._proposals.requeue(command.trial)
            case Withdraw():
                self._ready.pop(command.trial, None)
                self._proposals.withdraw(command.trial)
            case Warn():
                self._announcer.say("study.warning", message=command.message)
            case Finish():
                self._patience.finishing(command, self._clock())
                self._after_commit.do(partial(setattr, self, "_finish", command))
            case _:
                assert_never(command)

    @property
    def killed(self) -> bool:
        """Whether somebody wants out at once."""
        return self._patience.killed

    def _ask_ahead(self) -> None:
        """Let the sampler think while workers train: one trial, for a slot that is not free yet."""
        if self._n_ahead:
            self._n_ahead -= 1
            self._ask()

    def _ask(self) -> None:
        if self._proposals.exhausted or self._lifecycle.draining:  # nobody waits for a sampler in order to leave
            # Answered by way of the queue: the lifecycle is still in the middle of its own answer.
            self._inbound.put(SearchExhausted())
            return
        self._when_ready(self._proposals.ask())

    def _when_ready(self, proposal: Proposal) -> None:
        history = self._attempts.history(proposal.number)
        self._ready[proposal.number] = proposal
        event = TrialReady(
            trial=proposal.number,
            attempt=history.n_attempts + 1,
            n_charged=history.n_charged,
            next_step=proposal.first_decision_step,
        )
        self._after_commit.do(lambda: self._feed(event))

    def _launch(self, command: Launch) -> None:
        proposal = self._proposals.as_known(self._ready[command.trial])
        for seat in command.seats:
            key = (command.trial, command.attempt, seat.rank)
            log_path = str(self._orders.log_path(*key))
            self._attempts.launched(command, seat, log_path)
            self._lines.open(key, seat.worker)
            self._link.launch(seat, key, self._orders.order(command, seat, proposal))

    def _judge(self, command: Judge) -> None:
        verdict = self._proposals.judge(command.trial, command.step)
        next_step = self._proposals.next_decision_step(command.trial, command.step)
        # By way of the queue, so that the lifecycle is never entered while it answers.
        self._inbound.put(
            Judged(
                trial=command.trial,
                attempt=command.attempt,
                step=command.step,
                value=command.value,
                verdict=verdict,
                next_step=next_step,
                reason=f"{self._proposals.pruner_name} at step {command.step}",
            )
        )

    def _end_attempt(self, command: EndAttempt) -> None:
        for key in self._lines.of(command.trial, command.attempt):
            self._link.abort(key)
            self._lines.close(key)
        self._attempts.ended(command)

    def _tell(self, command: Tell) -> None:
        params = self._proposals.params(command.trial)
        self._proposals.tell(command.trial, command.ending)
        self._ready.pop(command.trial)
        self._keep_house({command.trial})
        self._after_commit.do(self._attempts.told(command, params))
