"""Routes as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import InvalidRoute
from router.model import (
    Arm,
    BackendModel,
    Condition,
    Fallback,
    MatchRule,
    ModelName,
    Route,
    Shadow,
    Sticky,
    Tolerance,
)
from router.stores.codec import decode_route, encode_route
from router.traffic.routes import (
    format_deadline,
    parse_deadline,
    parse_short,
    parse_weight,
    route_from_document,
    route_to_document,
)

DOCUMENT: dict[str, Any] = {
    "model": "fraud",
    "registry": "prod",
    "arms": [
        {"name": "stable", "version": "production", "weight": "66.66"},
        {"name": "canary", "version": "@challenger", "weight": 33.34},
    ],
    "deadline": "2s",
}

ROUTE = Route(
    ModelName("fraud"),
    (Arm("stable", "production", 6666), Arm("canary", "@challenger", 3334)),
    registry="prod",
    deadline=2.0,
)


def test_a_document_becomes_a_route() -> None:
    """Typed and textual scalars mean the same."""
    assert route_from_document(DOCUMENT) == ROUTE


def test_a_route_becomes_a_document_and_back() -> None:
    """Nothing is lost on the way, a backend's own model included."""
    route = Route(
        ModelName("fraud"),
        (
            Arm("stable", "3", 9999),
            Arm("old", "", 1, BackendModel("legacy", "2")),
            Arm("older", "", 0, BackendModel("legacy")),
        ),
        deadline=0.25,
    )

    assert route_from_document(route_to_document(route)) == route
    assert route_to_document(route)["deadline"] == "250ms"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("90", 9000),
        (90, 9000),
        ("33.34", 3334),
        (33.34, 3334),
        ("12.5", 1250),
        ("0.01", 1),
        (0, 0),
        ("100.00", 10000),
    ],
)
def test_weights_are_exact(value: object, expected: int) -> None:
    """No binary float comes between the text and the hundredths."""
    assert parse_weight(value) == expected


@pytest.mark.parametrize(
    "value", ["33.333", "-1", "100.01", "1e1", "", "x", None, True, float("nan"), "٣", [], "1_0"]
)
def test_odd_weights_are_refused(value: object) -> None:
    """Three decimals, signs, exponents, other digits, other types."""
    with pytest.raises(InvalidRoute):
        parse_weight(value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1.5s", 1.5), ("1m", 60.0), ("24h", 86400.0)]
)
def test_deadlines_have_a_unit(text: str, seconds: float) -> None:
    """And are read back as they are shown."""
    assert parse_deadline(text) == seconds
    assert parse_deadline(format_deadline(seconds)) == seconds


@pytest.mark.parametrize("value", ["2", 2, "0s", "0.1ms", "25h", "-1s", "", "2 s", None, "1.0005s"])
def test_odd_deadlines_are_refused(value: object) -> None:
    """No unit, nothing, too long, finer than a millisecond."""
    with pytest.raises(InvalidRoute):
        parse_deadline(value)


def test_all_mistakes_come_in_one_error() -> None:
    """Each with its path; unknown keys with the nearest known one."""
    with pytest.raises(InvalidRoute) as caught:
        route_from_document(
            {
                "model": "fr aud",
                "armz": [],
                "fallback": [],
                "deadline": "soon",
                "arms": [
                    {"name": "stable", "version": "@", "weight": "90.123"},
                    {"name": "pinned", "version": "3", "weight": 10, "wight": 1},
                    "canary",
                ],
            }
        )

    message = caught.value.message
    for part in (
        "model: model name 'fr aud'",
        "armz: unknown key; did you mean 'arms'?",
        "fallback: is not a mapping of codes, to",
        "deadline: deadline 'soon'",
        "arms[0].version: reference '@' is empty",
        "arms[0].weight: weight '90.123'",
        "arms[1].wight: unknown key; did you mean 'weight'?",
        "arms[2]: is not a mapping",
    ):
        assert part in message


@pytest.mark.parametrize("key", ["registry_model"])
def test_keys_of_later_versions_are_named(key: str) -> None:
    """They are no typing mistakes; the message says what is the matter."""
    with pytest.raises(InvalidRoute, match=f"{key}: this version does not serve '{key}' yet"):
        route_from_document({**DOCUMENT, key: {}})


