"""What CLOS is told: flag beats environment beats `config.yaml` beats default.

Only entrypoints call `load`; everything else is given the part it needs. Every mistake is reported at once,
each with its file and line, or its variable. Durations are written `30s`, `500ms`, `15m`, `1h`, `7d` or as a
number of seconds, and arrive as seconds.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from bus.config_file import read_mapping, read_text
from bus.home import expand, home_folder, instance_id, load_or_create_secret, prepare_home
from domain.configuration import (
    CAUSES,
    DEFAULT_PORT_RANGES,
    VERSION,
    Database,
    PortRange,
    ServiceGroup,
    Settings,
    SettingsError,
    ranges_v1_lacks,
)
from domain.configuration_keys import PORT, Kind, OneOf, Whole

__all__ = ["VERSION", "Settings", "SettingsError", "home_folder", "load", "load_or_create_secret", "prepare_home"]

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Duration(fields.Field[float]):
    def _deserialize(self, value: Any, *_: Any, **__: Any) -> float:
        text = str(value).strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text, re.ASCII)
        if isinstance(value, bool) or not parts or "".join(n + unit for n, unit in parts) != text:
            raise ValidationError("Not a duration. Write 30s, 500ms, 15m, 1h, 7d or a number of seconds.")
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class _Text(fields.String):
    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\x00" in text:
            raise ValidationError("Must not contain NUL.")
        return text


class _Whole(fields.Integer):
    """Not `1.9`, not `true`, not `"12"`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid", input=value)
        return value


class _Switch(fields.Boolean):
    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, bool | str):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


def _field(kind: Kind | Whole | OneOf, **kwargs: Any) -> fields.Field[Any]:
    if isinstance(kind, Whole):
        return _Whole(validate=validate.Range(kind.low, kind.high), **kwargs)
    if isinstance(kind, OneOf):
        return _Text(validate=validate.OneOf(kind.choices, error="Must be one of: {choices}."), **kwargs)
    if kind is Kind.TEXTS:
        return fields.List(_Text())
    plain: dict[Kind, type[fields.Field[Any]]] = {Kind.TEXT: _Text, Kind.SWITCH: _Switch, Kind.DURATION: _Duration}
    return plain[kind](**kwargs)


_V1_ONLY = {"project", "infrastructure", "services", "health_checks"}
_SECTIONS: dict[str, Any] = {
    field.name: type(field.default) for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.default)
}
_RANGE: dict[str, fields.Field[Any]] = {
    "project": _Text(required=True),
    "start_port": _field(PORT, required=True),
    "end_port": _field(PORT, required=True),
}
_GROUP: dict[str, fields.Field[Any]] = {
    "name": _Text(required=True),
    "dependencies": _field(Kind.TEXTS),
    "start_order": _field(Whole(-1000, 1000)),
    "compose_file": _Text(allow_none=True),
}
_KEYS: dict[str, fields.Field[Any]] = {
    "version": fields.Raw(),
    "environment": _Text(),
    "port_ranges": fields.List(fields.Nested(Schema.from_dict(_RANGE))),
    "service_groups": fields.List(fields.Nested(Schema.from_dict(_GROUP))),
} | {
    f"{section}.{key.metadata['name'] or key.name}": _field(key.metadata["kind"])
    for section, kind in _SECTIONS.items()
    for key in dataclasses.fields(kind)
}
_SHORT = {
    "CLOS_ENV": "environment",
    "DATABASE_URL": "database.url",
    "DATABASE_PATH": "database.path",
    "REDIS_URL": "redis.url",
    "DOCKER_HOST": "docker.host",
    "CLOS_API_HOST": "api.host",
    "CLOS_API_PORT": "api.port",
    "CLOS_WS_PORT": "websocket.port",
    "CLOS_PORT_RANGES": "port_ranges",
    "CLOS_SERVICE_GROUPS": "service_groups",
}
_FLAGS = {"--port": "api.port", "--ws-port": "websocket.port", "--workers": "workers.processes"}


def _shape(key: str, value: Any) -> Any:
    if key == "port_ranges":
        return [PortRange(r["project"], r["start_port"], r["end_port"]) for r in value]
    if key == "service_groups":
        return [ServiceGroup(**(g | {"dependencies": tuple(g.get("dependencies", ()))})) for g in value]
    return tuple(value) if isinstance(value, list) else value


