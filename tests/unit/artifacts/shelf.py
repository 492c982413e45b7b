"""Artifacts that a test writes, and the model folders that become of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.policy import ArtifactSettings
from router.model import Contract, ModelName, TensorSpec, TritonName, Version, VersionId

CONTRACT = Contract((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("label", "INT64", (-1,)),))
NAME = TritonName("m.1.0a0a0a0a")
ALLOWED = ArtifactSettings(code=("*",))


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder; return it."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def version_of(artifact: Path, format_: str, **fields: Any) -> Version:
    """Version 1 of model `m`."""
    return Version("local", ModelName("m"), VersionId("1"), format_, str(artifact), **fields)


def laid_out(
    folder: Path,
    files: Mapping[str, str | bytes],
    format_: str,
    *,
    backends: frozenset[str] | None = None,
    settings: ArtifactSettings = ALLOWED,
    **fields: Any,
) -> Path:
    """Write an artifact and put it into a repository; the repository's folder."""
    source = write(folder / "source", files)
    repository = TritonRepository(folder / "repository", Fetcher(settings), backends=backends)
    asyncio.run(repository.put(version_of(source, format_, **fields), NAME))
    return folder / "repository"


def config_of(repository: Path, name: str = NAME) -> ModelConfig:
    """The configuration of one model, as Triton would read it."""
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), ModelConfig())


def everything(folder: Path) -> set[str]:
    """All files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
