"""The chain of the audit log, and routes as stored text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.errors import InvalidInput, StateUnavailable
from router.model import ModelName
from router.stores import MemoryStore, open_store
from router.stores.audit import AuditEntry, verify_chain
from router.stores.codec import decode_route, encode_route
from tests.fakes.models import a_route

ROUTE = a_route(("stable", "production", 66.66), ("canary", "@challenger", 33.34))


async def a_log() -> list[AuditEntry]:
    """Four changes."""
    store = MemoryStore(clock=lambda: 1.5)
    for reason in ("one", "two", "three"):
        await store.put_routes([ROUTE], expected_revision=None, actor="ana", reason=reason)
    await store.delete_route(ModelName("digits"), expected_revision=None, actor="ana", reason="four")
    return list(await store.audit_log())


async def test_a_log_that_nobody_touched_holds() -> None:
    """Each entry names the one before."""
    log = await a_log()
    verify_chain(log, 4)

    assert [entry.previous for entry in log] == ["", *(entry.hash for entry in log[:3])]
    assert [entry.action for entry in log] == ["put_routes"] * 3 + ["delete_route"]
    assert {entry.targets for entry in log} == {("digits",)}


@pytest.mark.parametrize(
    "change",
    [
        {"at": 2.5},
        {"actor": "ben"},
        {"reason": "another"},
        {"action": "delete_route"},
        {"targets": ("fraud",)},
        {"before": "{}"},
        {"after": "{}"},
        {"before_hash": "0"},
        {"after_hash": "0"},
        {"previous": ""},
        {"hash": "0"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_change_of_any_field_is_found_at_its_entry(change: dict[str, object]) -> None:
    """By revision."""
    log = await a_log()
    log[1] = replace(log[1], **change)  # type: ignore[arg-type]

    with pytest.raises(StateUnavailable, match="entry 2 was changed"):
        verify_chain(log, 4)


async def test_an_entry_that_was_sealed_anew_is_found_at_the_next() -> None:
    """A forger would have to write everything after it, too."""
    log = await a_log()
    log[1] = replace(log[1], reason="another").sealed()

    with pytest.raises(StateUnavailable, match="entry 3 was changed"):
        verify_chain(log, 4)


async def test_a_missing_entry_is_found() -> None:
    """In the middle by its number, at the end by the revision."""
    log = await a_log()

    with pytest.raises(StateUnavailable, match="entry 2 is missing"):
        verify_chain([log[0], *log[2:]], 4)
    with pytest.raises(StateUnavailable, match="has 3 entries for 4 revisions"):
        verify_chain(log[:3], 4)


def test_a_route_is_stored_as_plain_json() -> None:
    """With a format number; the same route is always the same text."""
    text = encode_route(ROUTE)

    assert text == (
        '{"format":1,"route":{"arms":[{"name":"stable","version":"production","weight":66.66},'
        '{"name":"canary","version":"@challenger","weight":33.34}],"model":"digits"}}'
    )
    assert decode_route("digits", text) == ROUTE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format":2,"route":{}}', "the stored route of 'digits' has format 2; this version reads 1"),
        ('{"format":1,"route":{"model":"digits","arms":[]}}', "cannot be read: .*at least one"),
        ('{"format":1}', "cannot be read"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_stored_route_of_another_time_is_named(text: str, message: str) -> None:
    """It is not dropped in silence."""
    with pytest.raises(StateUnavailable, match=message):
        decode_route("digits", text)


async def test_a_store_of_an_unknown_kind_is_refused() -> None:
    """Memory takes no path, and nothing else is known here."""
    for kind in ("redis", "sqlite"):
        with pytest.raises(InvalidInput, match="known: sqlite with a path, memory"):
            await open_store(kind, None)
    assert isinstance(await open_store("memory", None), MemoryStore)
