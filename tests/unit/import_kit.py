"""Imports of a project's folder, as the API asks for them and a worker does them. No engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from domain.states import OperationStatus
from models import import_inputs, operations
from models.operations import Operation
from models.ports import PortRange
from models.services import Service
from tests.unit.worker_kit import Kit
from workers import importing, runner


@contextmanager
def kit_with_ranges(tmp_path: Path) -> Iterator[Kit]:
    """A worker's parts, and ranges for the ports that files leave open."""
    folder = tmp_path / "kit"
    folder.mkdir()
    made = Kit(folder)
    with made.record.write() as session:
        session.add(PortRange(project="development", start_port=9000, end_port=9099))
        session.add(PortRange(project="apis", start_port=4000, end_port=4999))
    yield made
    made.close()


class Importer:
    """A project's folder, and imports of it as the API asks for them."""

    def __init__(self, kit: Kit, folder: Path) -> None:
        self.kit = kit
        self.folder = folder
        folder.mkdir()

    def write(self, text: str) -> None:
        (self.folder / "compose.yaml").write_text(text, encoding="utf-8")

    def ask(self, content: str | None = None, variables: dict[str, str] | None = None, **asked: Any) -> str:
        parameters = {"path": str(self.folder)} | asked
        if content is not None:
            del parameters["path"]
            parameters["content"] = True
        with self.kit.record.write() as session:
            made = operations.create(session, importing.IMPORT, targets=[], parameters=parameters, initiated_by="test")
            import_inputs.keep(session, made.id, content, variables or {})
            return made.id

    def does(self, **asked: Any) -> Operation:
        return self.works(self.ask(**asked))

    def works(self, operation_id: str) -> Operation:
        """How it stands once a worker has worked on it."""
        runner.run(self.kit.context, operation_id, importing.carry_out)
        return self.kit.operation(operation_id)

    def imports(self, text: str | None = None, **asked: Any) -> dict[str, Any]:
        """The result of an import that goes well."""
        if text is not None:
            self.write(text)
        ended = self.does(**asked)
        assert ended.status == OperationStatus.COMPLETED.value, ended.error
        assert ended.result is not None
        return ended.result

    def service(self, name: str, group: str = "demo") -> Service:
        return self.kit.service(name, group)
