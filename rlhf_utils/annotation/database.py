"""A store's database: how it is opened and migrated, what a transaction is, and how its failures are told.

SQLite is one file in WAL mode with ``synchronous=FULL``: a commit that has returned survives a killed process and a
power cut. It has one writer at a time. Transactions that write begin with ``BEGIN IMMEDIATE``, since one that reads
first and asks for the write lock later can be refused it. Within a process they queue at a lock of ours, which is fair
and doesn't poll, as SQLite's busy timeout does; that is for other processes. Other databases lock rows.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rlhf_utils.errors import UserError

MIGRATIONS = Path(__file__).parent / "_migrations"
BUSY_SECONDS = 30  #: how long SQLite waits for another process that writes
LOCK = 9_1997  #: PostgreSQL's advisory lock while tables are made; the number means nothing


class StoreError(Exception):
    """The database can't be reached or is busy; nothing was kept, and the same request may be sent again."""


class StoreFullError(StoreError):
    """The disk is full; nothing was kept, and the same request may be sent again once there is room."""


def as_url(store: str | Path) -> URL:
    """The URL of a store that a user named: a path of a SQLite file, or any URL that SQLAlchemy reads.

    Args:
        store: such as ``study.db`` or ``postgresql://user@host/name``; for the latter, psycopg 3 is taken.

    Raises:
        UserError: it looks like a URL and isn't one.
    """
    if "://" not in str(store):
        return URL.create("sqlite", database=str(Path(store).expanduser().resolve()))
    try:
        url = make_url(str(store))
    except ArgumentError:
        raise UserError("The store is neither a path nor a URL.", "Give --store FILE.db or a SQLAlchemy URL.") from None
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def open_engine(url: URL) -> Engine:
    """An engine with the settings that this module's docstring gives.

    Args:
        url: from :func:`as_url`.

    Raises:
        UserError: the database's driver isn't installed.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    options = {"connect_args": {"timeout": BUSY_SECONDS}} if is_sqlite else {"isolation_level": "READ COMMITTED"}
    try:
        engine = create_engine(url, pool_size=20, max_overflow=20, pool_timeout=BUSY_SECONDS, **options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        driver = "psycopg[binary]" if url.get_backend_name() == "postgresql" else "its driver"
        raise UserError(f"{url.drivername} can't be used ({error}).", f"Install {driver} with pip.") from None
    if is_sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: object, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself; `_begin_sqlite` does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


class Database:
    """Transactions on one engine.

    Args:
        store: see :func:`as_url`.
        create: make a SQLite file that isn't there.

    Raises:
        UserError: the file isn't there, isn't a database, or was made by a newer version.
        StoreError: the database can't be reached.
    """

    def __init__(self, store: str | Path, create: bool = False) -> None:
        url = as_url(store)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = url.render_as_string()  #: without the password
        if self.is_sqlite:
            self.name = url.database or ""
            _check_file(Path(self.name), create)
        self.engine = open_engine(url)
        self._turn = threading.Lock()
        self.migrated = migrate(self)  #: revisions of the tables before and after

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: one state of the database from beginning to end on SQLite."""
        with _told(), self.engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is kept whole when the block ends, and not at all if it raises."""
        with _told():
            if not self.is_sqlite:
                with self.engine.begin() as connection:
                    yield connection
                return
            with self._turn, self.engine.begin() as connection:
                yield connection

    def count_rows(self) -> None:
        """Let PostgreSQL look at tables that grew at once; until it does by itself, it searches them row by row."""
        if self.engine.dialect.name == "postgresql":
            with self.writing() as connection:
                connection.execute(text("ANALYZE"))

    def close(self) -> None:
        """Close all connections; SQLite's write-ahead log is folded into its file."""
        self.engine.dispose()


def _check_file(path: Path, create: bool) -> None:
    """Make the file readable by its owner alone, or check that it is there."""
    if path.is_file():
        return
    if not create or path.is_dir():
        raise UserError(f"{path} is not a store.", "Make one: python -m rlhf_utils annotate new --store FILE …")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise UserError(f"{path} can't be made ({error.strerror}).", "Give a path that you may write to.") from None


@contextmanager
def _told() -> Iterator[None]:
    """Failures of the database as this module's exceptions; mistakes of the program stay what they are."""
    try:
        yield
    except OperationalError as error:
        if "full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "53100":
            raise StoreFullError("The disk that holds the store is full.") from error
        if "not a database" in str(error.orig):
            raise UserError("The store is not a database.", "Give the file that `annotate new` made.") from None
        raise StoreError("The store can't be reached or is busy.") from error
    except PoolTimeout as error:
        raise StoreError("The store is busy.") from error
    except DBAPIError as error:
        if "not a database" in str(error.orig):
            raise UserError("The store is not a database.", "Give the file that `annotate new` made.") from None
        if error.connection_invalidated:
            raise StoreError("The connection to the store broke.") from error
        raise


def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the tables to the newest form; where they have it, nothing is written.

    Args:
        database: whose tables.

    Returns:
        The revision before, None where there were no tables, and after.

    Raises:
        UserError: the tables' revision is unknown, so a newer version made them.
    """
    config = Config()
    config.set_main_option("script_location", MIGRATIONS.as_posix().replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    with database.reading() as connection:
        before = MigrationContext.configure(connection).get_current_revision()
    if before == newest:
        return before, newest
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        raise UserError(f"A newer version made this store (revision {before}).", "Install that version of rlhf_utils.")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with database.writing() as connection:
        if connection.dialect.name == "postgresql":  # two programs may open a new store at once
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, newest
