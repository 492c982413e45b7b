"""What the fetcher is told of registries follows the configuration that is in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.artifacts import Artifacts
from gateway.config import parse_config
from router.errors import ArtifactRefused
from router.model import ModelName, Version, VersionId
from router.ports import Registry, Source
from tests.fakes.registry import FakeRegistry


class Asked(FakeRegistry):
    """A registry that tells what it was asked for."""

    def __init__(self, source: Source | None = None) -> None:
        super().__init__()
        self.uris: list[str] = []

    def source(self, uri: str) -> Source | None:
        self.uris.append(uri)
        return None


def a_version(artifact: str, registry: str = "local") -> Version:
    """One with files somewhere."""
    return Version(registry, ModelName("m"), VersionId("1"), "onnx", artifact)


def test_a_folder_registry_may_name_its_own_files_and_a_reload_allows_more(tmp_path: Path) -> None:
    """Its registry is asked for access of its own first."""
    text = "registries: {local: {type: folder, path: models}}\n"
    more = text + "artifacts: {allow: {files: [other]}}\n"
    registry = Asked()
    artifacts = Artifacts(parse_config(text, "f", tmp_path, {}), lambda name: registry)
    own, other = a_version(f"{tmp_path}/models/m/1/x"), a_version(f"{tmp_path}/other/x")
    artifacts.fetcher.check_place(own)
    with pytest.raises(ArtifactRefused, match=r"artifacts\.allow\.files"):
        artifacts.fetcher.check_place(other)

    artifacts.configure(parse_config(more, "f", tmp_path, {}))

    artifacts.fetcher.check_place(other)
    assert registry.uris == [own.artifact, other.artifact, other.artifact]


def test_a_registry_that_is_gone_may_name_nothing(tmp_path: Path) -> None:
    """A version of it may still be asked for."""

    def nobody(name: str) -> Registry | None:
        return None

    artifacts = Artifacts(parse_config("", "f", tmp_path, {}), nobody)

    with pytest.raises(ArtifactRefused):
        artifacts.fetcher.check_place(a_version(f"{tmp_path}/models/x"))
