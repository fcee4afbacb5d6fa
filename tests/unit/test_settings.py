import os
import stat
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import settings
from domain.configuration import CAUSES
from settings import Settings, SettingsError

V1_FILE = """
database:    {path: ~/.clos/registry.db, timeout: 30s}
docker:      {host: unix:///var/run/docker.sock, compose_version: "3.8", network_name: clos-network,
              templates_dir: ~/.clos/templates, compose_files_dir: ~/.clos/compose}
port_ranges: [{project: core, start_port: 5000, end_port: 5999}]
service_groups: [{name: core, dependencies: [], start_order: 1, compose_file: core.yml}]
dashboard:   {port: 8080, host: localhost, enabled: true}
logging:     {level: info, format: text, file: ~/.clos/clos.log}
"""


def load(tmp_path: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    given = {"HOME": str(tmp_path), "CLOS_HOME": str(tmp_path / "home"), "CLOS_CONFIG": str(file)}
    return settings.load(given | dict(environ or {}), {k.replace("__", "."): v for k, v in flags.items()})


def problems(tmp_path: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(tmp_path, text, environ, **flags)
    return [p.replace(f"{tmp_path}/", "") for p in raised.value.problems]


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    found = settings.load({"CLOS_HOME": str(tmp_path)})
    assert (found.api.port, found.websocket.port, found.dashboard.port) == (8081, 8082, 3500)
    assert found.redis.embedded
    assert found.database.path == tmp_path / "registry.db"
    assert found.database.url == f"sqlite:///{tmp_path}/registry.db"
    assert found.websocket.public_url == "ws://127.0.0.1:8082/api/v2/ws"
    assert (found.performance.max_concurrent_operations, found.performance.max_parallel_steps) == (None, 8)
    assert found.operation_threads == 8
    assert ("development", 9000, 9999) in found.port_ranges
    assert found.instance_id == ""


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text, env = "api: {port: 1001, host: 0.0.0.0}", {"CLOS_API_PORT": "1002"}
    assert load(tmp_path, text).api.port == 1001
    assert load(tmp_path, text, env).api.port == 1002
    assert load(tmp_path, text, env, api__port=1003).api.port == 1003
    assert load(tmp_path, text, env, api__port=None).api.port == 1002
    assert load(tmp_path, text, env).api.host == "0.0.0.0"


def test_an_environments_block_changes_the_file_and_yields_to_variables(tmp_path: Path) -> None:
    text = "version: 2\nenvironments: {prod: {api: {port: 2000}, workers: {threads: 3}}}"
    assert load(tmp_path, text).api.port == 8081
    assert load(tmp_path, text, {"CLOS_ENV": "prod"}).api.port == 2000
    found = load(tmp_path, text, {"CLOS_ENV": "prod", "CLOS_API__PORT": "2001"})
    assert (found.api.port, found.workers.threads, found.environment) == (2001, 3, "prod")


@pytest.mark.parametrize(
    ("environ", "read"),
    [
        ({"CLOS_ENV": "staging"}, lambda s: s.environment == "staging"),
        ({"CLOS_API_HOST": "::1"}, lambda s: s.api.public_url == "http://[::1]:8081"),
        ({"CLOS_WS_PORT": "99"}, lambda s: s.websocket.port == 99),
        ({"REDIS_URL": "redis://h:1/0"}, lambda s: s.redis_url() == "redis://h:1/0" and not s.redis.embedded),
        ({"DOCKER_HOST": "tcp://x:1"}, lambda s: s.docker.host == "tcp://x:1"),
        ({"DATABASE_PATH": "/a b/r.db"}, lambda s: s.database.url == "sqlite:////a b/r.db"),
        ({"DATABASE_URL": "postgresql://u@h/d"}, lambda s: s.database.path is None),
        ({"CLOS_MONITORING__INTERVALS__STATE": "1m30s"}, lambda s: s.monitoring.state_interval_s == 90),
        ({"CLOS_MONITORING__INTERVALS__STATE": "0.5"}, lambda s: s.monitoring.state_interval_s == 0.5),
        ({"CLOS_SECURITY__JWT__ACCESS_TTL": "500ms"}, lambda s: s.security.access_ttl_s == 0.5),
        ({"CLOS_API__CORS": "http://a, http://b"}, lambda s: s.api.cors == ("http://a", "http://b")),
        ({"CLOS_CONFLICTS__AUTO_RESOLVE": "yes"}, lambda s: s.conflicts.auto_resolve is True),
        (
            {"CLOS_PORT_RANGES": '[{"project": "a", "start_port": 5, "end_port": 9}]'},
            lambda s: s.port_ranges == (("a", 5, 9),),
        ),
        ({"CLOS_API_PORT": "", "CLOS_WS_URL": "other", "HOME__X": "1"}, lambda s: s.api.port == 8081),
        ({"CLOS_API_PORT": "1", "CLOS_API__PORT": "2"}, lambda s: s.api.port == 2),
    ],
)
def test_variables_reach_their_keys(tmp_path: Path, environ: dict[str, str], read: object) -> None:
    assert read(load(tmp_path, "", environ))  # type: ignore[operator]


def test_a_database_path_replaces_the_files_url_and_the_other_way_round(tmp_path: Path) -> None:
    assert load(tmp_path, "database: {url: 'postgresql://h/d'}", {"DATABASE_PATH": "/x"}).database.path == Path("/x")
    assert load(tmp_path, "database: {path: /x}", {"DATABASE_URL": "postgresql://h/d"}).database.path is None


def test_a_word_alone_is_a_reconcile_policy_and_the_keys_of_before_are_read_over(tmp_path: Path) -> None:
    said = load(tmp_path, "reconcile: off\n").reconcile
    assert {getattr(said, cause) for cause in CAUSES} == {"off"}

    older = load(tmp_path, "reconcile:\n  enabled: true\n  interval: 30s\n  person: repair\n")
    assert (older.reconcile.person, older.reconcile.engine) == ("repair", "repair")
    assert [each.split(": ")[1] for each in older.warnings] == ["reconcile.enabled", "reconcile.interval"]

    wrong = problems(tmp_path, "reconcile: sometimes\n")
    assert "config.yaml:1: reconcile.crash: Must be one of: off, report, repair." in wrong


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("redis://:pw@h/0\n")
    assert load(tmp_path, "", {"REDIS_URL_FILE": str(tmp_path / "secret")}).redis.url == "redis://:pw@h/0"
    assert "env REDIS_URL_FILE: " in problems(tmp_path, "", {"REDIS_URL_FILE": "/none"})[0]


def test_v1s_file_is_read_with_v2s_ranges_added_where_there_is_room(tmp_path: Path) -> None:
    found = load(tmp_path, V1_FILE)
    assert found.database.path == tmp_path / ".clos/registry.db"
    assert found.database.timeout_s == 30
    assert (found.dashboard.port, found.docker.templates_dir) == (8080, "~/.clos/templates")
    assert [r.project for r in found.port_ranges] == ["core", "monitoring", "development"]
    assert found.service_groups[0].compose_file == "core.yml"
    crowded = V1_FILE.replace("end_port: 5999", "end_port: 8050")
    assert [r.project for r in load(tmp_path, crowded).port_ranges] == ["core", "development"]
    assert [r.project for r in load(tmp_path, V1_FILE + "version: 2").port_ranges] == ["core"]


def test_the_checkouts_form_is_read_as_far_as_it_maps_and_the_rest_is_named(tmp_path: Path) -> None:
    found = load(tmp_path, "project: {name: x}\nservices: {a: 1}\nenvironments: [dev]\nlogging: {level: debug}")
    assert found.logging.level == "debug"
    assert [w.split(": ")[1] for w in found.warnings] == ["project", "services"]


def test_every_mistake_is_reported_at_once_with_its_place_and_a_guess(tmp_path: Path) -> None:
    text = """version: 2
api:
  port: abc
  hots: x
  port: 9
websocket: {port: true, max_clients: 1.9}
apii: {}
workers: 3
port_ranges:
  - project: x
    start_port: 99999
environments:
  prod:
    api: {prot: 9}
port: 3
"""
    assert problems(tmp_path, text, {"CLOS_API__PROT": "1", "CLOS_WS_PORT": "1.9"}, workers__processes=0) == [
        "env CLOS_API__PROT: api.prot: Unknown key. Did you mean 'port'?",
        "env CLOS_WS_PORT: websocket.port: Not a valid integer.",
        "flag --workers: workers.processes: Must be greater than or equal to 1 and less than or equal to 64.",
        "config.yaml:5: api.port: given twice",
        "config.yaml:4: api.hots: Unknown key. Did you mean 'host'?",
        "config.yaml:6: websocket.port: Not a valid integer.",
        "config.yaml:6: websocket.max_clients: Not a valid integer.",
        "config.yaml:7: apii: Unknown key. Did you mean 'api'?",
        "config.yaml:8: workers: Must be a mapping.",
        "config.yaml:11: port_ranges[0].start_port: Must be greater than or equal to 1 and less than or equal"
        " to 65535.",
        "config.yaml:10: port_ranges[0].end_port: Missing data for required field.",
        "config.yaml:15: port: Unknown key. Did you mean 'api.port'?",
        "config.yaml:14: api.prot: Unknown key. Did you mean 'port'?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api: {port: 8082}", "config.yaml:1: api.port: The WebSocket gateway has 8082 too"),
        ("version: 2\nsecurity: {tls: {cert: a}}", "config.yaml:2: security.tls.cert: Give cert and key"),
        ("database: {url: 'mysql://x'}", "config.yaml:1: database.url: Must be sqlite"),
        ("database: {url: 'sqlite://'}", "config.yaml:1: database.url: Must name a file"),
        ("database: {path: ':memory:'}", "config.yaml:1: database.url: Must name a file"),
        ("database: {path: a, url: 'sqlite:///b'}", "config.yaml:1: database.path: There is database.url too."),
        ("port_ranges: [{project: a, start_port: 5, end_port: 4}]", "config.yaml:1: port_ranges: a ends before"),
        ("database: {timeout: soon}", "config.yaml:1: database.timeout: Not a duration."),
        ("database: {timeout: true}", "config.yaml:1: database.timeout: Not a duration."),
        ("database: {timeout: -3s}", "config.yaml:1: database.timeout: Not a duration."),
        ("logging: {level: loud}", "config.yaml:1: logging.level: Must be one of: debug"),
        ("api: {host: 12}", "config.yaml:1: api.host: Not a valid string."),
        ("conflicts: {auto_resolve: 1}", "config.yaml:1: conflicts.auto_resolve: Not a valid boolean."),
        ("api: {port: 22:22}", "config.yaml:1: api.port: Not a valid integer."),
        ("api: {port: '12'}", "config.yaml:1: api.port: Not a valid integer."),
        ("api: {port: 9223372036854775808}", "config.yaml:1: api.port: Must be greater"),
        ("api: {port: !!python/name:os.system x}", "config.yaml:1: api.port: the tag"),
        ('api: {host: "a\\0b"}', "config.yaml:1: api.host: Must not contain NUL."),
        ("environments: [prod]", "config.yaml:1: environments: Must map"),
        ("- a", "config.yaml: not a mapping"),
        ("a: 'b\n", "config.yaml:2: not valid YAML"),
        ("a: &a [*a]", "config.yaml: too deep"),
        ("a: &a [x]\nb: [" + "*a," * 60 + "]", "config.yaml: too deep"),
        ("[" * 5000, "config.yaml: too deep"),
        ("a: [" + "1," * 21_000 + "]", "config.yaml: too deep"),
        ("#" * 300_000, "config.yaml: larger than 256 KiB"),
        ("a: 1\n---\nb: 2", "config.yaml:2: not valid YAML"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text)[0].startswith(expected)


def test_no_is_a_word_where_a_word_is_wanted(tmp_path: Path) -> None:
    assert load(tmp_path, "environment: no").environment == "no"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    with pytest.raises(SettingsError, match=r"gone\.yaml: No such file"):
        settings.load({"CLOS_HOME": str(tmp_path)}, config_path=gone)
    gone.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"gone\.yaml: 'utf-8' codec"):
        settings.load({"CLOS_HOME": str(tmp_path)}, config_path=gone)


def test_the_embedded_servers_url_is_read_from_the_home(tmp_path: Path) -> None:
    found = settings.load({"CLOS_HOME": str(tmp_path)})
    with pytest.raises(SettingsError, match="clos up"):
        found.redis_url()
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "url").write_text("unix:///x\n")
    assert found.redis_url() == "unix:///x"


def test_the_home_is_private_and_keeps_its_id(tmp_path: Path) -> None:
    home = settings.prepare_home(tmp_path / "a b" / "home")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "instance-id").stat().st_mode) == 0o600
    first = settings.load({"CLOS_HOME": str(home)}).instance_id
    assert len(first) == 32
    settings.prepare_home(home)
    assert settings.load({"CLOS_HOME": str(home)}).instance_id == first


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file"):
        settings.prepare_home(tmp_path / "file")


def test_all_who_ask_for_a_secret_at_once_get_the_same_one(tmp_path: Path) -> None:
    found: list[bytes] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(5)
        found.append(settings.load_or_create_secret(tmp_path, "jwt"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(tmp_path / "keys") == ["jwt"]
    assert stat.S_IMODE((tmp_path / "keys" / "jwt").stat().st_mode) == 0o600
    with pytest.raises(SettingsError, match="bytes long"):
        settings.load_or_create_secret(tmp_path, "jwt", 16)


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(settings.__file__).parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == settings.VERSION