class _Layer:
    """One source of values: a file, one of its environments, the environment variables, the flags."""

    def __init__(self, problems: list[str]) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.problems = problems

    def take(self, key: str, raw: Any, source: str, lines: Mapping[str, str] | None = None) -> None:
        """Keep a valid value, or note what is wrong with it where it stands."""
        where = lines or {}
        self.sources[key] = source
        try:
            self.values[key] = None if raw is None else _shape(key, _KEYS[key].deserialize(raw))
        except ValidationError as refused:
            for path, text in _flat(refused.messages, key):
                self.problems.append(
                    f"{where.get(path) or where.get(path.rpartition('.')[0]) or source}: {path}: {text}"
                )

    def take_tree(self, tree: Mapping[str, Any], lines: Mapping[str, str], prefix: str = "", at: str = "") -> None:
        """Keep every known key of a mapping; `at` is where the mapping itself stands in its file."""
        for name, value in tree.items():
            key, path = f"{prefix}{name}", f"{at}{prefix}{name}"
            if key in _KEYS:
                inner = {k.removeprefix(at): line for k, line in lines.items()} if at else lines
                self.take(key, value, lines[path], inner)
            elif any(known.startswith(f"{key}.") for known in _KEYS):
                if isinstance(value, dict):
                    self.take_tree(value, lines, f"{key}.", at)
                elif value is not None:
                    self.problems.append(f"{lines[path]}: {key}: Must be a mapping.")
            else:
                self.problems.append(f"{lines[path]}: {_unknown(key)}")


def _flat(messages: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            yield from _flat(inner, f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}")
    else:
        for text in messages if isinstance(messages, list) else [messages]:
            yield path, str(text)


def _unknown(key: str) -> str:
    parent, _, name = key.rpartition(".")
    known = {k.removeprefix(f"{parent}.").partition(".")[0] for k in _KEYS if not parent or k.startswith(f"{parent}.")}
    near = difflib.get_close_matches(name, known | (set() if parent else {"environments"}), 1)
    if not near:
        near = [k for k in _KEYS if k.rpartition(".")[2] == name][:1]
    return f"{key}: Unknown key." + (f" Did you mean '{near[0]}'?" if near else "")


def _from_text(key: str, text: str) -> Any:
    """What an environment variable means; left as it is where that cannot be told, for the key to refuse."""
    kind = _KEYS[key]
    if isinstance(kind, _Whole) and re.fullmatch(r"[-+]?[0-9]{1,20}", text.strip()):
        return int(text)
    if isinstance(kind, fields.List):
        if isinstance(kind.inner, fields.String) and not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return read_text(text)
        except ValueError:
            return text
    return text


def _environment_layer(environ: Mapping[str, str], problems: list[str]) -> _Layer:
    layer = _Layer(problems)
    for name, text in sorted(environ.items()):
        value = text
        variable = name.removesuffix("_FILE")
        key = _SHORT.get(variable)
        if key is None and re.fullmatch(r"CLOS_[A-Z0-9_]*?__.+", variable):
            key = variable[5:].lower().replace("__", ".")
        if key is None or not text or (name != variable and environ.get(variable)):
            continue
        if key not in _KEYS:
            problems.append(f"env {name}: {_unknown(key)}")
            continue
        if name != variable:
            try:
                value = Path(value).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as unreadable:
                problems.append(f"env {name}: {unreadable}")
                continue
        if key in layer.values and variable in _SHORT:
            continue  # the long form, which sorts first, is the more deliberate one
        layer.take(key, _from_text(key, value), f"env {name}")
    return layer


def _file_layers(file: Path, environment: str | None, problems: list[str]) -> tuple[list[_Layer], list[str]]:
    tree, lines = read_mapping(file, problems)
    warnings = []
    overrides = tree.pop("environments", None) or {}
    if _V1_ONLY & tree.keys():
        # The form that v1's maintenance scripts left in checkouts: its `environments` are something else too.
        overrides = {}
        for name in sorted(_V1_ONLY & tree.keys()):
            warnings.append(f"{lines[name]}: {name}: ignored, it is v1's; `clos migrate` takes over what it can")
            del tree[name]
    base = _Layer(problems)
    for part, at in ((tree, ""), *((o, f"environments.{n}.") for n, o in _mappings(overrides))):
        warnings += _old_reconcile(part, lines, at)
    base.take_tree(tree, lines)
    if "version" not in tree and "port_ranges" in base.values:
        base.values["port_ranges"] += ranges_v1_lacks(base.values["port_ranges"])
    if not isinstance(overrides, dict) or not all(isinstance(o, dict | None) for o in overrides.values()):
        problems.append(f"{lines['environments']}: environments: Must map each name to a mapping.")
        return [base], warnings
    layers = {name: _Layer(problems) for name in overrides}
    for name, layer in layers.items():
        layer.take_tree(overrides[name] or {}, lines, at=f"environments.{name}.")
    chosen = layers.get(environment or base.values.get("environment") or "dev")
    return [base] + ([chosen] if chosen else []), warnings


def _mappings(overrides: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(n, o) for n, o in overrides.items() if isinstance(o, dict)] if isinstance(overrides, dict) else []


def _old_reconcile(tree: dict[str, Any], lines: dict[str, str], at: str) -> list[str]:
    """`reconcile: report` stands for all causes; what releases before it had there means nothing any more."""
    said = tree.get("reconcile")
    if isinstance(said, str):
        tree["reconcile"] = dict.fromkeys(CAUSES, said)
        lines |= {f"{at}reconcile.{cause}": lines[f"{at}reconcile"] for cause in CAUSES}
        return []
    old = [key for key in ("enabled", "interval") if isinstance(said, dict) and key in said]
    for key in old:
        del tree["reconcile"][key]
    text = "ignored, it never had an effect; say `off`, `report` or `repair`"
    return [f"{lines[f'{at}reconcile.{key}']}: reconcile.{key}: {text}" for key in old]


def load(
    environ: Mapping[str, str], flags: Mapping[str, Any] | None = None, config_path: Path | None = None
) -> Settings:
    """Read everything that CLOS is told. Writes nothing. `flags` are `{"api.port": 9000}`; None is not given.

    Raises:
        SettingsError: with every mistake there is.
    """
    problems: list[str] = []
    home = home_folder(environ, flags)
    named = config_path or (environ.get("CLOS_CONFIG") and Path(expand(environ["CLOS_CONFIG"], environ)))
    file = Path(named) if named else home / "config.yaml"
    from_environ, from_flags = _environment_layer(environ, problems), _Layer(problems)
    names = {key: flag for flag, key in _FLAGS.items()}
    for key, value in (flags or {}).items():
        if key in _KEYS and value is not None:
            from_flags.take(key, value, f"flag {names.get(key, key)}")
    layers: list[_Layer] = []
    warnings: list[str] = []
    if named or file.exists():
        wanted = from_flags.values.get("environment") or from_environ.values.get("environment")
        layers, warnings = _file_layers(file, wanted, problems)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in [*layers, from_environ, from_flags]:
        _one_database(layer, values)
        values |= {key: value for key, value in layer.values.items() if value is not None}
        sources |= layer.sources
    if not problems:
        settings = _assemble(home, values, environ)
        problems += _contradictions(settings, sources)
    if problems:
        raise SettingsError(problems)
    return dataclasses.replace(
        settings, config_file=file if layers else None, warnings=tuple(warnings), instance_id=instance_id(home)
    )


def _one_database(layer: _Layer, values: dict[str, Any]) -> None:
    """A path replaces a url that a lower layer gave, and the other way round; one layer gives one of them."""
    if layer.values.get("database.path") and layer.values.get("database.url"):
        layer.problems.append(f"{layer.sources['database.path']}: database.path: There is database.url too.")
    for given, other in (("database.path", "database.url"), ("database.url", "database.path")):
        if layer.values.get(given):
            values.pop(other, None)


def _assemble(home: Path, values: dict[str, Any], environ: Mapping[str, str]) -> Settings:
    made: dict[str, Any] = {}
    for section, kind in _SECTIONS.items():
        keys = {key.name: f"{section}.{key.metadata['name'] or key.name}" for key in dataclasses.fields(kind)}
        given = {name: values[key] for name, key in keys.items() if key in values}
        made[section] = kind(**given)
    settings = Settings(home=home, environment=values.get("environment", "dev"), **made)
    api, websocket = settings.api, settings.websocket
    ranges = tuple(values.get("port_ranges", DEFAULT_PORT_RANGES))
    reach = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}  # noqa: S104 - where to call, not to bind
    api_url, ws_url = (f"{reach.get(part.host, part.host)}:{part.port}" for part in (api, websocket))
    return dataclasses.replace(
        settings,
        database=_database(settings.database, home, environ),
        api=dataclasses.replace(api, public_url=api.public_url or f"http://{api_url}"),
        websocket=dataclasses.replace(websocket, public_url=websocket.public_url or f"ws://{ws_url}/api/v2/ws"),
        port_ranges=ranges,
        service_groups=tuple(values.get("service_groups", ())),
    )


