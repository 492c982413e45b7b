"""When Python looks through all of its memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.collector import settled, starting


class _Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def _thawed() -> Iterator[None]:
    """What a test froze is looked at again, as is right for the tests after it."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_thawed")
def test_what_is_known_after_a_start_is_looked_through_no_more() -> None:
    """What was waste then is gone, and what was kept costs later looks nothing."""
    waste = weakref.ref(_Ring())
    kept = _Ring()

    settled()

    assert waste() is None
    assert gc.get_freeze_count() > 0
    assert not any(found is kept for found in gc.get_objects())


@pytest.mark.usefixtures("_thawed")
def test_waste_of_later_goes() -> None:
    """Only what was there is left out."""
    settled()
    waste = weakref.ref(_Ring())

    gc.collect()

    assert waste() is None


def test_a_start_looks_only_at_what_is_young() -> None:
    """And what held before holds after it, however it ends."""
    before = gc.get_threshold()

    during: list[tuple[int, int, int]] = []

    def start() -> None:
        with starting():
            during.append(gc.get_threshold())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()

    assert during[0][:2] == before[:2]
    assert during[0][2] > 1_000 * before[2]
    assert gc.get_threshold() == before
