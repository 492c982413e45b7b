"""What clients see while the registry and the route move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.model import (
    Arm,
    BackendModel,
    Condition,
    Contract,
    Fallback,
    MatchRule,
    ModelName,
    PointerKind,
    RegisteredModel,
    Route,
    Shadow,
    Sticky,
    TensorSpec,
    VersionId,
)
from router.traffic.contract import differences
from router.traffic.serving import (
    Gate,
    ServedArm,
    ServedShadow,
    Serving,
    backend_version_id,
    implicit_route,
    left_behind,
    objections,
    settle,
    split_exactly,
    with_backend_models,
)
from tests.fakes.models import a_model, a_route, ids

STABLE_AND_CANARY = a_route(("stable", "production", 90), ("canary", "@challenger", 10))


def served(
    previous: Serving | None,
    model: RegisteredModel,
    route: Route | None = None,
    *,
    ready: tuple[str, ...] = (),
    failed: dict[str, str] | None = None,
) -> Serving:
    """`settle` with plain texts."""
    return settle(
        previous, model, route, ids(*ready), {VersionId(key): why for key, why in (failed or {}).items()}
    )


def arms(serving: Serving) -> list[tuple[str, str, int]]:
    """The split in force, in percent."""
    return [(arm.name, str(arm.version), arm.weight // 100) for arm in serving.arms]


def pointers(serving: Serving) -> dict[str, str]:
    """What stages and aliases name for clients."""
    return {pointer.name: str(pointer.version) for pointer in serving.pointers}


def sentences(serving: Serving) -> str:
    """All that is waited for."""
    return "\n".join(waiting.sentence for waiting in serving.waiting)


# Shadows


def test_a_shadow_follows_the_pointer_as_served_and_is_wanted() -> None:
    """Its version is loaded because the route names it; until then it gets nothing, and people are told."""
    model = a_model(stages={"production": "1", "staging": "2"})
    route = replace(a_route(("stable", "production", 100)), shadows=(Shadow("next", "staging", 2_500),))

    before = served(None, model, route, ready=("1",))
    after = served(before, model, route, ready=("1", "2"))

    assert before.shadows == after.shadows == (ServedShadow("next", VersionId("2"), 2_500),)
    assert (before.wanted, after.wanted) == ((VersionId("2"),), (VersionId("2"),))
    assert arms(before) == arms(after) == [("stable", "1", 100)]
    assert "shadow next of model 'digits': waits for version 2 to be loaded" in sentences(before)
    assert after.waiting == ()


def test_a_shadow_whose_pointer_moves_keeps_the_old_version_until_the_new_one_is_ready() -> None:
    """As every client of that pointer does."""
    route = replace(a_route(("stable", "1", 100)), shadows=(Shadow("next", "staging"),))
    before = served(None, a_model(stages={"staging": "2"}), route, ready=("1", "2"))

    moved = served(before, a_model(stages={"staging": "3"}), route, ready=("1", "2"))
    there = served(moved, a_model(stages={"staging": "3"}), route, ready=("1", "2", "3"))

    assert [shadow.version for shadow in (*moved.shadows, *there.shadows)] == ["2", "3"]
    assert "3" in moved.wanted


def test_a_shadow_that_names_nothing_gets_nothing_and_holds_nothing_up() -> None:
    """Or one whose load failed."""
    route = replace(a_route(("stable", "1", 100)), shadows=(Shadow("a", "@nobody"), Shadow("b", "2")))

    serving = served(None, a_model(), route, ready=("1",), failed={"2": "no memory"})

    assert [shadow.name for shadow in serving.shadows] == ["b"]
    assert arms(serving) == [("stable", "1", 100)]
    assert "it gets no copies" in sentences(serving)
    assert "its load failed: no memory; it gets no copies until then" in sentences(serving)


# The implicit route


def test_without_a_route_production_answers() -> None:
    """And naming `production` is the same as naming nothing."""
    serving = served(None, a_model(stages={"production": "2"}))

    assert arms(serving) == [("stable", "2", 100)]
    assert (serving.split_reference, serving.implicit, serving.unroutable) == ("production", True, "")


def test_without_production_the_highest_version_answers() -> None:
    """By number, not by text."""
    assert arms(served(None, a_model(("9", "10")))) == [("stable", "10", 100)]


def test_a_model_without_versions_says_so() -> None:
    """An empty split has a reason."""
    serving = served(None, a_model(()))

    assert (serving.arms, serving.unroutable) == ((), "model 'digits' has no versions")


def test_a_production_that_names_nothing_is_not_replaced_by_the_highest() -> None:
    """Which version clients get is the operator's word, not a guess."""
    serving = served(None, a_model(stages={"production": "7"}))

    assert serving.arms == ()
    assert "points to version '7'" in serving.unroutable


