"""One way to read and one way to write the database, on SQLite and PostgreSQL alike.

Every write transaction is exclusive from its first statement (SQLite: BEGIN IMMEDIATE; PostgreSQL: an
advisory transaction lock). So nothing read inside it can be outdated when it is written (pitfalls 4.1), and
the order of commits is the order of event ids. It must be short: no I/O inside.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from domain.errors import DatabaseBusy

_ADVISORY_KEY = 0x434C4F53  # "CLOS"
_DUE = "clos_due"
_in_write: contextvars.ContextVar[bool] = contextvars.ContextVar("clos_in_write", default=False)


def send_after_commit(session: Session, operation_id: str, type_: str) -> None:
    """Let an operation that this transaction makes ready be sent to the workers once it is committed."""
    session.info.setdefault(_DUE, []).append((operation_id, type_))


def outside_transaction() -> None:
    """Fail if the caller stands inside a write transaction. Whoever talks to the machine calls this first."""
    if _in_write.get():
        raise AssertionError("input or output inside a write transaction (pitfalls 4.2)")


class Record:
    """The database of one CLOS."""

    def __init__(self, url: str, timeout_s: float = 10.0, pool: int = 8) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.timeout_s = timeout_s
        self.engine = self._sqlite(pool) if self.is_sqlite else self._postgres(pool)
        self._writing = self.engine.execution_options(clos_write=True)
        # SQLite's busy handler sleeps and starves; threads of one process queue here instead.
        self._turn = threading.Lock()
        # How a process sends what its transactions made ready. Without it, that is the watchdog's to find.
        self.deliver: Callable[[str, str], object] | None = None

    def _sqlite(self, pool: int) -> Engine:
        options: dict[str, Any] = {}
        try:
            from pysqlite3 import dbapi2

            options["module"] = dbapi2
        except ImportError:  # no wheel for this platform; `clos doctor` says what that means
            options = {}
        engine = create_engine(
            self.url,
            connect_args={
                "timeout": self.timeout_s,
                "isolation_level": None,
                "check_same_thread": False,
            },
            poolclass=QueuePool,
            pool_size=pool,
            max_overflow=4 * pool,
            pool_timeout=self.timeout_s,
            **options,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgres(self, pool: int) -> Engine:
        engine = create_engine(
            self.url,
            pool_size=pool,
            max_overflow=2 * pool,
            pool_timeout=self.timeout_s,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": int(self.timeout_s),
                "options": f"-c lock_timeout={int(self.timeout_s * 1000)} -c timezone=UTC",
            },
        )
        event.listen(engine, "begin", _begin_postgres)
        return engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database and writes nothing."""
        with Session(self.engine, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose commit happens when the block ends well; what it made ready is sent then.

        Raises:
            DatabaseBusy: the write lock was not to be had within `timeout_s`.
        """
        if not self._turn.acquire(timeout=self.timeout_s):
            raise _busy(self.timeout_s)
        token = _in_write.set(True)
        try:
            with Session(self._writing, expire_on_commit=False) as session:
                self._begin(session)
                yield session
                session.commit()
                due = session.info.get(_DUE, ())
        finally:
            _in_write.reset(token)
            self._turn.release()
        for operation_id, type_ in due:
            if self.deliver is not None:
                self.deliver(operation_id, type_)

    def _begin(self, session: Session) -> None:
        try:
            session.connection()
        except OperationalError as refusal:
            if _is_lock(refusal):
                raise _busy(self.timeout_s) from refusal
            raise

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()


def _busy(timeout_s: float) -> DatabaseBusy:
    return DatabaseBusy(
        f"the database was busy for {timeout_s:g} s",
        hint="try again; if it lasts, another program holds the registry open",
    )


def _is_lock(refusal: OperationalError) -> bool:
    words = str(refusal.orig).lower()
    return "locked" in words or "busy" in words or "lock timeout" in words


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("clos_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("clos_write", False):
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
