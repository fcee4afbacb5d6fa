"""Alembic's entrypoint: one transaction per upgrade, foreign keys off while tables are rebuilt, checked after.

With `PRAGMA foreign_keys=ON` batch mode would delete child rows when it drops the old parent table
(libraries.md, trap 1).
"""

import os

from alembic import context
from sqlalchemy import text

from models.base import Base
from models.record import Record


def _url() -> str:
    if given := context.get_x_argument(as_dictionary=True).get("url"):
        return given
    import settings

    return settings.load(os.environ).database.url


def run() -> None:
    """Bring the database to the revision that was asked for."""
    record = Record(_url(), timeout_s=30.0)
    with record.engine.execution_options(clos_write=True).connect() as connection:
        if record.is_sqlite:
            # Outside a transaction: inside one the pragma does nothing.
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA foreign_keys=OFF")
            cursor.close()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=record.is_sqlite,
            compare_type=True,
            compare_server_default=True,
            transaction_per_migration=False,
        )
        with connection.begin():
            with context.begin_transaction():
                context.run_migrations()
            if record.is_sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
                raise RuntimeError(f"the migration left rows without their parents: {broken[:5]}")
    record.close()


run()