def test_the_implicit_route_can_be_shown() -> None:
    """`route get` shows it."""
    assert implicit_route(a_model(("1",))) == replace(a_route(("stable", "1", 100)), registry="local")


# Stages and aliases


def test_pointers_go_straight_to_their_target_at_first_sight() -> None:
    """There is nothing older that could answer."""
    serving = served(None, a_model(stages={"production": "3"}, aliases={"champion": "1"}))

    assert pointers(serving) == {"production": "3", "champion": "1"}
    assert (serving.wanted, serving.waiting) == ((), ())


def test_a_stage_that_moves_waits_for_the_new_version() -> None:
    """The old one answers, by name and by default; the new one is wanted at once."""
    before = served(None, a_model(stages={"production": "1"}), ready=("1",))
    moved = served(before, a_model(stages={"production": "3"}), ready=("1",))

    assert pointers(moved) == {"production": "1"}
    assert arms(moved) == [("stable", "1", 100)]
    assert moved.wanted == ("3",)
    assert sentences(moved) == (
        "stage production of model 'digits': waits for version 3 to be loaded; version 1 answers until then"
    )


def test_a_stage_moves_once_the_new_version_is_ready() -> None:
    """Nothing is waited for afterwards."""
    before = served(None, a_model(stages={"production": "1"}), ready=("1",))
    moved = served(before, a_model(stages={"production": "3"}), ready=("1", "3"))

    assert pointers(moved) == {"production": "3"}
    assert arms(moved) == [("stable", "3", 100)]
    assert (moved.waiting, moved.wanted) == ((), ())


def test_a_stage_that_moves_to_a_version_that_cannot_load_stays() -> None:
    """And says why."""
    before = served(None, a_model(stages={"production": "1"}), ready=("1",))
    moved = served(before, a_model(stages={"production": "3"}), ready=("1",), failed={"3": "no memory"})

    assert pointers(moved) == {"production": "1"}
    assert "cannot move to version 3, its load failed: no memory; version 1 answers" in sentences(moved)


def test_an_old_version_that_is_gone_is_left_at_once() -> None:
    """The new one is cold; its clients wait for the load instead of getting errors."""
    before = served(None, a_model(("1", "3"), stages={"production": "1"}), ready=("1",))
    moved = served(before, a_model(("3",), stages={"production": "3"}))

    assert pointers(moved) == {"production": "3"}
    assert arms(moved) == [("stable", "3", 100)]


def test_a_pointer_into_nothing_keeps_its_old_version() -> None:
    """A mistake in the registry takes nothing away."""
    before = served(None, a_model(aliases={"champion": "1"}), ready=("1",))
    moved = served(before, a_model(aliases={"champion": "9"}), ready=("1",))

    assert pointers(moved) == {"champion": "1"}
    assert "points to version 9, which registry 'local' does not have; version 1 goes on" in sentences(moved)


def test_a_pointer_into_nothing_at_first_sight_names_nothing() -> None:
    """Clients get NOT_FOUND for it; the rest of the model works."""
    serving = served(None, a_model(("1",), aliases={"champion": "9"}))

    assert serving.pointers == ()
    assert arms(serving) == [("stable", "1", 100)]
    assert "nothing answers for it" in sentences(serving)


