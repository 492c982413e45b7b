"""Registries of git repositories, closed after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from router.ports import Registry
from router.registries import dvc
from tests.servers.dvc import Repository


class Opened(Protocol):
    """Opens a registry of a repository, whose remote is allowed."""

    def __call__(self, repository: Repository, **more: object) -> Registry:
        """With these options beside its own."""


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """As many as a test wants."""
    made = []

    def make(repository: Repository, **more: object) -> Registry:
        options = {"path": repository.path, "remotes": (str(repository.remote),), "poll": 0.01, **more}
        made.append(dvc.TYPE.open("models", options))
        return made[-1]

    yield make
    for registry in made:
        await registry.close()
