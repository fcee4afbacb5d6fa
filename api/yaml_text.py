"""Text in YAML that every reader takes for the same: YAML 1.1, as PyYAML writes it, and 1.2, as Compose reads it."""

import re
from typing import Any

import yaml

# The two versions disagree about what is a number, a date or a word for yes: `0E0`, `1:30`, `012`, `on`. What can be
# none of these in either stays as it is; anything else is quoted.
_PLAIN = re.compile(r"[A-Za-z/$_][^\n]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


class _Dumper(yaml.SafeDumper):
    """Writes strings so."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _string)


def yaml_text(value: Any) -> str:
    """A value as YAML, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
