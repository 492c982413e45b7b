"""The grammar of names (DESIGN 3), by the code that answers requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.bridge import DataPlane, Explanation
from router.traffic.table import BucketRunSpec, ConditionSpec, MatchRuleSpec, PointerSpec
from tests.bridge.tables import digits, snapshot, version, with_arms

INVALID_ARGUMENT = 3
NOT_FOUND = 5
FAILED_PRECONDITION = 9


def shown(explanation: Explanation) -> tuple[str, str, str]:
    """Version, arm and kind of reference of an answer that resolves."""
    assert (explanation.code, explanation.message) == (0, "")
    return explanation.version, explanation.arm, explanation.reference_kind


@pytest.mark.parametrize(
    ("model", "reference", "expected"),
    [
        ("digits", "", ("3", "stable", "split")),
        ("digits", "production", ("3", "stable", "split")),
        ("digits", "Production", ("3", "stable", "split")),
        ("digits@production", "", ("3", "stable", "split")),
        ("digits@PRODUCTION", "production", ("3", "stable", "split")),
        ("digits", "Staging", ("2", "pinned", "stage")),
        ("digits@staging", "", ("2", "pinned", "stage")),
        ("digits", "@challenger", ("2", "pinned", "alias")),
        ("digits", "challenger", ("2", "pinned", "alias")),
        ("digits@challenger", "", ("2", "pinned", "alias")),
        ("digits@@champion", "", ("3", "pinned", "alias")),
        ("digits@champion", "@champion", ("3", "pinned", "alias")),
        ("digits", "1", ("1", "pinned", "version")),
        ("digits@3", "", ("3", "pinned", "version")),
        ("digits@1", "1", ("1", "pinned", "version")),
    ],
)
def test_a_reference_is_resolved(
    plane: DataPlane, model: str, reference: str, expected: tuple[str, str, str]
) -> None:
    """Each form that names a version leads to it, and only the stable arm's own one to the split."""
    plane.publish(snapshot(digits()))

    assert shown(plane.explain(model, reference)) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("x", ("x", "pinned", "version")),
        ("y", ("1", "pinned", "alias")),
        ("z", ("2", "pinned", "stage")),
        ("@x", ("1", "pinned", "alias")),
    ],
)
def test_a_bare_word_is_a_version_then_an_alias_then_a_stage(
    plane: DataPlane, reference: str, expected: tuple[str, str, str]
) -> None:
    """The same word may be all three; `@` leaves only the alias."""
    base = digits()
    pointers = [("alias", "x", "1"), ("alias", "y", "1")]
    pointers += [("stage", "x", "2"), ("stage", "y", "2"), ("stage", "z", "2")]
    model = replace(
        base,
        versions=(*base.versions, version("digits", "x")),
        pointers=tuple(PointerSpec(*pointer) for pointer in pointers),
    )
    plane.publish(snapshot(model))

    assert shown(plane.explain("digits", reference)) == expected


@pytest.mark.parametrize(
    ("model", "reference", "code", "message"),
    [
        ("digits@staging", "production", INVALID_ARGUMENT, "'digits@staging' and model_version 'production'"),
        ("digits@production", "3", INVALID_ARGUMENT, "name different versions"),
        ("digits@1", "nope", INVALID_ARGUMENT, "name different versions"),
        ("", "", INVALID_ARGUMENT, "model_name is empty"),
        ("dig its", "", INVALID_ARGUMENT, "model_name 'dig its' is not allowed"),
        ("digits\n", "", INVALID_ARGUMENT, r"model_name 'digits\n' is not allowed"),
        ("digits\x00", "", INVALID_ARGUMENT, r"'digits\u{0}'"),
        ("ziffern-für-alle", "", INVALID_ARGUMENT, "is not allowed"),
        ("d" * 257, "", INVALID_ARGUMENT, "is not allowed"),
        ("digits@", "", INVALID_ARGUMENT, "model_name: the reference '' is malformed"),
        ("digits", "@", INVALID_ARGUMENT, "model_version: the reference '@' is malformed"),
        ("digits", "a\x1b[31m", INVALID_ARGUMENT, r"'a\u{1b}[31m' is malformed"),
        ("digits", "1" * 129, INVALID_ARGUMENT, "is malformed"),
        ("nope@", "", INVALID_ARGUMENT, "is malformed"),
        ("digist", "", NOT_FOUND, "Request for unknown model: 'digist' is not found; near it: 'digits'"),
        ("resnet50", "1", NOT_FOUND, "Request for unknown model: 'resnet50' is not found"),
        (
            "digits",
            "7",
            NOT_FOUND,
            "Request for unknown model: 'digits' version 7 is not found; "
            "there are @challenger, @champion, production, staging, 3, 2, 1",
        ),
        ("digits@@production", "", NOT_FOUND, "version @production is not found"),
        ("digits", "@Champion", NOT_FOUND, "version @Champion is not found"),
    ],
)
def test_what_names_no_version_is_refused(
    plane: DataPlane, model: str, reference: str, code: int, message: str
) -> None:
    """Malformed and unequal references are INVALID_ARGUMENT, unknown ones NOT_FOUND; all name the thing."""
    plane.publish(snapshot(digits()))

    refused = plane.explain(model, reference)

    assert refused.code == code
    assert message in refused.message
    assert refused.message.isprintable()
    assert (refused.version, refused.arm, refused.backends) == ("", "", ())


