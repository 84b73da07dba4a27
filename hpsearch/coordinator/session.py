"""One run of a study: opens what it needs in an order that refuses early, runs the coordinator, closes everything.

Nothing is written before the request is known to fit, and nothing stays behind whichever way it ends.
"""

import os
import re
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

import hpsearch
from hpsearch import passwords, storage
from hpsearch.budget import Budgets
from hpsearch.cluster import Connection, open_address, open_local, plan_local
from hpsearch.coordinator.announcer import Announcer, Listener
from hpsearch.coordinator.housekeeper import Housekeeper
from hpsearch.coordinator.inbound import Adopted, Committed, DatabaseAway, Inbound, Warned, WritesFailed
from hpsearch.coordinator.link import Link
from hpsearch.coordinator.loop import Coordinator
from hpsearch.coordinator.orders import Orders
from hpsearch.coordinator.proposals import Proposals
from hpsearch.errors import SpaceChanged, UsageError
from hpsearch.events import Cause, Finish
from hpsearch.launcher import LauncherProcess, imports_of, warm_up
from hpsearch.lifecycle import Lifecycle, RetryRules
from hpsearch.placement import RankRequest, SlotTable
from hpsearch.search import ask_ahead_depth, n_proposals
from hpsearch.spec import StudySpec

IMPATIENT_S = 3.0  # after the second Ctrl-C, for what is still to be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    reason: str


