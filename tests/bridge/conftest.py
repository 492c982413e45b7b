"""A running data plane on a free port of the loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.bridge import DataPlane, Settings


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    """One thread, an empty table."""
    plane = DataPlane(Settings())
    yield plane
    plane.stop()
