"""Looks by calls that block: they end in time, and one that fails makes the next ones rarer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from router.errors import RegistryIncomplete, RegistryUnavailable, Unavailable
from router.model import RegistryView
from router.registries import looks
from router.registries.looks import Asked, Looks

VIEW = RegistryView("shop", {})
ASKED = Asked("shop", "the shop", poll=5.0, timeout=30.0)


class Refused(Exception):
    """Who asks may not."""


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What a call can hang on; it goes on when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def raising(problem: Exception) -> RegistryView:
    """A reading that fails."""
    raise problem


async def pauses(monkeypatch: pytest.MonkeyPatch, made: Looks, most: int) -> list[tuple[int, float]]:
    """How often in a row nobody answered, and how long the last look took, at each of the next pauses."""
    seen: list[tuple[int, float]] = []

    def pause(poll: float, failures: int, chance: float, took: float) -> float:
        assert poll == ASKED.poll
        seen.append((failures, took))
        return 0.0

    monkeypatch.setattr(looks, "pause", pause)
    changes = made.changes()
    for _ in range(most):
        await anext(changes)
    return seen


async def test_one_that_hangs_is_left_in_time(held: threading.Event) -> None:
    """The caller is told who gave no answer, and the connection is not used again."""
    left: list[str] = []
    made = Looks(ASKED, lambda: left.append("connection"))

    with pytest.raises(RegistryUnavailable, match=r"registry 'shop': the shop gave no answer in 0\.01 s"):
        await made.call(held.wait, 0.01)
    assert left == ["connection"]


async def test_failures_are_counted_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer is an answer: it changes nothing."""
    made = Looks(ASKED, lambda: None)
    counts = []
    for problem in (
        RegistryUnavailable("away"),
        RegistryIncomplete("more"),
        RegistryUnavailable("away"),
        None,
    ):
        if problem is None:
            assert await made.read(lambda: VIEW) is VIEW
        else:
            with pytest.raises(Unavailable):
                await made.read(lambda problem=problem: raising(problem))  # type: ignore[misc]
        counts += [failures for failures, _ in await pauses(monkeypatch, made, 1)]

    assert counts == [1, 1, 2, 0]


async def test_some_errors_end_a_connection_too(held: threading.Event) -> None:
    """Others leave it as it is; both reach the caller."""
    left: list[str] = []
    made = Looks(ASKED, lambda: left.append("connection"), abandoned_by=Refused)

    with pytest.raises(ZeroDivisionError):
        await made.call(lambda: 1 // 0)
    assert left == []
    with pytest.raises(Refused):
        await made.read(lambda: raising(Refused()))
    assert left == ["connection"]


@pytest.mark.parametrize("from_begin", [True, False])
async def test_what_a_look_takes_counts_where_looks_begin_a_poll_apart(
    monkeypatch: pytest.MonkeyPatch, *, from_begin: bool
) -> None:
    """The first pause has no look before it."""
    made = Looks(Asked("shop", "the shop", 5.0, 30.0, from_begin), lambda: None)
    (_, first), (_, second) = await pauses(monkeypatch, made, 2)

    assert first == 0.0
    assert (second > 0.0) is from_begin