def test_a_pointer_that_is_removed_is_gone_at_once() -> None:
    """Removing is no move."""
    before = served(None, a_model(aliases={"champion": "1"}))

    assert served(before, a_model()).pointers == ()


def test_a_cold_pointer_that_did_not_move_stays() -> None:
    """After an idle unload its clients wait for a load of the same version."""
    model = a_model(stages={"production": "1"})
    before = served(None, model, ready=("1",))

    assert served(before, model) == before


# Routes


def test_a_route_whose_versions_are_ready_takes_effect_at_once() -> None:
    """Both arms are kept loaded."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    serving = served(served(None, model, ready=("1",)), model, STABLE_AND_CANARY, ready=("1", "2"))

    assert arms(serving) == [("stable", "1", 90), ("canary", "2", 10)]
    assert serving.wanted == ("1", "2")
    assert (serving.implicit, serving.waiting) == (False, ())


def test_a_canary_that_is_not_loaded_waits_and_nothing_changes_meanwhile() -> None:
    """The split before holds as a whole."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    serving = served(served(None, model, ready=("1",)), model, STABLE_AND_CANARY, ready=("1",))

    assert arms(serving) == [("stable", "1", 100)]
    assert serving.wanted == ("1", "2")
    assert sentences(serving) == (
        "arm canary of model 'digits': waits for version 2 to be loaded; until then: stable = 1 at 100 %"
    )


def test_while_a_split_is_held_its_own_reference_enters_it() -> None:
    """A client that names version 2 must not be sent into a split that still serves version 1."""
    model = a_model()
    before = served(None, model, a_route(("stable", "1", 100)), ready=("1",))
    held = served(before, model, a_route(("stable", "2", 100)), ready=("1",))

    assert (arms(held), held.split_reference) == ([("stable", "1", 100)], "1")


def test_a_new_weight_between_versions_in_front_takes_effect_at_once() -> None:
    """A rollback never waits, not even for a stable version that is just away."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    before = served(None, model, STABLE_AND_CANARY, ready=("1", "2"))
    back = a_route(("stable", "production", 100), ("canary", "@challenger", 0))

    assert arms(served(before, model, back, ready=("2",))) == [("stable", "1", 100), ("canary", "2", 0)]


def test_a_stage_that_cannot_move_does_not_hold_up_a_weight() -> None:
    """The weight applies to the version that the stage serves."""
    before = served(
        None,
        a_model(stages={"production": "1"}, aliases={"challenger": "2"}),
        STABLE_AND_CANARY,
        ready=("1", "2"),
    )
    broken = a_model(stages={"production": "3"}, aliases={"challenger": "2"})
    back = a_route(("stable", "production", 100), ("canary", "@challenger", 0))

    serving = served(before, broken, back, ready=("1", "2"), failed={"3": "no memory"})

    assert arms(serving) == [("stable", "1", 100), ("canary", "2", 0)]


def test_a_weight_on_a_version_that_had_none_waits_for_it() -> None:
    """An arm at 0 was not in front of clients."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    zero = a_route(("stable", "production", 100), ("canary", "@challenger", 0))
    before = served(None, model, zero, ready=("1",))

    assert arms(served(before, model, STABLE_AND_CANARY, ready=("1",))) == [
        ("stable", "1", 100),
        ("canary", "2", 0),
    ]


def test_a_first_split_of_cold_versions_is_served_cold() -> None:
    """Requests wait for the loads; no arm does."""
    serving = served(
        None, a_model(("1", "2"), stages={"production": "1"}, aliases={"challenger": "2"}), STABLE_AND_CANARY
    )

    assert arms(serving) == [("stable", "1", 90), ("canary", "2", 10)]
    assert (serving.waiting, serving.wanted) == ((), ("1", "2"))


