"""what durable orchestration adds: waiting operations, timings, compensation; containers' options; Compose, clones, orphans

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

import models.base


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('orphans',
    sa.Column('ref', sa.String(length=100), nullable=False),
    sa.Column('runtime', sa.String(length=20), nullable=False),
    sa.Column('service_id', sa.String(length=160), nullable=False),
    sa.Column('group_name', sa.String(length=50), nullable=True),
    sa.Column('name', sa.String(length=250), nullable=True),
    sa.Column('phase', sa.String(length=20), nullable=False),
    sa.Column('detail', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('first_seen_at', models.base.UtcDateTime(timezone=True), nullable=False),
    sa.Column('observed_at', models.base.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('ref', name=op.f('pk_orphans'))
    )
    with op.batch_alter_table('orphans', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_orphans_service_id'), ['service_id'], unique=False)

    op.create_table('step_timings',
    sa.Column('step_id', sa.String(length=250), nullable=False),
    sa.Column('seconds', sa.Float(), nullable=False),
    sa.Column('samples', sa.Integer(), server_default='1', nullable=False),
    sa.Column('updated_at', models.base.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('step_id', name=op.f('pk_step_timings'))
    )
    with op.batch_alter_table('step_timings', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_step_timings_updated_at'), ['updated_at'], unique=False)

    op.create_table('import_inputs',
    sa.Column('operation_id', sa.String(length=36), nullable=False),
    sa.Column('content', sa.Text(), nullable=True),
    sa.Column('variables', sa.JSON(none_as_null=True), nullable=True),
    sa.ForeignKeyConstraint(['operation_id'], ['operations.id'], name=op.f('fk_import_inputs_operation_id_operations'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('operation_id', name=op.f('pk_import_inputs'))
    )
    op.create_table('operation_waits',
    sa.Column('operation_id', sa.String(length=36), nullable=False),
    sa.Column('waits_for', sa.String(length=36), nullable=False),
    sa.Column('must_succeed', sa.Boolean(), server_default=sa.text("false"), nullable=False),
    sa.ForeignKeyConstraint(['operation_id'], ['operations.id'], name=op.f('fk_operation_waits_operation_id_operations'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('operation_id', 'waits_for', name=op.f('pk_operation_waits'))
    )
    with op.batch_alter_table('operation_waits', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_operation_waits_waits_for'), ['waits_for'], unique=False)

    with op.batch_alter_table('operation_steps', schema=None) as batch_op:
        batch_op.add_column(sa.Column('expected_s', sa.Float(), nullable=True))

    with op.batch_alter_table('operations', schema=None) as batch_op:
        batch_op.add_column(sa.Column('compensation', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('waiting_for', sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index(batch_op.f('ix_operations_parent_id'), ['parent_id'], unique=False)

    with op.batch_alter_table('service_groups', schema=None) as batch_op:
        batch_op.add_column(sa.Column('networks', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('volumes', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('directory', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('compose', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('cloned_from', sa.String(length=50), nullable=True))
        batch_op.add_column(sa.Column('expires_at', models.base.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column('expiry_told_at', models.base.UtcDateTime(timezone=True), nullable=True))
        batch_op.create_index(batch_op.f('ix_service_groups_expires_at'), ['expires_at'], unique=False)

    with op.batch_alter_table('service_dependencies', schema=None) as batch_op:
        batch_op.add_column(sa.Column('restart', sa.Boolean(), server_default=sa.text("false"), nullable=False))

    with op.batch_alter_table('port_claims', schema=None) as batch_op:
        batch_op.add_column(sa.Column('left_open', sa.Boolean(), server_default=sa.text("false"), nullable=False))

    with op.batch_alter_table('services', schema=None) as batch_op:
        batch_op.add_column(sa.Column('container', sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column('down_cause', sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column('down_since', models.base.UtcDateTime(timezone=True), nullable=True))



def downgrade() -> None:
    with op.batch_alter_table('services', schema=None) as batch_op:
        batch_op.drop_column('down_since')
        batch_op.drop_column('down_cause')
        batch_op.drop_column('container')

    with op.batch_alter_table('port_claims', schema=None) as batch_op:
        batch_op.drop_column('left_open')

    with op.batch_alter_table('service_dependencies', schema=None) as batch_op:
        batch_op.drop_column('restart')

    with op.batch_alter_table('service_groups', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_service_groups_expires_at'))
        batch_op.drop_column('expiry_told_at')
        batch_op.drop_column('expires_at')
        batch_op.drop_column('cloned_from')
        batch_op.drop_column('compose')
        batch_op.drop_column('directory')
        batch_op.drop_column('volumes')
        batch_op.drop_column('networks')

    with op.batch_alter_table('operations', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_operations_parent_id'))
        batch_op.drop_column('waiting_for')
        batch_op.drop_column('compensation')

    with op.batch_alter_table('operation_steps', schema=None) as batch_op:
        batch_op.drop_column('expected_s')

    with op.batch_alter_table('operation_waits', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_operation_waits_waits_for'))

    op.drop_table('operation_waits')
    op.drop_table('import_inputs')
    with op.batch_alter_table('step_timings', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_step_timings_updated_at'))

    op.drop_table('step_timings')
    with op.batch_alter_table('orphans', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_orphans_service_id'))

    op.drop_table('orphans')