@pytest.mark.parametrize(
    ("arms", "complaint"),
    [
        ([], "at least one"),
        (None, "at least one"),
        ("stable", "at least one"),
        ([{"name": "a", "version": "1", "weight": 90}], "weights sum to 90, not 100"),
        ([{"name": "a", "version": "1", "weight": "33.33"}] * 3, "'a' is given twice"),
        ([{"name": "pinned", "version": "1", "weight": 100}], "arm name 'pinned' is not allowed"),
        ([{"name": "a", "weight": 100}], "give either version or backend_model"),
        ([{"name": "a", "version": "1", "backend_model": {"name": "b"}, "weight": 100}], "give either"),
        ([{"name": "a", "backend_model": {"version": "1"}, "weight": 100}], "backend_model.name: is missing"),
        ([{"name": "a", "backend_model": "b", "weight": 100}], "is not a mapping of name and version"),
        ([{"version": "1"}], "arms[0].name: is missing; arms[0].weight: is missing"),
        ([{"name": ["a"], "version": "1", "weight": 100}], "is not text"),
    ],
)
def test_arms_that_cannot_be(arms: object, complaint: str) -> None:
    """Each names what is wrong."""
    with pytest.raises(InvalidRoute) as caught:
        route_from_document({"model": "fraud", "arms": arms})

    assert complaint in caught.value.message


def test_a_fallback_is_read_and_written_back() -> None:
    """Stable answers where no arm is named; that role is the first arm's where none has the name."""
    route = route_from_document({**DOCUMENT, "fallback": {"codes": ["UNAVAILABLE", "INTERNAL"]}})

    assert route.fallback == Fallback(("UNAVAILABLE", "INTERNAL"), "stable")
    assert route.fallback_arm == route.arms[0]
    assert route_from_document(route_to_document(route)) == route
    assert decode_route("fraud", encode_route(route)) == route
    short = parse_short("fraud", ["a=1:50", "b=2:50"], fallback="INTERNAL=b")
    assert short.fallback == Fallback(("INTERNAL",), "b")
    assert short.fallback_arm == short.arms[1]
    role = parse_short("fraud", ["a=1:50", "b=2:50"], fallback="INTERNAL")
    assert role.fallback_arm == role.arms[0]


@pytest.mark.parametrize(
    ("fallback", "complaint"),
    [
        ("stable", "fallback: is not a mapping of codes, to"),
        ({}, "fallback: codes are missing"),
        ({"codes": "UNAVAILABLE"}, "fallback.codes: is not a list"),
        ({"codes": ["OK"]}, "fallback: code 'OK' is no gRPC status of a failure"),
        ({"codes": ["unavailable"]}, "fallback: code 'unavailable' is no"),
        ({"codes": [[]]}, "fallback.codes[0]: [] is not text"),
        ({"codes": ["INTERNAL", "INTERNAL"]}, "fallback: code 'INTERNAL' is given twice"),
        ({"codes": ["INTERNAL"], "to": "nobody"}, "fallback.to: 'nobody' is none of the arms"),
        ({"codes": ["INTERNAL"], "too": "stable"}, "fallback.too: unknown key; did you mean 'to'?"),
    ],
)
def test_fallbacks_that_cannot_be(fallback: object, complaint: str) -> None:
    """Each with its path."""
    with pytest.raises(InvalidRoute) as caught:
        route_from_document({**DOCUMENT, "fallback": fallback})

    assert complaint in caught.value.message


def test_shadows_are_read_and_written_back() -> None:
    """Shares and tolerances typed or as text; what is left out has its usual value."""
    document = {
        **DOCUMENT,
        "shadows": [
            {
                "name": "next",
                "version": "staging",
                "sample": 0.25,
                "compare": {"atol": "0.001", "rtol": 1e-3},
            },
            {"name": "old", "version": 2, "sample": "0.0001", "compare": {"atol": 0}},
            {"name": "all", "version": "@challenger"},
        ],
    }
    usual = Tolerance()

    route = route_from_document(document)

    assert route.shadows == (
        Shadow("next", "staging", 2_500, Tolerance(0.001, 0.001)),
        Shadow("old", "2", 1, Tolerance(0.0, usual.rtol)),
        Shadow("all", "@challenger", 10_000, usual),
    )
    assert route_from_document(route_to_document(route)) == route
    assert decode_route("fraud", encode_route(route)) == route