def test_a_first_split_with_stable_ready_is_stable_alone() -> None:
    """Until the canary is there as well."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    first = served(None, model, STABLE_AND_CANARY, ready=("1",))
    then = served(first, model, STABLE_AND_CANARY, ready=("1", "2"))

    assert arms(first) == [("stable", "1", 100)]
    assert "arm canary of model 'digits': waits for version 2" in sentences(first)
    assert arms(then) == [("stable", "1", 90), ("canary", "2", 10)]


def test_a_first_split_without_stable_ready_is_what_is_ready() -> None:
    """In the same proportion, to exactly 100 %."""
    route = a_route(("stable", "1", 40), ("a", "2", 20), ("b", "3", 40))
    serving = served(None, a_model(), route, ready=("2", "3"))

    assert [(arm.name, arm.weight) for arm in serving.arms] == [("a", 3333), ("b", 6667)]


def test_a_first_split_with_stable_and_another_ready_is_stable_alone() -> None:
    """A canary never gets more than its weight because a third arm is late."""
    route = a_route(("stable", "1", 40), ("a", "2", 20), ("b", "3", 40))

    assert arms(served(None, a_model(), route, ready=("1", "2"))) == [("stable", "1", 100)]


def test_a_successor_that_is_in_front_already_holds_nothing_up() -> None:
    """Version 3 is gone and version 1 takes its place at once, so an arm on version 1 need not wait."""
    before = served(None, a_model(), ready=("3",))
    route = a_route(("stable", "1", 0), ("canary", "1", 100))
    serving = served(before, a_model(("1",)), route)

    assert arms(serving) == [("stable", "1", 0), ("canary", "1", 100)]
    assert serving.waiting == ()


def test_an_arm_that_names_nothing_keeps_its_last_version() -> None:
    """An alias that is deleted does not take the canary away."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    before = served(None, model, STABLE_AND_CANARY, ready=("1", "2"))
    serving = served(before, replace(model, aliases={}), STABLE_AND_CANARY, ready=("1", "2"))

    assert arms(serving) == arms(before)
    assert "has no alias 'challenger'; version 2 goes on" in sentences(serving)


def test_an_arm_that_never_named_anything_gives_its_weight_to_stable() -> None:
    """And says so."""
    serving = served(None, a_model(stages={"production": "1"}), STABLE_AND_CANARY, ready=("1",))

    assert arms(serving) == [("stable", "1", 100)]
    assert "has no alias 'challenger'; its weight goes to arm stable" in sentences(serving)


def test_a_stable_arm_that_names_nothing_is_unroutable() -> None:
    """At first sight there is nothing to go on with; requests that name a version still work."""
    serving = served(None, a_model(), STABLE_AND_CANARY)

    assert serving.arms == ()
    assert serving.unroutable.startswith("arm 'stable' cannot be resolved: model 'digits' has no version")


def test_a_stable_arm_that_names_nothing_leaves_what_serves() -> None:
    """A new route with a typing mistake in its one arm stops nothing."""
    model = a_model(stages={"production": "1"})
    before = served(None, model, ready=("1",))
    serving = served(before, model, a_route(("blue", "prodution", 100)), ready=("1",))

    assert (arms(serving), serving.unroutable) == ([("stable", "1", 100)], "")
    assert "until then: stable = 1 at 100 %" in sentences(serving)


def test_a_version_that_is_gone_while_another_arm_waits_is_replaced() -> None:
    """The held split has no arm into nothing."""
    before = served(None, a_model(stages={"production": "1"}), ready=("1",))
    model = a_model(("2", "3"), stages={"production": "2"}, aliases={"challenger": "3"})

    assert arms(served(before, model, STABLE_AND_CANARY)) == [("stable", "2", 100)]


def test_an_arm_that_left_with_its_version_gives_its_weight_back() -> None:
    """Version 2 is gone from registry and route while a new arm waits: stable has all of it."""
    model = a_model(stages={"production": "1"}, aliases={"challenger": "2"})
    before = served(None, model, STABLE_AND_CANARY, ready=("1", "2"))
    route = a_route(("stable", "production", 50), ("next", "3", 50))

    serving = served(before, a_model(("1", "3"), stages={"production": "1"}), route, ready=("1",))

    assert arms(serving) == [("stable", "1", 100)]


