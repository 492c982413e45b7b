"""References: their form, what they resolve to, and what a message says that finds nothing."""

from __future__ import annotations

import pytest

from router.alias import (
    MAX_REFERENCE,
    Reference,
    ReferenceKind,
    Resolved,
    ResolvedKind,
    highest,
    in_order,
    parse_model_reference,
    parse_reference,
    resolve,
)
from router.errors import InvalidName, InvalidReference, VersionNotFound
from router.model import ModelName, VersionId
from tests.fakes.models import a_model, a_version


def test_a_bare_word_may_be_anything() -> None:
    """Only a leading `@` narrows the search."""
    assert parse_reference("production") == Reference(ReferenceKind.ANY, "production")


def test_a_leading_at_means_alias_only() -> None:
    """The `@` is not part of the alias."""
    assert parse_reference("@champion") == Reference(ReferenceKind.ALIAS, "champion")
    assert str(parse_reference("@champion")) == "@champion"


def test_the_longest_reference_is_accepted_with_and_without_at() -> None:
    """The `@` does not count."""
    text = "x" * MAX_REFERENCE

    assert parse_reference(text).text == parse_reference(f"@{text}").text == text


@pytest.mark.parametrize("text", ["", "@", "@@x", "a\nb", "a\x00", "@\x7f", "x" * 129, "\ud800"])
def test_malformed_references_are_refused(text: str) -> None:
    """Empty, too long, doubly marked, or with control characters."""
    with pytest.raises(InvalidReference):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", None),
        ("digits@production", Reference(ReferenceKind.ANY, "production")),
        ("digits@@champion", Reference(ReferenceKind.ALIAS, "champion")),
    ],
)
def test_a_model_may_carry_a_reference(text: str, expected: Reference | None) -> None:
    """`model`, `model@ref`, `model@@alias`."""
    assert parse_model_reference(text) == (ModelName("digits"), expected)


def test_a_model_with_an_empty_reference_is_refused() -> None:
    """`digits@` is a typing mistake, not the route."""
    with pytest.raises(InvalidReference):
        parse_model_reference("digits@")


def test_a_bad_model_name_is_refused() -> None:
    """The name has its own rule and error."""
    with pytest.raises(InvalidName):
        parse_model_reference("dig its@1")


CROWDED = a_model(
    ("1", "2", "3", "production"),
    stages={"production": "1", "staging": "2"},
    aliases={"staging": "3", "production": "3"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("production", Resolved(ResolvedKind.VERSION, "production", VersionId("production"))),
        ("staging", Resolved(ResolvedKind.ALIAS, "staging", VersionId("3"))),
        ("Staging", Resolved(ResolvedKind.STAGE, "staging", VersionId("2"))),
        ("PRODUCTION", Resolved(ResolvedKind.STAGE, "production", VersionId("1"))),
        ("@production", Resolved(ResolvedKind.ALIAS, "production", VersionId("3"))),
        ("2", Resolved(ResolvedKind.VERSION, "2", VersionId("2"))),
    ],
)
def test_version_comes_before_alias_before_stage(text: str, expected: Resolved) -> None:
    """Only stages ignore case; `@` skips all but aliases."""
    assert resolve(CROWDED, parse_reference(text)) == expected


def test_at_never_finds_a_version_or_a_stage() -> None:
    """`@2` and `@staging` are aliases that do not exist here."""
    model = a_model(stages={"staging": "2"})

    for text in ("@2", "@staging"):
        with pytest.raises(VersionNotFound):
            resolve(model, parse_reference(text))


def test_not_found_names_what_is_near() -> None:
    """A typing mistake is answered with the right word first."""
    model = a_model(stages={"production": "1", "staging": "2"}, aliases={"champion": "3"})

    with pytest.raises(VersionNotFound) as caught:
        resolve(model, parse_reference("prodution"))

    assert caught.value.message == "model 'digits' has no version, alias or stage 'prodution'"
    assert caught.value.hint == "versions 3, 2, 1; aliases @champion; stages production, staging"


def test_not_found_lists_a_handful_only() -> None:
    """A model with many versions does not flood the message."""
    with pytest.raises(VersionNotFound, match="versions 40, 39, 38, 37, 36 and 35 more"):
        resolve(a_model([str(n) for n in range(1, 41)]), parse_reference("x"))


def test_a_pointer_into_nothing_says_so() -> None:
    """The alias exists; what it names does not."""
    with pytest.raises(VersionNotFound, match=r"alias 'champion' .* points to version '9'"):
        resolve(a_model(aliases={"champion": "9"}), parse_reference("@champion"))


def test_versions_are_ordered_by_number_then_semver_then_time() -> None:
    """Opaque ids come first by time, then numbers and semver on one scale."""
    versions = [
        a_version("10"),
        a_version("9"),
        a_version("v1.10.0"),
        a_version("1.9"),
        a_version("2.0.0-rc.2"),
        a_version("2.0.0-rc.10"),
        a_version("2.0.0-rc"),
        a_version("2.0.0"),
        a_version("fffe", created=2.0),
        a_version("0abc", created=3.0),
        a_version("zzz"),
    ]

    assert list(in_order(versions)) == [
        *("zzz", "fffe", "0abc", "1.9", "v1.10.0"),
        *("2.0.0-rc", "2.0.0-rc.2", "2.0.0-rc.10", "2.0.0", "9", "10"),
    ]


def test_an_odd_id_is_never_the_highest_of_a_model_that_counts() -> None:
    """A folder called `backup` must not take the traffic of an implicit route."""
    assert highest(in_order([a_version("backup", created=9e9), a_version("2")])) == "2"


def test_the_highest_of_nothing_is_nothing() -> None:
    """A model without versions has no highest one."""
    assert highest({}) is None
