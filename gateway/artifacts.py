"""Fetches the files of versions as the configuration says, with the access that their registries give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.config import GatewayConfig, RegistryConfig
from router.artifacts.fetch import Fetcher
from router.artifacts.policy import Origin
from router.model import Version
from router.ports import Registry, Source

_NOBODY = Origin("")
"""What a version of a registry that is not configured any more may name: nothing of its own."""


class Artifacts:
    """One fetcher for all repositories, and what it needs to know of the registries as they are now."""

    def __init__(self, config: GatewayConfig, registry: Callable[[str], Registry | None]) -> None:
        """`registry` finds one that is followed now."""
        self._origins: Mapping[str, Origin] = {}
        self._registry = registry
        self.fetcher = Fetcher(
            config.artifacts.to_settings(),
            origins=lambda name: self._origins.get(name, _NOBODY),
            sources=self._source,
        )
        self.configure(config)

    def configure(self, config: GatewayConfig) -> None:
        """Use a changed configuration from the next fetch on."""
        self._origins = {name: origin_of(section) for name, section in config.registries.items()}
        self.fetcher.configure(config.artifacts.to_settings())

    def _source(self, version: Version) -> Source | None:
        registry = self._registry(version.registry)
        return registry.source(version.artifact) if registry is not None else None


def origin_of(section: RegistryConfig) -> Origin:
    """What a registry is, as far as its artifacts go."""
    path, uri = section.options.get("path"), section.options.get("uri")
    folder = path if section.type == "folder" and isinstance(path, Path) else None
    return Origin(section.type, folder, uri if isinstance(uri, str) else "")