def test_who_answers_for_others_is_kept_loaded() -> None:
    """Also without a share of the traffic: it must not have to be loaded when the others fail."""
    route = a_route(("stable", "1", 0), ("canary", "2", 100))
    assert not served(None, a_model(), route).fallback_codes

    serving = served(None, a_model(), replace(route, fallback=Fallback(("INTERNAL",), "stable")))

    assert (serving.fallback_codes, serving.fallback_to) == (("INTERNAL",), "stable")
    assert "1" in serving.wanted


def test_a_deadline_is_in_milliseconds() -> None:
    """0 means the gateway's own."""
    assert served(None, a_model(), a_route(("stable", "1", 100), deadline=0.25)).deadline_ms == 250
    assert served(None, a_model()).deadline_ms == 0


# Models that a backend brought itself

LEGACY = BackendModel("legacy", "2")
LEGACY_ROUTE = Route(ModelName("digits"), (Arm("stable", "1", 5000), Arm("old", "", 5000, LEGACY)))


def test_a_backend_model_arm_is_a_version_of_its_own() -> None:
    """It is shown, served when ready, never loaded by us, and never the highest version."""
    model = with_backend_models(a_model(("1",)), LEGACY_ROUTE)
    serving = served(None, model, LEGACY_ROUTE, ready=("1", "backend/legacy/2"))

    assert backend_version_id(LEGACY) == "backend/legacy/2"
    assert arms(serving) == [("stable", "1", 50), ("old", "backend/legacy/2", 50)]
    assert serving.wanted == ("1",)
    assert arms(served(None, model)) == [("stable", "1", 100)]


def test_a_backend_model_that_is_away_waits() -> None:
    """With a sentence that does not speak of a load."""
    model = with_backend_models(a_model(("1",)), LEGACY_ROUTE)
    before = served(None, model, ready=("1",))

    assert "waits for version backend/legacy/2 to be ready on a backend" in sentences(
        served(before, model, LEGACY_ROUTE, ready=("1",))
    )


def test_a_model_without_backend_arms_is_left_as_it_is() -> None:
    """The same object, so that nothing looks changed."""
    model = a_model()

    assert with_backend_models(model, STABLE_AND_CANARY) is model
    assert with_backend_models(model, None) is model


@pytest.mark.parametrize(
    ("weights", "expected"), [([1], [10000]), ([1, 1, 1], [3334, 3333, 3333]), ([2000, 4000], [3333, 6667])]
)
def test_a_split_is_scaled_exactly(weights: list[int], expected: list[int]) -> None:
    """By largest remainder, the first of equals first."""
    assert split_exactly(weights) == expected


def test_pointers_are_sorted() -> None:
    """So that equal states are equal values."""
    serving = served(None, a_model(stages={"b": "1", "a": "2"}, aliases={"z": "1"}))

    assert [(p.kind, p.name) for p in serving.pointers] == [
        (PointerKind.ALIAS, "z"),
        (PointerKind.STAGE, "a"),
        (PointerKind.STAGE, "b"),
    ]
    assert serving.arms == (ServedArm("stable", VersionId("3"), 10_000),)


RULE = MatchRule((Condition("header", "x-team", "risk"),), "canary")


def test_an_arm_of_a_rule_is_loaded_and_waited_for_like_one_with_weight() -> None:
    """A cold version is not put in front of the clients that a rule names either."""
    model = a_model(("1", "2"), stages={"production": "1"})
    before = served(None, model, ready=("1",))
    ruled = replace(a_route(("stable", "1", 100), ("canary", "2", 0)), match=(RULE,))

    waiting = served(before, model, ruled, ready=("1",))
    done = served(waiting, model, ruled, ready=("1", "2"))

    assert (arms(waiting), waiting.assignment.rules) == ([("stable", "1", 100)], ())
    assert "2" in waiting.wanted
    assert "waits for version 2" in sentences(waiting)
    assert (arms(done), done.assignment.rules) == ([("stable", "1", 100), ("canary", "2", 0)], (RULE,))
    assert served(done, model, ruled, ready=("1", "2")) == done