@pytest.mark.parametrize(
    ("shadow", "complaint"),
    [
        ("next", "shadows[0]: is not a mapping of name, version, sample, compare"),
        ({}, "shadows[0].name: is missing; shadows[0].version: is missing"),
        ({"name": "stable", "version": "1"}, "'stable' has the name of an arm or of another shadow"),
        ({"name": "pinned", "version": "1"}, "shadow name 'pinned' is not allowed"),
        ({"name": "a b", "version": "1"}, "shadow name 'a b' is not allowed"),
        ({"name": "n", "version": "@"}, "shadows[0].version: reference '@' is empty"),
        ({"name": "n", "version": "1", "sample": 1.5}, "sample 1.5 is not a number from 0 to 1"),
        ({"name": "n", "version": "1", "sample": "25"}, "sample '25' is not a number from 0 to 1"),
        ({"name": "n", "version": "1", "sample": 0.00001}, "sample 1e-05 is not a number from 0 to 1"),
        ({"name": "n", "version": "1", "sample": True}, "sample True is not a number from 0 to 1"),
        (
            {"name": "n", "version": "1", "compare": {"atol": -1}},
            "compare.atol: -1 is not a number from 0 on",
        ),
        ({"name": "n", "version": "1", "compare": {"rtol": "inf"}}, "compare.rtol: 'inf' is not a number"),
        (
            {"name": "n", "version": "1", "compare": {"rtol": "1e999"}},
            "compare.rtol: '1e999' is not a number",
        ),
        (
            {"name": "n", "version": "1", "compare": {"atoll": 1}},
            "compare.atoll: unknown key; did you mean 'atol'?",
        ),
        ({"name": "n", "version": "1", "compare": 1}, "shadows[0].compare: is not a mapping of atol, rtol"),
        ({"name": "n", "version": "1", "weight": 1}, "shadows[0].weight: unknown key"),
    ],
)
def test_shadows_that_cannot_be(shadow: object, complaint: str) -> None:
    """Each names what is wrong, with its path."""
    with pytest.raises(InvalidRoute) as caught:
        route_from_document({**DOCUMENT, "shadows": [shadow]})

    assert complaint in caught.value.message


def test_two_shadows_of_one_name_and_too_many_of_them_are_refused() -> None:
    """Names are labels of metrics, and each shadow costs a copy."""
    twice = [{"name": "n", "version": "1"}, {"name": "n", "version": "2"}]
    many = [{"name": f"n{at}", "version": "1"} for at in range(9)]

    for shadows, complaint in [
        (twice, "'n' has the name"),
        (many, "9 of them, at most 8"),
        ("next", "shadows: is not a list"),
    ]:
        with pytest.raises(InvalidRoute) as caught:
            route_from_document({**DOCUMENT, "shadows": shadows})
        assert complaint in caught.value.message


def test_a_document_without_a_model_is_refused() -> None:
    """The model is what a route is for."""
    with pytest.raises(InvalidRoute, match="model: is missing"):
        route_from_document({"arms": [{"name": "a", "version": "1", "weight": 100}]})


def test_the_short_form() -> None:
    """As the command line has it."""
    route = parse_short("fraud", ["stable=production:90", "canary=@challenger:10"], deadline="1s")

    assert route == Route(
        ModelName("fraud"),
        (Arm("stable", "production", 9000), Arm("canary", "@challenger", 1000)),
        deadline=1.0,
    )


def test_a_version_id_may_hold_a_colon_in_the_short_form() -> None:
    """The weight is after the last one."""
    assert parse_short("fraud", ["stable=sha256:ab:100"]).arms == (Arm("stable", "sha256:ab", 10_000),)