@dataclass(slots=True, kw_only=True)
class Session:
    """Everything one run of a study needs.

    Args:
        spec: the study.
        sampler: proposes.
        pruner: stops early.
        listener: hears every notice, on the coordinator's thread.
        fresh: delete a study of that name first.
        take_over: replace another coordinator of this study, if there is one.
        resume_command: what continues this study from a shell; may be empty.
        connection: a cluster that is open already; otherwise the spec's is opened.
        launcher: warming up on this machine already, for a local cluster; closed at the end.
    """

    spec: StudySpec
    sampler: BaseSampler
    pruner: BasePruner
    listener: Listener
    fresh: bool = False
    take_over: bool = False
    resume_command: str = ""
    connection: Connection | None = None
    launcher: LauncherProcess | None = None
    inbound: Inbound = field(default_factory=Inbound)
    _exit: ExitStack = field(default_factory=ExitStack)

    def run(self) -> Outcome:
        """Run the study to its end.

        Raises:
            GangTooLarge, ClusterUnreachable, StorageUnreachable, StudyHeld: out of reach; nothing was started.
            SpaceChanged: the study was begun with another space.
            StorageError: a write was refused for good.
        """
        with self._exit:
            return self._run()

    def _run(self) -> Outcome:
        began = time.monotonic()
        if self.spec.password_file is not None:
            passwords.read_file(self.spec.storage, self.spec.password_file)
        request = self._reach()
        self._check_space()
        if self.connection is None:
            self._warm_up()
        store = self._open_store()
        proposals = Proposals(store.study, self.spec.parameters)
        lifecycle = self._lifecycle(request, store, proposals)
        if self.connection is None and not self._nothing_to_do(lifecycle, proposals):
            plan = plan_local(self.spec.cluster.workers, self.spec.resources.cpus_per_rank)
            assert self.launcher is not None
            self.connection = open_local(plan, self.launcher.path.parent)
            self._exit.callback(self.connection.close)
        announcer = Announcer(store, self.listener)

        def failed(trial: int, reason: str) -> None:
            lifecycle.standing.count(Cause.ERROR)
            announcer.say("trial.failed", trial=trial, attempt=1, cause=Cause.ERROR.value, reason=reason, log="")

        proposals.on_unusable = failed
        self._say_started(announcer, proposals, lifecycle, request)
        finish = self._coordinate(store, proposals, lifecycle, announcer, request)
        self._say_finished(announcer, proposals, lifecycle, finish, time.monotonic() - began)
        return Outcome(exit_code=finish.exit_code, reason=finish.reason)

    # -------------------------------------------------------------------------------------- opening

    def _reach(self) -> RankRequest:
        """Find out what workers there are, or will be, and refuse a request that they could never hold."""
        resources, cluster = self.spec.resources, self.spec.cluster
        if self.connection is None and cluster.kind == "address":
            assert cluster.address is not None
            self.connection = open_address(cluster.address)
            self._exit.callback(self.connection.close)
        if self.connection is not None:
            facts = self.connection.describe_workers()
        else:
            _check_directory(Path(self.spec.directory, self.spec.name))
            plan = plan_local(cluster.workers, resources.cpus_per_rank)
            facts = plan.describe_workers()
        gpus = resources.gpus_per_rank
        if gpus == "auto":
            gpus = 1 if facts and all(fact["gpus"] for fact in facts.values()) else 0
        if gpus > 1 and gpus != int(gpus):
            raise UsageError(f"resources.gpus_per_rank: must be a whole number, or less than 1 (got {gpus:g})")
        request = RankRequest(
            ranks=resources.ranks,
            cpus=resources.cpus_per_rank,
            gpus=gpus,
            memory_bytes=resources.memory_bytes,
            one_host=resources.hosts == "one",
        )
        table = SlotTable()
        for worker, fact in facts.items():
            table.join(worker, **fact)
        table.check(request)
        return request

    def _check_space(self) -> None:
        if self.fresh:
            return
        record = storage.peek(self.spec.storage, self.spec.name)
        if record is None:
            return
        if differences := self.spec.parameters.difference(record.space_json):
            raise SpaceChanged(self.spec.name, differences)

    def _warm_up(self) -> None:
        """The launcher that all workers of a local cluster share; others start their own."""
        if self.launcher is None:
            self.launcher = warm_up(self.spec.objective.as_message(), self.spec.resources.cpus_per_rank)
        self._exit.callback(self.launcher.close)

    def _open_store(self) -> storage.StudyStore:
        spec = self.spec
        store = storage.open_study(
            spec.storage,
            spec.name,
            directions=[metric.goal for metric in spec.metrics],
            metric_names=[metric.name for metric in spec.metrics],
            record=storage.StudyRecord(
                spec_text=passwords.masked(spec.source_text),
                space_json=spec.parameters.to_json(),
                command=self.resume_command,
                directory=str(Path(spec.directory).absolute() / spec.name),
                version=hpsearch.__version__,
            ),
            sampler=self.sampler,
            pruner=self.pruner,
            fresh=self.fresh,
            on_commit=lambda ticket: self.inbound.put(Committed(ticket=ticket)),
            on_error=lambda error: self.inbound.put(WritesFailed(error=error)),
            on_request=self.inbound.put,
            on_waiting=lambda reason: self.inbound.put(DatabaseAway(reason=reason)),
            on_adopted=lambda trial: self.inbound.put(Adopted(trial=trial)),
            take_over=self.take_over,
        )
        self._exit.callback(store.abandon)  # after an orderly close it has nothing left to do
        return store

    def _lifecycle(self, request: RankRequest, store: storage.StudyStore, proposals: Proposals) -> Lifecycle:
        spec = self.spec
        budget, first = spec.budget, spec.metrics[0]
        ends = [limit for limit in (budget.trials, n_proposals(self.sampler)) if limit is not None]
        budgets = Budgets(
            goal=first.goal,
            trials=min(ends, default=None),
            time_s=budget.time_s,
            target=first.target if len(spec.metrics) == 1 else None,
            plateau_trials=budget.plateau.trials if budget.plateau else None,
            min_delta=budget.plateau.min_delta if budget.plateau else 0.0,
            failures=budget.failures.count if budget.failures else None,
            failures_percent=budget.failures.percent if budget.failures else None,
        )
        retry = RetryRules(
            max=spec.retry.max,
            on=frozenset(spec.retry.on),
            exclude_host_after=spec.retry.exclude_host_after,
            policies=tuple((re.compile(policy.pattern), policy.action) for policy in spec.retry.policies),
        )
        ahead = ask_ahead_depth(self.sampler) if spec.ask_ahead is None else spec.ask_ahead
        lifecycle = Lifecycle(request, budgets, retry, grace_s=spec.resources.grace_s, ask_ahead=ahead)
        for cause, values in proposals.over():
            lifecycle.standing.count(cause, values)
        return lifecycle

    def _nothing_to_do(self, lifecycle: Lifecycle, proposals: Proposals) -> bool:
        """Trials that wait change nothing: nobody would ask for them."""
        standing = lifecycle.standing
        return standing.over and (standing.over_for_good or not proposals.n_running)

    # -------------------------------------------------------------------------------------- running

    def _coordinate(
        self,
        store: storage.StudyStore,
        proposals: Proposals,
        lifecycle: Lifecycle,
        announcer: Announcer,
        request: RankRequest,
    ) -> Finish:
        if self.connection is None:
            proposals.requeue_leftovers()
            done = lifecycle.standing.n_over
            succeeded = lifecycle.standing.n_complete > 0
            reason = f"nothing to do: {done} trials are done already"
            finish = Finish(reason=reason, exit_code=0 if succeeded else 3)
        else:
            link = Link(
                self.connection,
                self.inbound.put,
                study=self.spec.name,
                imports=imports_of(self.spec.objective.as_message()),
                cpus_per_rank=request.cpus,
                launcher_path=str(self.launcher.path) if self.launcher else "",
                coordinates=(f"{storage.identity(self.spec.storage)} {self.spec.name}", store.token),
            )
            self._exit.callback(link.close)
            link.open()
            orders = Orders(self.spec)
            coordinator = Coordinator(
                store=store,
                proposals=proposals,
                lifecycle=lifecycle,
                link=link,
                request=request,
                orders=orders,
                inbound=self.inbound,
                announcer=announcer,
                housekeeper=self._housekeeper(orders),
            )
            finish = coordinator.run()
            link.close()
            if coordinator.killed:  # a database that is locked is no reason to stay, either
                impatience = threading.Timer(IMPATIENT_S, store.abandon)
                impatience.daemon = True
                impatience.start()
                self._exit.callback(impatience.cancel)
        store.close()
        return finish

    def _housekeeper(self, orders: Orders) -> Housekeeper | None:
        quota_bytes = self.spec.checkpoints.quota_bytes
        if quota_bytes is None:
            return None
        keeper = Housekeeper(
            orders.checkpoints_of, quota_bytes, lambda message: self.inbound.put(Warned(message=message))
        )
        self._exit.callback(keeper.close)
        return keeper

    # ------------------------------------------------------------------------------------- notices

    def _say_started(
        self, announcer: Announcer, proposals: Proposals, lifecycle: Lifecycle, request: RankRequest
    ) -> None:
        spec = self.spec
        announcer.say(
            "study.started",
            study=spec.name,
            storage=storage.label(spec.storage),
            directory=str(Path(spec.directory) / spec.name),
            total=spec.budget.trials,
            time_s=spec.budget.time_s,
            done=lifecycle.standing.n_over,
            resumed=proposals.n_unfinished,
            sampler=str(spec.sampler),
            pruner=str(spec.pruner),
            directions=[metric.goal for metric in spec.metrics],
            metric_names=[metric.name for metric in spec.metrics],
            slot=str(request),
            best=self._best(proposals),
        )

    def _say_finished(
        self, announcer: Announcer, proposals: Proposals, lifecycle: Lifecycle, finish: Finish, duration_s: float
    ) -> None:
        standing = lifecycle.standing
        announcer.say(
            "study.finished",
            reason=finish.reason,
            exit_code=finish.exit_code,
            counts={
                "complete": standing.n_complete,
                "pruned": standing.n_pruned,
                "failed": standing.n_failed,
                "unfinished": proposals.n_unfinished,
            },
            best=self._best(proposals),
            duration_s=duration_s,
            resume=self.resume_command,
        )

    def _best(self, proposals: Proposals) -> dict[str, Any] | None:
        best = proposals.best
        if best is None:
            return None
        return {
            "trial": best.number,
            "values": list(best.values),
            "params": self.spec.parameters.resolve(best.params),
        }


def _check_directory(directory: Path) -> None:
    """Refuse a place where the ranks of this machine could keep neither logs nor checkpoints; makes nothing."""
    place = directory.absolute()
    while not os.path.exists(place):  # also where it may not be looked at
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"directory: {place} is not a directory: name another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"directory: {place} is not writable: name another")
