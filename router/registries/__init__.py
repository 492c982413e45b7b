"""Adapters that read registries of models.

`open_registry` makes one from a section of the configuration; `types` has the table of their types.
"""

from router.registries.folder import FolderRegistry
from router.registries.types import known_types, open_registry, registry_type

__all__ = ["FolderRegistry", "known_types", "open_registry", "registry_type"]
