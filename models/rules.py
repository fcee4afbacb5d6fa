"""Rules that only the database can keep: triggers, which Alembic's batch mode drops and its diff does not see.

A test compares what an upgraded database has with this list and with the partial indexes of the metadata.
"""

from sqlalchemy import text
from sqlalchemy.engine import Connection

# name -> (table, event)
APPEND_ONLY = {
    "system_events_no_update": ("system_events", "UPDATE"),
    "audit_log_no_update": ("audit_log", "UPDATE"),
    "audit_log_no_delete": ("audit_log", "DELETE"),
}


def create_triggers(connection: Connection) -> None:
    """Put every trigger in place. Called by migrations."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION clos_refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
            )
        )
    for name, (table, event) in APPEND_ONLY.items():
        if connection.dialect.name == "sqlite":
            action = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            connection.execute(text(f"CREATE TRIGGER {name} BEFORE {event} ON {table} {action}"))
        else:
            action = "FOR EACH ROW EXECUTE FUNCTION clos_refuse()"
            connection.execute(text(f"CREATE TRIGGER {name} BEFORE {event} ON {table} {action}"))


def drop_triggers(connection: Connection) -> None:
    """Take every trigger away. Called by migrations."""
    for name, (table, _event) in APPEND_ONLY.items():
        on = f" ON {table}" if connection.dialect.name == "postgresql" else ""
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}{on}"))
    if connection.dialect.name == "postgresql":
        connection.execute(text("DROP FUNCTION IF EXISTS clos_refuse()"))