def test_keys_stay_where_they_are_while_a_split_waits() -> None:
    """Then the route's own table takes over, and with it the rest of what it says."""
    model = a_model(stages={"production": "1"})
    first = replace(a_route(("stable", "1", 90), ("canary", "2", 10)), sticky=Sticky("header:a"))
    runs = (("stable", 8_000), ("blue", 1_000), ("canary", 1_000))
    second = a_route(("stable", "1", 80), ("canary", "2", 10), ("blue", "3", 10))
    second = replace(second, sticky=Sticky("header:b"), buckets=runs)
    before = served(None, model, first, ready=("1", "2"))

    waiting = served(before, model, second, ready=("1", "2"))
    done = served(waiting, model, second, ready=("1", "2", "3"))

    assert waiting.assignment == before.assignment
    assert before.assignment.buckets == (("stable", 9_000), ("canary", 1_000))
    assert (done.assignment.buckets, done.assignment.sticky) == (runs, Sticky("header:b"))


def test_a_rule_to_an_arm_that_is_not_in_force_is_left_out() -> None:
    """Its requests go by the weights, like all others."""
    model = a_model(("1",), stages={"production": "1"})
    route = replace(a_route(("stable", "1", 90), ("canary", "@nobody", 10)), match=(RULE,))

    assert served(None, model, route, ready=("1",)).assignment.rules == ()


# Contracts

TAKES_X = Contract((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "INT64", (-1,)),))
TAKES_Z = Contract((TensorSpec("z", "FP32", (-1, 64)),), (TensorSpec("y", "INT64", (-1,)),))
GIVES_MORE = replace(TAKES_X, outputs=(*TAKES_X.outputs, TensorSpec("p", "FP32", (-1, 10))))
ALL = ("1", "2", "3")


def knows(accepted: tuple[str, ...] = (), **contracts: Contract) -> Gate:
    """Contracts of versions, `v1=...`, and what was accepted."""
    return Gate({VersionId(key[1:]): one for key, one in contracts.items()}, ids(*accepted))


def gated(
    previous: Serving | None,
    model: RegisteredModel,
    gate: Gate,
    route: Route | None = None,
    ready: tuple[str, ...] = ALL,
) -> Serving:
    """`settle` with contracts; everything is loaded unless the test says otherwise."""
    return settle(previous, model, route, ids(*ready), {}, gate)


def test_a_pointer_stays_where_the_new_version_breaks_its_clients() -> None:
    """What breaks is told, with the way round it, and the version is not loaded for nothing."""
    gate = knows(v1=TAKES_X, v2=TAKES_Z)
    before = gated(None, a_model(stages={"production": "1"}), gate)

    after = gated(before, a_model(stages={"production": "2"}), gate, ready=("1",))

    assert (pointers(after), arms(after), after.wanted) == ({"production": "1"}, [("stable", "1", 100)], ())
    (waiting,) = after.waiting
    assert waiting.differences == differences(TAKES_X, TAKES_Z) != ()
    for said in (*waiting.differences, "version 1 goes on", "`stagegate accept digits 2 --reason TEXT`"):
        assert said in waiting.sentence


def test_a_version_that_was_accepted_takes_over() -> None:
    """As soon as it is loaded, whatever it breaks."""
    refused, accepted = knows(v1=TAKES_X, v2=TAKES_Z), knows(("2",), v1=TAKES_X, v2=TAKES_Z)
    moved = a_model(stages={"production": "2"})
    before = gated(gated(None, a_model(stages={"production": "1"}), refused), moved, refused)

    cold = gated(before, moved, accepted, ready=("1",))
    ready = gated(cold, moved, accepted)

    assert (pointers(cold), cold.wanted) == ({"production": "1"}, (VersionId("2"),))
    assert (pointers(ready), ready.waiting) == ({"production": "2"}, ())


