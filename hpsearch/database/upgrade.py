"""``hpsearch db upgrade``: from whatever tables are there to those of this hpsearch and this Optuna."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sa

from hpsearch.errors import StorageUnreachable, StudyHeld
from hpsearch.storage import holder, schema
from hpsearch.storage.connect import Location, locate, reaching, writing_engine


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was done to a database; versions as (before, now), None where nothing was to be done."""

    label: str
    made: bool  # our tables, from nothing
    ours: tuple[str, str] | None = None
    optunas: tuple[str, str] | None = None

    @property
    def words(self) -> str:
        """One line."""
        done = ["made the tables"] if self.made else []
        for whose, versions in (("Optuna's", self.optunas), ("hpsearch's", self.ours)):
            if versions is not None:
                done.append(f"brought {whose} tables from version {versions[0]} to {versions[1]}")
        return f"{self.label}: {', '.join(done) or f'is up to date (version {schema.VERSION})'}"


def upgrade(url: str) -> Upgraded:
    """Make the tables of an empty database, or bring older ones, Optuna's and ours, to this version; twice is once.

    Raises StudyHeld while a coordinator is alive on any study in it, StorageUnreachable also for tables that are newer
    than this hpsearch or this Optuna.
    """
    location = locate(url)
    engine = writing_engine(location)
    try:
        with reaching(location), schema.alone(location, engine):
            with engine.begin() as connection:
                before = schema.version(connection)
                if before is not None:
                    schema.refuse_newer(location, before)
                    _refuse_held(connection)
                theirs = sa.inspect(connection).has_table(schema.STUDIES.name)
            optunas = _upgrade_optuna(location) if theirs else None
            if before is None:
                schema.prepare(location, engine)
                return Upgraded(location.label, made=True, optunas=optunas)
            if before == schema.VERSION:
                return Upgraded(location.label, made=False, optunas=optunas)
            with engine.begin() as connection:
                migrate(connection)
            return Upgraded(location.label, made=False, ours=(before, schema.VERSION), optunas=optunas)
    finally:
        engine.dispose()


def migrate(connection: sa.Connection, revision: str = "head") -> None:
    """Bring our tables to a revision, within the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _quiet_alembic():
        command.upgrade(config, revision)


def _refuse_held(connection: sa.Connection) -> None:
    known = {column["name"] for column in sa.inspect(connection).get_columns(schema.COORDINATORS.name)}
    for study, found in holder.read_holders(connection, known=known).items():
        if found.is_alive():
            query = sa.select(schema.STUDIES.c.study_name).where(schema.STUDIES.c.study_id == study)
            raise StudyHeld(connection.scalar(query) or "", found.words)


def _upgrade_optuna(location: Location) -> tuple[str, str] | None:
    with _quiet_alembic(), schema.optuna_storage(location, skip_compatibility_check=True) as storage:
        before, head = storage.get_current_version(), storage.get_head_version()
        if before == head:
            return None
        if before not in storage.get_all_versions():
            raise StorageUnreachable(
                f"{location.label}: its tables have Optuna's version {before}, "
                f"Optuna {optuna.__version__} knows {head}: pip install -U optuna"
            )
        storage.upgrade()
        return before, head


@contextmanager
def _quiet_alembic() -> Iterator[None]:
    logger = logging.getLogger("alembic")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