def test_names_of_256_and_references_of_128_characters_are_allowed(plane: DataPlane) -> None:
    """The longest names that can be."""
    name, reference = "d" * 256, "漢" * 128
    model = digits(name)
    plane.publish(snapshot(replace(model, versions=(*model.versions, version("d", reference)))))

    assert plane.explain(f"{name}@{reference}").version == reference


def test_states_and_backends_are_told(plane: DataPlane) -> None:
    """Ready with its backends, cold, and failed with the reason."""
    base = digits()
    failed = version("digits", "4", state="failed", reason="no such file")
    plane.publish(snapshot(replace(base, versions=(*base.versions, failed))))

    told = [plane.explain("digits", number) for number in "134"]

    assert [(each.state, each.backends, each.message) for each in told] == [
        ("cold", (), ""),
        ("ready", ("t0", "t1"), ""),
        ("failed", (), "no such file"),
    ]


def test_a_model_without_arms_says_why(plane: DataPlane) -> None:
    """Its versions can still be named."""
    model = replace(digits(), arms=(), unroutable="stage 'production' names no version")
    plane.publish(snapshot(model))

    refused = plane.explain("digits")

    assert refused.code == FAILED_PRECONDITION
    assert refused.message.endswith("stage 'production' names no version")
    assert plane.explain("digits", "3").code == 0


def test_every_draw_goes_to_its_arm_exactly(plane: DataPlane) -> None:
    """Over all 10,000 lots each arm gets exactly its weight."""
    weights = {"a": 1, "b": 3_333, "none": 0, "c": 6_666}
    arms = [(name, "3", weight) for name, weight in weights.items()]
    plane.publish(snapshot(with_arms(digits(), *arms)))

    drawn = [plane.explain("digits", "", draw).arm for draw in range(10_000)]

    assert {name: drawn.count(name) for name in weights} == weights


@pytest.mark.parametrize("draw", [10_000, 2**32 - 1])
def test_a_draw_out_of_range_is_refused(plane: DataPlane, draw: int) -> None:
    """There are 10,000 lots."""
    with pytest.raises(ValueError, match="between 0 and 9999"):
        plane.explain("digits", "", draw)


def decided(told: Explanation) -> tuple[str, str, int | None]:
    """The arm, what decided on it, and the rule's number."""
    return told.arm, told.decided_by, told.rule


def test_what_decided_on_the_arm_is_told(plane: DataPlane) -> None:
    """A reference, a forcing header, a rule, a key, or chance."""
    rules = (
        MatchRuleSpec((ConditionSpec("header", "x-team", "risk"),), "stable"),
        MatchRuleSpec((ConditionSpec("parameter", "tier", "gold"),), "canary"),
    )
    runs = (BucketRunSpec("canary", 1_000), BucketRunSpec("stable", 9_000))
    model = replace(
        digits(), rules=rules, buckets=runs, sticky="header:x-user-id", salt="one", arm_header=True
    )
    plane.publish(snapshot(model))

    forced = plane.explain("digits", headers=[("stagegate-arm", "canary")])
    ruled = plane.explain("digits", parameters=[("tier", "gold")])
    keyed = plane.explain("digits", headers=[("X-User-Id", "42")])

    assert decided(plane.explain("digits", "1")) == ("pinned", "pinned", None)
    assert decided(plane.explain("digits")) == ("stable", "chance", None)
    assert decided(forced) == ("canary", "forced", None)
    assert decided(ruled) == ("canary", "rule", 1)
    assert keyed.decided_by == "bucket"
    assert keyed.bucket is not None
    assert (keyed.arm == "canary") == (keyed.bucket < 1_000)
    with pytest.raises(ValueError, match="not the name of a header"):
        plane.explain("digits", headers=[("a b", "")])
