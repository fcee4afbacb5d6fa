"""Services: what is wanted and what was seen, kept apart in one row.

The table keeps v1's column names (v1.md, shape A). New columns are nullable or have a server default, so that a
v1 program can still insert a row.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Index, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from domain.specs import (
    CheckType,
    Condition,
    Dependency,
    HealthCheck,
    PortRequest,
    RestartPolicy,
    RuntimeKind,
    ServiceSpec,
)
from models.base import Base, BigId, now
from models.ports import PortClaim, PortLease


class Service(Base):
    """A thing that CLOS runs or watches."""

    __tablename__ = "services"
    __table_args__ = (
        Index("ix_services_group_name", "group_name"),
        Index("uq_services_group_name_name", "group_name", "name", unique=True),
        Index("ix_services_desired_running", "id", sqlite_where=text("desired = 'running'"),
              postgresql_where=text("desired = 'running'")),
    )  # fmt: skip

    # v1's columns.
    id: Mapped[str] = mapped_column(String(160), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    group_name: Mapped[str] = mapped_column(String(50))
    port: Mapped[int | None]
    status: Mapped[str] = mapped_column(String(20), server_default="stopped", default="stopped")
    started_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    health_url: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp(), default=now, onupdate=now)

    # What is wanted.
    runtime: Mapped[str] = mapped_column(String(20), server_default="docker", default="docker")
    desired: Mapped[str] = mapped_column(String(20), server_default="stopped", default="stopped")
    image: Mapped[str | None] = mapped_column(Text)
    build: Mapped[dict[str, Any] | None]
    command: Mapped[list[str] | None]
    working_dir: Mapped[str | None] = mapped_column(Text)
    user: Mapped[str | None] = mapped_column(String(100))
    labels: Mapped[dict[str, Any] | None]
    restart_policy: Mapped[str] = mapped_column(String(20), server_default="unless-stopped", default="unless-stopped")
    restart_by: Mapped[str] = mapped_column(String(10), server_default="clos", default="clos")
    cpu_limit: Mapped[float | None] = mapped_column(Float)
    memory_limit: Mapped[int | None] = mapped_column(BigId)
    network_mode: Mapped[str] = mapped_column(String(100), server_default="bridge", default="bridge")
    dns_servers: Mapped[list[str] | None]
    # What only containers have, under Compose's names and in its normalised form (`domain/container.py`).
    container: Mapped[dict[str, Any] | None]
    stop_timeout: Mapped[float] = mapped_column(Float, server_default="30", default=30.0)
    description: Mapped[str | None] = mapped_column(Text)
    version: Mapped[str | None] = mapped_column(String(100))
    owner: Mapped[str | None] = mapped_column(String(100))
    spec_version: Mapped[int] = mapped_column(server_default="1", default=1)
    health_check_enabled: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    # None: no health check was given; `started` is all that can be waited for.
    health_check_type: Mapped[str | None] = mapped_column(String(10))
    health_check_port: Mapped[str | None] = mapped_column(String(100))
    health_check_test: Mapped[list[str] | None]
    health_check_interval: Mapped[float] = mapped_column(Float, server_default="30", default=30.0)
    health_check_timeout: Mapped[float] = mapped_column(Float, server_default="10", default=10.0)
    health_check_retries: Mapped[int] = mapped_column(server_default="3", default=3)
    health_check_start_period: Mapped[float] = mapped_column(Float, server_default="30", default=30.0)
    health_expected_status: Mapped[int] = mapped_column(server_default="200", default=200)

    # What was seen.
    container_id: Mapped[str | None] = mapped_column(String(100))
    pid: Mapped[int | None]
    exit_code: Mapped[int | None]
    observed_hash: Mapped[str | None] = mapped_column(String(64))
    observed_at: Mapped[datetime | None]
    last_health_check: Mapped[datetime | None]
    health_status: Mapped[str] = mapped_column(String(20), server_default="none", default="none")
    health_response_time: Mapped[float | None] = mapped_column(Float)
    health_detail: Mapped[str | None] = mapped_column(Text)
    health_failures: Mapped[int] = mapped_column(server_default="0", default=0)
    # What its references (`${port:api}`) meant when its instance was started.
    resolved_references: Mapped[dict[str, Any] | None]
    waiting_for: Mapped[list[Any] | None]
    # Why and since when it does not run although it is wanted to: crash, person, engine, host.
    down_cause: Mapped[str | None] = mapped_column(String(20))
    down_since: Mapped[datetime | None]
    restarts: Mapped[int] = mapped_column(server_default="0", default=0)
    # Back-off of CLOS's own restarts: deaths in a row, and before when not to try again.
    crash_count: Mapped[int] = mapped_column(server_default="0", default=0)
    restart_not_before: Mapped[datetime | None]

    tags: Mapped[list["ServiceTag"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    environment: Mapped[list["ServiceEnvironment"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    volumes: Mapped[list["ServiceVolume"]] = relationship(
        cascade="all, delete-orphan", lazy="selectin", order_by="ServiceVolume.position"
    )
    networks: Mapped[list["ServiceNetwork"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    dependencies: Mapped[list["ServiceDependency"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    claims: Mapped[list[PortClaim]] = relationship(
        cascade="all, delete-orphan", lazy="selectin", order_by=PortClaim.position
    )
    leases: Mapped[list[PortLease]] = relationship(lazy="selectin", passive_deletes=True)

    def port_requests(self) -> tuple[PortRequest, ...]:
        """Its ports with the host ports that its claims name or its leases gave."""
        if not self.claims and self.port is not None:  # a row that v1 wrote
            return (PortRequest(host_port=self.port, container_port=self.port),)
        return tuple(
            PortRequest(
                name=claim.name,
                host_ip=claim.host_ip,
                host_port=claim.port,
                container_port=claim.container_port,
                protocol=claim.protocol,
            )
            for claim in self.claims
        )

    def health_check(self) -> HealthCheck | None:
        """Its health check; None if it has none or it is switched off."""
        kind = self.health_check_type or ("http" if self.health_url else None)
        if kind is None or not self.health_check_enabled:
            return None
        return HealthCheck(
            type=CheckType(kind),
            url=self.health_url,
            port=self.health_check_port,
            test=tuple(self.health_check_test or ()),
            interval_s=self.health_check_interval,
            timeout_s=self.health_check_timeout,
            retries=self.health_check_retries,
            start_period_s=self.health_check_start_period,
            expected_status=self.health_expected_status,
        )

    def spec(self, network_name: str = "") -> ServiceSpec:
        """The service as a value, complete enough to be started."""
        return ServiceSpec(
            id=self.id,
            name=self.name,
            group=self.group_name,
            runtime=RuntimeKind(self.runtime),
            image=self.image,
            build=self.build,
            command=tuple(self.command or ()),
            working_dir=self.working_dir,
            user=self.user,
            environment={row.key: row.value for row in sorted(self.environment, key=lambda row: row.key)},
            volumes=tuple(row.volume for row in self.volumes),
            networks=tuple(sorted(row.network for row in self.networks)),
            network_mode=self.network_mode,
            dns_servers=tuple(self.dns_servers or ()),
            labels=dict(self.labels or {}),
            restart_policy=RestartPolicy(self.restart_policy),
            restart_by=self.restart_by,
            cpu_limit=self.cpu_limit,
            memory_limit=self.memory_limit,
            stop_timeout_s=self.stop_timeout,
            ports=self.port_requests(),
            depends_on=tuple(
                Dependency(row.depends_on, Condition(row.condition), row.required, row.restart)
                for row in sorted(self.dependencies, key=lambda row: row.depends_on)
            ),
            health_check=self.health_check(),
            network_name=network_name,
            container=dict(self.container or {}),
        )


_OF_SERVICE = "services.id"


class ServiceTag(Base):
    """A word by which services are found."""

    __tablename__ = "service_tags"
    service_id: Mapped[str] = mapped_column(ForeignKey(_OF_SERVICE, ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(100), primary_key=True, index=True)


class ServiceEnvironment(Base):
    """One variable. A secret's value is never given back."""

    __tablename__ = "service_environment"
    service_id: Mapped[str] = mapped_column(ForeignKey(_OF_SERVICE, ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    secret: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)


class ServiceVolume(Base):
    """One mount, in Compose's short form."""

    __tablename__ = "service_volumes"
    service_id: Mapped[str] = mapped_column(ForeignKey(_OF_SERVICE, ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    volume: Mapped[str] = mapped_column(Text)


class ServiceNetwork(Base):
    """A network beside its group's."""

    __tablename__ = "service_networks"
    service_id: Mapped[str] = mapped_column(ForeignKey(_OF_SERVICE, ondelete="CASCADE"), primary_key=True)
    network: Mapped[str] = mapped_column(String(100), primary_key=True)


class ServiceDependency(Base):
    """`service_id` waits for `depends_on` (a service's id; checked when written, since references may go forward)."""

    __tablename__ = "service_dependencies"
    service_id: Mapped[str] = mapped_column(ForeignKey(_OF_SERVICE, ondelete="CASCADE"), primary_key=True)
    depends_on: Mapped[str] = mapped_column(String(160), primary_key=True, index=True)
    condition: Mapped[str] = mapped_column(String(10), server_default="started", default="started")
    required: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    # It is restarted after that one was updated, or restarted on request.
    restart: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
