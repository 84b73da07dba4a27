"""What a running job asks of Optuna."""

from typing import Any

from hpsearch.coordinator.announcer import Announcer
from hpsearch.coordinator.proposals import Proposals


class Services:
    """Serves suggestions, user attributes and constraints to the jobs of one study."""

    def __init__(self, proposals: Proposals, announcer: Announcer) -> None:
        self._proposals = proposals
        self._announcer = announcer

    def serve(self, trial: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """Do what the message asks; the answer, which only a suggestion has."""
        try:
            match body["op"]:
                case "suggest":
                    return self._suggest(trial, body["name"], body["distribution"])
                case "user_attr":
                    self._proposals.set_user_attr(trial, body["key"], body["value"])
                case "constraint":
                    self._proposals.set_constraint(trial, body["key"], body["value"])
        except (ValueError, TypeError) as error:
            self._announcer.say("study.warning", message=f"trial {trial}: {body['op']} {body['key']!r}: {error}")
        return None

    def _suggest(self, trial: int, name: str, distribution: str) -> dict[str, Any]:
        try:
            value = self._proposals.suggest(trial, name, distribution)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:  # the job's own, or a sampler's
            return {"op": "refused", "name": name, "message": str(error)}
        return {"op": "suggested", "name": name, "value": value}
