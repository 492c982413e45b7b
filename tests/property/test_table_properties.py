"""Snapshots, deltas, routes and references: what goes in comes out."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.alias import MAX_REFERENCE, parse_reference, version_order
from router.control.publisher import Publisher
from router.errors import InvalidReference, InvalidRoute
from router.model import WHOLE, format_weight
from router.stores.codec import decode_route, encode_route
from router.traffic.routes import format_deadline, parse_deadline, parse_weight, route_from_document
from router.traffic.table import BackendSpec, ModelSpec
from tests.fakes.data_plane import FakeDataPlane
from tests.fakes.models import a_route, a_version

names = st.sampled_from("abcdefgh")
models = st.builds(
    lambda found: tuple(ModelSpec(name, (), (), (), "", deadline, "") for name, deadline in found.items()),
    st.dictionaries(names, st.integers(0, 3)),
)
backends = st.builds(
    lambda found: tuple(BackendSpec(name, address) for name, address in found.items()),
    st.dictionaries(names, st.sampled_from(["a:1", "b:1"])),
)


@given(st.lists(st.tuples(backends, models, st.sets(names, max_size=2)), max_size=5))
def test_the_table_follows_whatever_changes_and_whatever_is_refused(
    steps: list[tuple[tuple[BackendSpec, ...], tuple[ModelSpec, ...], set[str]]],
) -> None:
    """It is what was wanted, but for refused models, which are as they were and are named."""
    plane = FakeDataPlane()
    publisher = Publisher(plane)
    for new_backends, new_models, refused in steps:
        before = dict(plane.models)
        wanted = {model.name: model for model in new_models}
        plane.refused = refused
        put = [model for model in new_models if before.get(model.name) != model]
        told = publisher.publish(new_backends, put, [name for name in before if name not in wanted])
        plane.refused = set()

        assert set(told) == {model.name for model in put} & refused
        stayed = {name: before[name] for name in told if name in before}
        assert plane.models == {name: spec for name, spec in wanted.items() if name not in told} | stayed
        assert plane.backends == {spec.name: spec for spec in new_backends}
        assert {name: publisher.model(name) for name in publisher.names()} == plane.models


@given(st.integers(0, WHOLE))
def test_every_weight_is_read_as_it_is_shown(weight: int) -> None:
    """As text and as a JSON number."""
    assert parse_weight(format_weight(weight)) == weight
    assert parse_weight(weight / 100) == weight


@given(st.integers(1, 86_400_000))
def test_every_deadline_is_read_as_it_is_shown(milliseconds: int) -> None:
    """To the millisecond."""
    assert round(parse_deadline(format_deadline(milliseconds / 1000)) * 1000) == milliseconds


@given(st.integers(0, WHOLE), st.none() | st.integers(1, 100_000))
def test_a_stored_route_is_read_back(weight: int, deadline: int | None) -> None:
    """Equal to what was stored."""
    route = a_route(
        ("stable", "production", weight / 100),
        ("canary", "@x", (WHOLE - weight) / 100),
        deadline=deadline and deadline / 1000,
    )

    assert decode_route("digits", encode_route(route)) == route


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "version", "weight", "backend_model", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["model", "arms", "deadline", "registry", "match", "y"]), json_values))
def test_no_document_breaks_the_reader(document: dict[str, object]) -> None:
    """It is a route, or InvalidRoute with at least one complaint."""
    complaint = "none"
    try:
        route_from_document(document)
    except InvalidRoute as error:
        complaint = error.message.partition(": ")[2]
    assert complaint


def is_plain(character: str) -> bool:
    """Not a control character, line break or half a surrogate pair."""
    return unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs")


@given(st.text(max_size=140))
def test_a_reference_is_read_as_it_is_shown(text: str) -> None:
    """Or refused for a reason that can be checked."""
    name = text.removeprefix("@")
    allowed = 0 < len(name) <= MAX_REFERENCE and name[0] != "@" and all(map(is_plain, name))
    if allowed:
        assert str(parse_reference(text)) == text
    else:
        with pytest.raises(InvalidReference):
            parse_reference(text)


ids = st.from_regex(r"v?[0-9]{1,3}(\.[0-9]{1,3}){0,2}(-[0-9a-z.]{1,5})?", fullmatch=True) | st.text(
    string.ascii_letters, min_size=1, max_size=4
)


@given(st.lists(ids, unique=True, max_size=8), st.randoms(use_true_random=False))
def test_versions_have_one_order(found: list[str], chance: object) -> None:
    """Whatever order they are met in; integers are in the order of their numbers."""
    shuffled = list(found)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    def ordered(texts: list[str]) -> list[str]:
        return [v.version for v in sorted(map(a_version, texts), key=version_order)]

    assert ordered(found) == ordered(shuffled)
    numbers = [int(text) for text in ordered(found) if text.isdecimal()]
    assert numbers == sorted(numbers)
