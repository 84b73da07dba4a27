"""The trial and attempt state machine: ``handle(event, now) -> commands``. Pure."""

from hpsearch.lifecycle.machine import WORKERLESS_S, Lifecycle
from hpsearch.lifecycle.record import MAX_LOST, RetryRules

__all__ = ["MAX_LOST", "WORKERLESS_S", "Lifecycle", "RetryRules"]
