"""What waits: for a commit, or for the moment when waiting is enough."""

from collections import deque
from collections.abc import Callable

from hpsearch.events import Finish

KILL_S = 3.0  # from the second Ctrl-C to leaving what does not answer
LEAVE_S = 10.0  # from the end of what an interrupted search ran to leaving a database that does not answer
INTERRUPTED = 130  # exit code


class AfterCommit:
    """Actions that follow once what was written before them is durable, in their order.

    Args:
        last_ticket: of what is queued.
        wake: called when nothing is being written, so that no commit would come to start an action.
    """

    def __init__(self, last_ticket: Callable[[], int], wake: Callable[[int], None]) -> None:
        self._last_ticket = last_ticket
        self._wake = wake
        self._actions: deque[tuple[int, Callable[[], None]]] = deque()
        self._durable = 0  # the highest ticket known to be committed

    def do(self, action: Callable[[], None]) -> None:
        """Do it once all that is queued by now is committed."""
        ticket = self._last_ticket()
        self._actions.append((ticket, action))
        if ticket <= self._durable:
            self._wake(self._durable)

    def committed(self, ticket: int) -> None:
        """Everything up to this ticket is durable."""
        self._durable = max(self._durable, ticket)
        while self._actions and self._actions[0][0] <= ticket:
            self._actions.popleft()[1]()


class Patience:
    """Somebody wants out: neither a worker nor a database that does not answer is a reason to stay for long."""

    def __init__(self) -> None:
        self._leave_by: float | None = None
        self._finish = Finish(reason="killed", exit_code=INTERRUPTED)
        self.killed = False  # somebody wants out at once

    def kill(self, now: float) -> None:
        """What runs may take this long to be reaped."""
        self.killed = True
        self._leave_by = now + KILL_S

    def finishing(self, finish: Finish, now: float) -> None:
        """Nothing runs any more; what is still to be written may take a while if nobody waits for the end."""
        if finish.exit_code == INTERRUPTED:
            self._finish = finish
            self._leave_by = now + LEAVE_S if self._leave_by is None else self._leave_by

    def over(self, now: float) -> Finish | None:
        """How the run ends if it has been waited for long enough."""
        return self._finish if self._leave_by is not None and now > self._leave_by else None
