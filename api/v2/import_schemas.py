"""What an import of a Compose project is asked with."""

from typing import Any

from marshmallow import ValidationError, validates_schema

from api.schemas import Flag, Number, Text
from api.v2.definition_fields import ABSOLUTE, Definition, list_of, map_of, name_field, one_of
from api.v2.service_schemas import DAY_S

_LONGEST_TEXT = 256 * 1024


class ImportAgain(Definition):
    """How a group is read from its Compose files again. `variables` are given to the files and kept nowhere."""

    variables = map_of(Text(longest=255, smallest=1, pattern=r"[A-Za-z_][A-Za-z0-9_]*"), Text(longest=32_768), 200)
    profiles = list_of(Text(longest=100, smallest=1, pattern=r"\*|[A-Za-z0-9][A-Za-z0-9_.-]*"), 50)
    env_files = list_of(Text(longest=4096, smallest=1), 20)
    on_unsupported = one_of("refuse", "leave_out")
    content = Text(longest=_LONGEST_TEXT, smallest=1)
    dry_run = Flag()
    timeout = Number(low=1, high=DAY_S)


class ImportGroup(ImportAgain):
    """A Compose project: `path` of a file or its folder, or `content` and the folder that its paths count from."""

    path = Text(longest=4096, smallest=1, pattern=ABSOLUTE)
    directory = Text(longest=4096, smallest=1, pattern=ABSOLUTE)
    name = name_field(50)
    project = name_field(50)
    files = list_of(Text(longest=4096, smallest=1), 20)
    adopt = Flag()

    @validates_schema
    def _one_source(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if ("path" in data) == ("content" in data):
            raise ValidationError({"path": ["Give path or content, one of them."]})
        if "content" in data and data.get("files"):
            raise ValidationError({"files": ["They are files beside path; content is the whole text."]})
        if "path" in data and "directory" in data:
            raise ValidationError({"directory": ["It goes with content; a path's own folder is taken."]})