def test_a_contract_that_the_registry_tells_is_looked_at_too() -> None:
    """It stands above what was learned."""
    model = a_model(stages={"production": "1"})
    versions = {
        key: replace(one, contract=TAKES_Z if key == "2" else TAKES_X) for key, one in model.versions.items()
    }
    before = gated(None, replace(model, versions=versions), Gate())

    after = gated(
        before, replace(model, versions=versions, stages={"production": VersionId("2")}), knows(v2=TAKES_X)
    )

    assert pointers(after) == {"production": "1"}


def test_a_version_that_gives_more_takes_over() -> None:
    """Nobody who was made for the old one misses anything."""
    gate = knows(v1=TAKES_X, v2=GIVES_MORE)
    before = gated(None, a_model(stages={"production": "1"}), gate)

    assert pointers(gated(before, a_model(stages={"production": "2"}), gate)) == {"production": "2"}


def test_a_contract_that_is_not_known_is_waited_for() -> None:
    """The version is loaded, tells, and only then takes over."""
    moved = a_model(stages={"production": "2"})
    before = gated(None, a_model(stages={"production": "1"}), knows(v1=TAKES_X))

    cold = gated(before, moved, knows(v1=TAKES_X), ready=("1",))
    untold = gated(cold, moved, knows(v1=TAKES_X))
    told = gated(untold, moved, knows(v1=TAKES_X, v2=GIVES_MORE))

    assert (pointers(cold), cold.wanted) == ({"production": "1"}, (VersionId("2"),))
    assert (pointers(untold), untold.wanted) == ({"production": "1"}, (VersionId("2"),))
    assert "waits for version 2 to tell what it takes and gives" in sentences(untold)
    assert pointers(told) == {"production": "2"}


def test_nothing_is_held_against_a_version_where_that_of_the_old_one_is_not_known() -> None:
    """There is nothing to compare with."""
    before = gated(None, a_model(stages={"production": "1"}), knows(v2=TAKES_Z))

    assert pointers(gated(before, a_model(stages={"production": "2"}), knows(v2=TAKES_Z))) == {
        "production": "2"
    }


def test_a_version_that_is_gone_is_replaced_whatever_its_contract() -> None:
    """The old one cannot go on."""
    gate = knows(v1=TAKES_X, v2=TAKES_Z)
    before = gated(None, a_model(stages={"production": "1"}), gate)

    assert pointers(gated(before, a_model(("2", "3"), stages={"production": "2"}), gate)) == {
        "production": "2"
    }


def test_a_new_version_that_breaks_is_not_the_highest_for_clients() -> None:
    """A model without stages stays where it is."""
    gate = knows(v3=TAKES_X, v4=TAKES_Z)
    before = gated(None, a_model(), gate)

    after = gated(before, a_model(("1", "2", "3", "4")), gate, ready=("3", "4"))

    assert arms(after) == [("stable", "3", 100)]
    assert "version 4 breaks the contract of version 3" in sentences(after)


def test_who_answers_for_others_must_be_what_their_clients_were_made_for() -> None:
    """It is in front of them whenever another arm fails; until it is accepted nobody answers for others."""
    bare = a_route(("stable", "1", 100), ("backup", "2", 0))
    route = replace(bare, fallback=Fallback(("INTERNAL",), "backup"))
    gate = knows(v1=TAKES_X, v2=TAKES_Z)
    before = gated(None, a_model(), gate, bare)

    after = gated(before, a_model(), gate, route)
    accepted = gated(after, a_model(), replace(gate, accepted=ids("2")), route)

    assert (after.fallback_codes, after.fallback_to, after.wanted) == ((), "", ("1",))
    assert arms(after) == arms(accepted) == [("stable", "1", 100), ("backup", "2", 0)]
    assert "arm backup of model 'digits': version 2 breaks the contract of version 1" in sentences(after)
    (objection,) = objections(before, a_model(), route, gate)
    assert (objection.version, objection.instead_of) == ("2", "1")
    assert (accepted.fallback_codes, accepted.fallback_to) == (("INTERNAL",), "backup")


