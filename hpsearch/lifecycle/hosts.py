"""Which hosts a trial, or the whole study, had better avoid: those that keep losing what runs there."""

from collections import Counter

from hpsearch.events import Warn


class Hosts:
    """Losses by host.

    A trial avoids a host after so many losses of its own there; all do after twice as many by several trials. The slot
    table ignores it where no other host could hold a gang, so that nothing waits for ever.

    Args:
        after: losses; 0 for never.
    """

    def __init__(self, after: int) -> None:
        self._after = after
        self._losses: dict[str, Counter[int]] = {}  # host -> trial -> losses
        self._forced: set[int] = set()  # trials of which it was said
        self.shunned: frozenset[str] = frozenset()  # by the whole study

    def lost(self, trial: int, host: str) -> list[Warn]:
        """An attempt of this trial was lost there; what follows for the first time."""
        return self._count(trial, host, 1) if self._after else []

    def exclude(self, trial: int, host: str) -> list[Warn]:
        """The host is to blame beyond doubt: as :meth:`lost`, often enough."""
        return self._count(trial, host, max(self._after, 1))

    def _count(self, trial: int, host: str, n: int) -> list[Warn]:
        enough = max(self._after, 1)
        losses = self._losses.setdefault(host, Counter())
        before = losses[trial]
        losses[trial] += n
        if host not in self.shunned and len(losses) > 1 and losses.total() >= 2 * enough:
            self.shunned |= {host}
            return [Warn(message=f"host {host} is avoided from now on: {len(losses)} trials were lost there")]
        if before < enough <= losses[trial]:
            return [Warn(message=f"trial {trial} avoids host {host} from now on")]
        return []

    def avoided_by(self, trial: int) -> frozenset[str]:
        """Hosts to keep this trial away from, the study's own included."""
        enough = max(self._after, 1)
        return self.shunned | {host for host, losses in self._losses.items() if losses[trial] >= enough}

    def taken(self, trial: int, hosts: frozenset[str]) -> list[Warn]:
        """Where the trial sits now; it is said, once, if it had to go where it should not."""
        forced = hosts & self.avoided_by(trial)
        if not forced or trial in self._forced:
            return []
        self._forced.add(trial)
        where = ", ".join(sorted(forced))
        return [Warn(message=f"trial {trial} goes to {where} all the same: no other host could hold it")]
