"""Every mapped class, so that the metadata is whole wherever `models` is imported."""

from models import access, events, groups, import_inputs, installation, operations, orphans, ports, services

__all__ = ["access", "events", "groups", "import_inputs", "installation", "operations", "orphans", "ports", "services"]