def test_a_canary_that_breaks_what_stable_serves_waits_and_the_split_with_it() -> None:
    """Until it is accepted: then it is as any other."""
    route = a_route(("stable", "1", 90), ("canary", "2", 10))
    gate = knows(v1=TAKES_X, v2=TAKES_Z)
    before = gated(None, a_model(), gate, a_route(("stable", "1", 100)))

    after = gated(before, a_model(), gate, route)
    accepted = gated(after, a_model(), replace(gate, accepted=ids("2")), route)

    assert arms(after) == [("stable", "1", 100)]
    assert "arm canary of model 'digits': version 2 breaks the contract of version 1" in sentences(after)
    assert after.wanted == ()
    assert arms(accepted) == [("stable", "1", 90), ("canary", "2", 10)]


def test_a_first_split_leaves_out_what_breaks_its_stable_arm() -> None:
    """As after a restart; its weight goes to the stable arm, and the next look says the same."""
    route = a_route(("stable", "1", 90), ("canary", "2", 10))
    gate = knows(v1=TAKES_X, v2=TAKES_Z)

    first = gated(None, a_model(), gate, route)
    again = gated(first, a_model(), gate, route)

    assert arms(first) == [("stable", "1", 100)]
    assert first == again


def test_a_green_arm_replaces_what_the_blue_one_served() -> None:
    """Though neither is called stable."""
    gate = knows(v1=TAKES_X, v2=TAKES_Z)
    blue, green = a_route(("blue", "1", 100)), a_route(("green", "2", 100))
    before = gated(None, a_model(), gate, blue)

    assert arms(gated(before, a_model(), gate, green)) == [("blue", "1", 100)]
    assert arms(gated(before, a_model(), replace(gate, accepted=ids("2")), green)) == [("green", "2", 100)]


def test_a_stable_arm_that_comes_late_is_not_held_against_those_before_it() -> None:
    """Its own route put them in front of clients while it was loading."""
    route = a_route(("stable", "1", 50), ("other", "2", 50))
    gate = knows(v1=TAKES_X, v2=GIVES_MORE)
    first = gated(None, a_model(), gate, route, ready=("2",))

    assert arms(first) == [("other", "2", 100)]
    assert arms(gated(first, a_model(), gate, route)) == [("stable", "1", 50), ("other", "2", 50)]


def test_a_model_that_a_backend_brought_need_not_tell() -> None:
    """It is never asked, and is somebody else's to judge."""
    route = Route(
        model=ModelName("digits"),
        arms=(Arm("stable", "1", 9_000), Arm("theirs", "", 1_000, BackendModel("their_model", "7"))),
    )
    model = with_backend_models(a_model(), route)
    theirs = backend_version_id(BackendModel("their_model", "7"))
    before = gated(None, model, knows(v1=TAKES_X), a_route(("stable", "1", 100)))

    after = settle(before, model, route, frozenset({VersionId("1"), theirs}), {}, knows(v1=TAKES_X))

    assert [arm.version for arm in after.arms] == ["1", theirs]


# What was left behind


def test_what_a_pointer_and_an_arm_went_away_from_is_left_behind() -> None:
    """Once each, by what named it first; what clients still meet is not."""
    before = gated(None, a_model(stages={"production": "1"}, aliases={"champion": "1"}), Gate())
    moved = gated(before, a_model(stages={"production": "2"}, aliases={"champion": "1"}), Gate())
    gone = gated(moved, a_model(stages={"production": "2"}), Gate())
    split = gated(moved, a_model(), Gate(), a_route(("stable", "3", 50), ("other", "2", 50)))

    assert left_behind(before, moved) == {"1": "stage production"}
    assert left_behind(moved, moved) == left_behind(moved, gone) == left_behind(moved, split) == {}
    assert left_behind(split, gated(split, a_model(), Gate(), a_route(("stable", "3", 100)))) == {
        "2": "arm other"
    }
