"""An MLflow in memory behind a real HTTP server, and a registry that reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.registries.mlflow import TYPE, MlflowRegistry
from tests.fakes.mlflow import FakeMlflow
from tests.servers.between import Between, between


@pytest.fixture
def fake() -> FakeMlflow:
    """Two models of two versions each."""
    made = FakeMlflow()
    made.add("digits", 2)
    made.add("wine", 2)
    return made


@pytest.fixture
def server(fake: FakeMlflow) -> Iterator[Between]:
    """Where it answers; a test may put another script in."""
    with between() as made:
        made.script = fake.answer
        yield made


@pytest.fixture
def registry(server: Between) -> MlflowRegistry:
    """A registry over it."""
    opened = TYPE.open("prod", {"uri": server.uri, "timeout": 2.0})
    assert isinstance(opened, MlflowRegistry)
    return opened