def _database(given: Database, home: Path, environ: Mapping[str, str]) -> Database:
    if given.url and not given.url.startswith("sqlite"):
        return dataclasses.replace(given, path=None)
    wish = given.url.partition(":///")[2] if given.url else str(given.path or "registry.db")
    path = Path(os.path.abspath(home / expand(wish, environ)))
    return dataclasses.replace(given, path=path, url=f"sqlite:///{path}")


def _contradictions(settings: Settings, sources: Mapping[str, str]) -> list[str]:
    """What no key shows on its own."""
    api, websocket, database = settings.api, settings.websocket, settings.database
    tls = settings.security.tls_cert, settings.security.tls_key
    found = [
        ("api.port", api.port == websocket.port, f"The WebSocket gateway has {api.port} too; each needs its own."),
        ("security.tls.cert", bool(tls[0]) != bool(tls[1]), "Give cert and key, or neither."),
        (
            "database.url",
            database.url.startswith("sqlite")
            and ("?" in database.url or database.path in (None, settings.home, settings.home / ":memory:")),
            "Must name a file: CLOS has several processes; and no '?'.",
        ),
        (
            "database.url",
            not re.match(r"(postgresql(\+psycopg)?|sqlite(\+\w+)?)://", database.url),
            "Must be sqlite:///… or postgresql://…",
        ),
    ] + [("port_ranges", r.end < r.start, f"{r.project} ends before it starts.") for r in settings.port_ranges]
    return [f"{_source(key, sources)}: {key}: {text}" for key, wrong, text in found if wrong]


def _source(key: str, sources: Mapping[str, str]) -> str:
    near = {"api.port": "websocket.port", "security.tls.cert": "security.tls.key", "database.url": "database.path"}
    return sources.get(key) or sources.get(near.get(key, ""), "default")
