"""What people ask of a running coordinator, left in the database for it to find."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hpsearch.errors import NoSuchStudy
from hpsearch.storage import schema
from hpsearch.storage.connect import locate, reaching, writing_engine
from hpsearch.storage.studies import find_study, study_names

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """A wish: kind "stop" (the study) or "stop_trial" with ``{"trial": number}``."""

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def send_request(url: str, name: str, kind: str, arguments: Mapping[str, Any] | None = None) -> None:
    """Leave a request for the coordinator of a study; NoSuchStudy, StorageUnreachable.

    A request that no coordinator reads is dropped when the next one starts.
    """
    location = locate(url)
    if location.is_missing:
        raise NoSuchStudy(name, ())
    engine = writing_engine(location)
    try:
        with reaching(location), engine.begin() as connection:
            study = find_study(connection, name) if schema.is_prepared(connection) else None
            if study is None:
                raise NoSuchStudy(name, study_names(connection))
            row = {"study_id": study, "kind": kind, "arguments": json.dumps(arguments or {}), "created": time.time()}
            connection.execute(sa.insert(schema.REQUESTS), row)
    finally:
        engine.dispose()


def poll(connection: sa.Connection, study: int, on_request: Callable[[Request], None]) -> Callable[[], None] | None:
    """Mark what was asked since the last time as handled; answers how to hand it over once that is committed."""
    c = schema.REQUESTS.c
    asked = sa.select(c.request_id, c.kind, c.arguments).where(c.study_id == study, c.handled.is_(None))
    found = connection.execute(asked.order_by(c.request_id)).all()
    if not found:
        return None
    connection.execute(
        sa.update(schema.REQUESTS).where(c.request_id.in_([row.request_id for row in found])), {"handled": time.time()}
    )

    def hand_over() -> None:
        for row in found:
            on_request(Request(row.kind, json.loads(row.arguments)))

    return hand_over


def drop_old(connection: sa.Connection, study: int) -> None:
    """Forget what was asked of an earlier coordinator: a stop of yesterday must not stop today's run."""
    c = schema.REQUESTS.c
    connection.execute(
        sa.update(schema.REQUESTS).where(c.study_id == study, c.handled.is_(None)), {"handled": time.time()}
    )
