"""From what clients see to the structs of the data plane."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.model import Condition, MatchRule, Shadow, Sticky, Version, VersionId
from router.traffic.compile import VersionPlacement, compile_model
from router.traffic.serving import settle
from router.traffic.table import (
    ArmSpec,
    BucketRunSpec,
    ConditionSpec,
    MatchRuleSpec,
    ModelSpec,
    PointerSpec,
    ShadowSpec,
    VersionSpec,
)
from tests.fakes.models import a_model, a_route, ids


def described(version: Version) -> bytes:
    """Stands for the contract's metadata."""
    return f"contract of {version.version}".encode()


def a_spec(name: str, deadline_ms: int = 0) -> ModelSpec:
    """A small model."""
    return ModelSpec(name, (), (), (), "", deadline_ms, "no versions")


def test_a_model_is_put_together() -> None:
    """Versions in order, pointers as served, contract metadata where no backend can describe it."""
    model = a_model(stages={"production": "1"}, aliases={"champion": "2"})
    route = a_route(("stable", "production", 90), ("canary", "@champion", 10), deadline=2.0)
    route = replace(route, shadows=(Shadow("next", "3", 2_500),))
    placements = {
        VersionId("1"): VersionPlacement("ready", ("t0", "t1"), "digits.1.abc", "1"),
        VersionId("2"): VersionPlacement("failed", (), "digits.2.abc", "1", "no memory"),
    }
    serving = settle(None, model, route, ids("1"), {VersionId("2"): "no memory"})

    assert compile_model(serving, model, placements, described) == ModelSpec(
        name="digits",
        versions=(
            VersionSpec("1", "ready", ("t0", "t1"), "digits.1.abc", "1", "", b""),
            VersionSpec("2", "failed", (), "digits.2.abc", "1", "no memory", b"contract of 2"),
            VersionSpec("3", "cold", (), "", "", "", b"contract of 3"),
        ),
        pointers=(PointerSpec("alias", "champion", "2"), PointerSpec("stage", "production", "1")),
        arms=(ArmSpec("stable", "1", 10_000),),
        split_reference="production",
        deadline_ms=2000,
        unroutable="",
        shadows=(ShadowSpec("next", "3", 2_500),),
    )


@pytest.mark.parametrize(
    ("state", "backends", "reason"),
    [("loading", (), ""), ("ready", (), ""), ("cold", ("t0",), ""), ("failed", (), ""), ("cold", (), "why")],
)
def test_a_placement_that_contradicts_itself_is_refused(
    state: str, backends: tuple[str, ...], reason: str
) -> None:
    """Before it reaches the data plane."""
    with pytest.raises(ValueError, match=r"state|version that is"):
        VersionPlacement(state, backends, reason=reason)


def test_what_decides_on_arms_is_put_together() -> None:
    """Buckets only where they are not simply the weights in order."""
    rule = MatchRule((Condition("header", "x-team", "risk"), Condition("parameter", "tier", "7")), "canary")
    route = replace(
        a_route(("stable", "1", 90), ("canary", "2", 10)),
        match=(rule,),
        sticky=Sticky("parameter:user", "second"),
        arm_header=True,
        buckets=(("canary", 1_000), ("stable", 9_000)),
    )
    plain = replace(route, buckets=(("stable", 9_000), ("canary", 1_000)))

    specs = [
        compile_model(settle(None, a_model(), one, ids("1", "2"), {}), a_model(), {}, described)
        for one in (route, plain)
    ]

    conditions = (ConditionSpec("header", "x-team", "risk"), ConditionSpec("parameter", "tier", "7"))
    assert specs[0].rules == (MatchRuleSpec(conditions, "canary"),)
    assert (specs[0].sticky, specs[0].salt, specs[0].arm_header) == ("parameter:user", "second", True)
    assert specs[0].buckets == (BucketRunSpec("canary", 1_000), BucketRunSpec("stable", 9_000))
    assert specs[1] == replace(specs[0], buckets=())