def test_every_bad_arm_of_the_short_form_is_named() -> None:
    """In one error, with an example."""
    with pytest.raises(InvalidRoute) as caught:
        parse_short("fraud", ["stable", "a=1:50", "=2:50", "b=3:"])

    assert [repr(text) in caught.value.message for text in ("stable", "a=1:50", "=2:50", "b=3:")] == [
        *(True, False, True, True)
    ]
    assert "stable=production:90" in caught.value.message


ASSIGNED = {
    "model": "fraud",
    "arms": [
        {"name": "stable", "version": "production", "weight": 90},
        {"name": "canary", "version": "@challenger", "weight": 10},
    ],
    "match": [
        {"when": {"header": {"X-Team": "risk"}, "parameter": {"tier": 7}}, "arm": "canary"},
        {"when": {"parameter": {"beta": True}}, "arm": "canary"},
    ],
    "sticky": {"by": "header:X-User-Id", "salt": "second"},
    "arm_header": "true",
}


def test_rules_and_keys_are_read_and_written() -> None:
    """Names of headers have no case; every value is text."""
    route = route_from_document(ASSIGNED)

    assert route.match == (
        MatchRule((Condition("header", "x-team", "risk"), Condition("parameter", "tier", "7")), "canary"),
        MatchRule((Condition("parameter", "beta", "true"),), "canary"),
    )
    assert (route.sticky, route.arm_header) == (Sticky("header:x-user-id", "second"), True)
    assert route_from_document(route_to_document(route)) == route


def test_no_key_is_the_same_as_none_at_all() -> None:
    """`none` says so in words; with a salt it still means the request's own key."""
    none = route_from_document(ASSIGNED | {"sticky": {"by": "none"}, "arm_header": False, "match": []})
    salted = route_from_document(ASSIGNED | {"sticky": {"salt": "second"}})

    assert (none.sticky, none.arm_header, none.match) == (None, False, ())
    assert salted.sticky == Sticky("", "second")
    assert route_from_document(route_to_document(salted)) == salted


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"sticky": {"by": "cookie:a"}},
            "sticky.by: 'cookie:a' is not 'header:NAME', 'parameter:NAME' or 'none'",
        ),
        ({"sticky": {"by": "header:a b"}}, "sticky.by: sticky key: 'a b' cannot be the name of a header"),
        ({"sticky": {"by": "parameter:"}}, "sticky.by: sticky key: '' cannot be the name of a parameter"),
        ({"sticky": "header:a"}, "sticky: is not a mapping of by, salt"),
        ({"sticky": {"be": "header:a"}}, "sticky.be: unknown key; known keys: by, salt"),
        ({"arm_header": "yes"}, "arm_header: 'yes' is neither true nor false"),
        ({"match": {"arm": "canary"}}, "match: is not a list of {when, arm}"),
        ({"match": [{"arm": "canary"}]}, "match[0].when: is missing"),
        (
            {"match": [{"when": {}, "arm": "canary"}]},
            "match[0].when: a rule to arm 'canary' has 0 conditions",
        ),
        (
            {"match": [{"when": {"header": {"a": "b"}}, "arm": "blue"}]},
            "match[0].arm: there is no arm 'blue'; arms: stable, canary",
        ),
        (
            {"match": [{"when": {"headers": {"a": "b"}}, "arm": "canary"}]},
            "match[0].when.headers: unknown key; did you mean 'header'?",
        ),
        (
            {"match": [{"when": {"header": {"a": "b\n"}}, "arm": "canary"}]},
            "match[0].when.header: header 'a' cannot have the value",
        ),
        (
            {"match": [{"when": {"header": {"a": ["b"]}}, "arm": "canary"}]},
            "match[0].when.header.a: ['b'] is not text",
        ),
    ],
)
def test_a_mistake_in_a_rule_or_a_key_is_named_with_its_path(change: dict[str, object], problem: str) -> None:
    """All of them in one error, like every other mistake of a route."""
    with pytest.raises(InvalidRoute) as refused:
        route_from_document(ASSIGNED | change)

    assert problem in refused.value.message


def test_the_short_form_may_say_the_key() -> None:
    """What keeps callers on their arms is what most splits need beside weights."""
    route = parse_short("fraud", ["a=1:50", "b=2:50"], sticky="parameter:user")

    assert route.sticky == Sticky("parameter:user")
