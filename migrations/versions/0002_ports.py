"""what the ports part adds: who a listener is, whose a container's port is, the history of leases, explained conflicts

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

import models.base


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    op.create_table(
        "port_history",
        sa.Column("node", sa.String(length=100), nullable=False),
        sa.Column("protocol", sa.String(length=4), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(length=50), nullable=False),
        sa.Column("service_id", sa.String(length=160), nullable=True),
        sa.Column("port_name", sa.String(length=100), server_default=sa.text("''"), nullable=False),
        sa.Column("released_at", models.base.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node", "protocol", "port", name=op.f("pk_port_history")),
    )
    with op.batch_alter_table("port_history", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_port_history_released_at"), ["released_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_port_history_service_id"), ["service_id"], unique=False)

    with op.batch_alter_table("listeners", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parents", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("service_id", sa.String(length=160), nullable=True))
        batch_op.add_column(sa.Column("container_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("container_name", sa.String(length=250), nullable=True))
        batch_op.add_column(sa.Column("own", sa.Boolean(), server_default=sa.text("false"), nullable=False))

    with op.batch_alter_table("port_claims", schema=None) as batch_op:
        batch_op.add_column(sa.Column("container_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("owner_id", sa.String(length=160), nullable=True))
        batch_op.alter_column(
            "container_ref", existing_type=sa.VARCHAR(length=100), type_=sa.String(length=250), existing_nullable=True
        )

    # Made anew on SQLite, since only a new table can count its ids up for ever.
    with op.batch_alter_table(
        "port_conflicts", schema=None, recreate=recreate, table_kwargs={"sqlite_autoincrement": True}
    ) as batch_op:
        batch_op.add_column(sa.Column("detail", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("undo", sa.JSON(none_as_null=True), nullable=True))

    with op.batch_alter_table("port_ranges", schema=None) as batch_op:
        batch_op.add_column(sa.Column("next_port", sa.Integer(), nullable=True))

    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.add_column(sa.Column("resolved_references", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.drop_column("resolved_references")

    with op.batch_alter_table("port_ranges", schema=None) as batch_op:
        batch_op.drop_column("next_port")

    with op.batch_alter_table("port_conflicts", schema=None) as batch_op:
        batch_op.drop_column("undo")
        batch_op.drop_column("detail")

    with op.batch_alter_table("port_claims", schema=None) as batch_op:
        batch_op.alter_column(
            "container_ref", existing_type=sa.String(length=250), type_=sa.VARCHAR(length=100), existing_nullable=True
        )
        batch_op.drop_column("owner_id")
        batch_op.drop_column("container_id")

    with op.batch_alter_table("listeners", schema=None) as batch_op:
        batch_op.drop_column("own")
        batch_op.drop_column("container_name")
        batch_op.drop_column("container_id")
        batch_op.drop_column("service_id")
        batch_op.drop_column("parents")

    with op.batch_alter_table("port_history", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_port_history_service_id"))
        batch_op.drop_index(batch_op.f("ix_port_history_released_at"))

    op.drop_table("port_history")
