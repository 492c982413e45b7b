"""Comparing answers of shadows beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from tritonclient.grpc import service_pb2

from gateway.operations import Mismatch
from gateway.shadow import RECENT, ShadowComparer
from router.model import Tolerance


def answer(*values: float) -> bytes:
    """An answer of one FP32 tensor."""
    message = service_pb2.ModelInferResponse()
    message.outputs.add(name="y", datatype="FP32", shape=[len(values)]).contents.fp32_contents.extend(values)
    return bytes(message.SerializeToString())


@dataclass(frozen=True)
class Pair:
    """As the data plane gives it."""

    primary: bytes
    copy: bytes
    model: str = "m"
    version: str = "1"
    shadow: str = "next"
    shadow_version: str = "2"
    request: str = "token"


@dataclass
class Source:
    """Gives what it is given, and tells when it was asked again."""

    given: asyncio.Queue[Sequence[Pair]] = field(default_factory=asyncio.Queue)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def shadow_pairs(self, most: int) -> Sequence[Pair]:
        if self.given.empty():
            self.idle.set()
        pairs = await self.given.get()
        assert len(pairs) <= most
        return pairs

    async def give(self, *pairs: Pair) -> None:
        """And return when they were compared."""
        self.idle.clear()
        for pair in pairs:
            self.given.put_nowait([pair])
        await self.idle.wait()


@pytest.fixture
def source() -> Source:
    """Where pairs come from."""
    return Source()


@pytest.fixture
async def comparer(source: Source) -> AsyncIterator[ShadowComparer]:
    """A running one; the model `gone` has no shadow any more."""

    def tolerance(model: str, shadow: str) -> Tolerance | None:
        assert shadow == "next"
        return None if model == "gone" else Tolerance(0.01, 0.0)

    comparer = ShadowComparer(source, tolerance, lambda: 7.0)
    task = asyncio.create_task(comparer.run())
    yield comparer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_pairs_are_counted_by_their_worst_difference(source: Source, comparer: ShadowComparer) -> None:
    """Those that agree count as compared; decisions are counted beside."""
    await source.give(
        Pair(answer(0.1, 0.9), answer(0.105, 0.9)),
        Pair(answer(0.25, 1.0), answer(1.0, 0.25), request="a"),
        Pair(answer(1.0, 2.0), answer(1.0), request="b"),
        Pair(answer(1.0), b"\xff", request="c"),
        Pair(b"\xff", answer(1.0), request="d"),
    )

    (found,) = comparer.comparisons()
    assert (found.model, found.version, found.shadow, found.compared) == ("m", "2", "next", 5)
    assert found.mismatches == {"value": 1, "shape": 1, "invalid": 1, "primary_invalid": 1}
    assert (found.rows, found.agreed) == (2, 1)
    assert [(one.request, one.kind) for one in found.recent] == [
        ("d", "primary_invalid"),
        ("c", "invalid"),
        ("b", "shape"),
        ("a", "value"),
    ]
    assert found.recent[-1] == Mismatch(
        7.0, "a", "1", "value", "y", "2 of 2 elements differ, by at most 0.75", 0.75
    )


async def test_only_the_last_mismatches_are_kept(source: Source, comparer: ShadowComparer) -> None:
    """They are for people to look at; numbers go on."""
    await source.give(*(Pair(answer(1.0), answer(2.0), request=str(at)) for at in range(RECENT + 5)))

    (found,) = comparer.comparisons()
    assert found.mismatches == {"value": RECENT + 5}
    assert [one.request for one in found.recent] == [str(at) for at in range(RECENT + 4, 4, -1)]


async def test_a_pair_whose_shadow_left_the_route_is_nothing(
    source: Source, comparer: ShadowComparer
) -> None:
    """Nobody is left to be told."""
    await source.give(Pair(answer(1.0), answer(2.0), model="gone"))

    assert comparer.comparisons() == ()
