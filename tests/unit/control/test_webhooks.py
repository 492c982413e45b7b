"""A registry's notice is checked, answered, and what it is about is read and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from router.control import webhooks
from router.errors import NotSupported, RegistryUnavailable
from router.model import ModelName, VersionId
from router.ports import ColdWanted, Hint, WebhookArrived
from tests.unit.control.conftest import World

SIGNED = {"x-signature": "signed"}


def notice(body: str, *, registry: str = "local", headers: Mapping[str, str] = SIGNED) -> WebhookArrived:
    """One that was posted."""
    return WebhookArrived(7, registry, headers, body.encode())


def results(world: World) -> dict[tuple[str, str], int]:
    """What was counted."""
    return dict(world.controller.webhooks.results)


async def test_an_alias_s_move_is_asked_for_alone_and_is_live(world: World) -> None:
    """Among 1,000 models of three versions: one question about one alias, one model in the delta."""
    world.add_triton()
    for number in range(1000):
        world.shelf.set(f"m{number}", "123", {"production": "1"}, {"champion": "1"})
    await world.settle()
    for version in "12":
        world.plane.happen(ColdWanted("m500", version))
    await world.settle()
    world.shelf.hints.clear()
    name = ModelName("m500")
    world.shelf.models[name] = replace(world.shelf.models[name], aliases={"champion": VersionId("2")})
    before, tables = world.plane.models, len(world.plane.history)

    world.plane.happen(notice("m500 champion"))
    await world.settle()

    assert world.shelf.hints == [Hint(name, "champion")]
    assert world.plane.answers == {7: (200, "")}
    assert world.controller.models[name].serving.pointers[0].version == "2"
    changed = [model for model in before if before[model] is not world.plane.models[model]]
    assert changed == ["m500"]
    assert len(world.plane.history) == tables + 1
    assert results(world) == {("local", "taken"): 1}


@pytest.mark.parametrize(
    ("posted", "answer", "counted"),
    [
        (notice("m", registry="nobody"), (404, "no registry of that name takes notices"), "unsupported"),
        (notice("m", headers={}), (401, "the signature is wrong"), "refused"),
    ],
)
async def test_what_is_not_a_registry_s_notice_changes_nothing(
    world: World, posted: WebhookArrived, answer: tuple[int, str], counted: str
) -> None:
    """It is answered, counted, and nothing is read for it."""
    world.shelf.set("m", "1")
    await world.settle()
    reads = world.shelf.reads
    world.plane.happen(posted)
    await world.settle()

    assert world.plane.answers == {7: answer}
    assert world.shelf.reads == reads
    assert results(world) == {("_unknown" if posted.registry == "nobody" else "local", counted): 1}


@pytest.mark.parametrize(
    ("fault", "answer", "counted"),
    [
        (NotSupported("a folder sends none"), (404, "a folder sends none"), "unsupported"),
        (RegistryUnavailable("the secret in file x"), (503, "notices cannot be checked now"), "failed"),
        (ZeroDivisionError("a bug"), (500, "internal error"), "failed"),
    ],
)
async def test_an_adapter_that_cannot_check_is_told_apart(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception, answer: tuple[int, str], counted: str
) -> None:
    """Its sender may try again where that helps, and learns nothing of what is inside."""

    def check(headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        raise fault

    monkeypatch.setattr(world.shelf, "webhook", check)
    world.plane.happen(notice("m"))
    await world.settle()

    assert world.plane.answers == {7: answer}
    assert results(world) == {("local", counted): 1}


async def test_refused_notices_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can send them: one line a minute, and the counter has all."""
    for _ in range(50):
        world.plane.happen(notice("m", headers={}))
    await world.settle()
    world.clock.time += webhooks.TELL_SECONDS
    world.plane.happen(notice("m", headers={}))
    await world.settle()

    assert [line for line in caplog.messages if "notice" in line] == [
        "registry local: a notice is refused: the signature is wrong"
    ] * 2
    assert results(world) == {("local", "refused"): 51}
