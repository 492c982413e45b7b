"""What `settle` promises, whatever registries and operators do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.model import (
    WHOLE,
    Arm,
    Contract,
    PointerKind,
    RegisteredModel,
    Route,
    Shadow,
    TensorSpec,
    VersionId,
)
from router.traffic.serving import Gate, Serving, breaks, settle, split_exactly
from tests.fakes.models import a_model

VERSIONS = ("1", "2", "3", "4", "5")
NAMES = ("production", "staging", "champion")
ARM_NAMES = ("stable", "canary", "blue")
SHADOW_NAMES = ("next", "after")

versions = st.sampled_from(VERSIONS)
pointers = st.dictionaries(st.sampled_from(NAMES), versions, max_size=3)
models = st.builds(
    lambda present, stages, aliases: a_model(present, stages=stages, aliases=aliases),
    st.sets(versions),
    pointers,
    pointers,
)
references = st.one_of(versions, st.sampled_from(NAMES), st.sampled_from([f"@{name}" for name in NAMES]))
INPUT, OUTPUT = TensorSpec("x", "FP32", (-1, 64)), TensorSpec("y", "INT64", (-1,))
CONTRACTS = (
    Contract((INPUT,), (OUTPUT,)),
    Contract((INPUT,), (OUTPUT, TensorSpec("p", "FP32", (-1, 10)))),
    Contract((TensorSpec("z", "FP32", (-1, 64)),), (OUTPUT,)),
)
"""The second may replace the first, and not the other way round; the third replaces nobody."""

learned = st.dictionaries(versions.map(VersionId), st.sampled_from(CONTRACTS), max_size=5)
ready_sets = st.frozensets(versions.map(VersionId))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """A route of one to three arms; some may name nothing."""
    names = draw(st.lists(st.sampled_from(ARM_NAMES), min_size=1, max_size=3, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=len(names) - 1, max_size=len(names) - 1)))
    bounds = [0, *cuts, WHOLE]
    weights = [high - low for low, high in itertools.pairwise(bounds)]
    return Route(
        model=a_model().name,
        arms=tuple(Arm(name, draw(references), weight) for name, weight in zip(names, weights, strict=True)),
        shadows=tuple(
            Shadow(name, draw(references)) for name in draw(st.sets(st.sampled_from(SHADOW_NAMES)))
        ),
    )


@dataclass
class World:
    """Inputs of `settle` at one moment."""

    model: RegisteredModel
    route: Route | None
    ready: frozenset[VersionId]
    failed: dict[VersionId, str] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)

    def settle(self, previous: Serving | None) -> Serving:
        """One step."""
        here = self.ready & self.model.versions.keys()
        failed = {version: why for version, why in self.failed.items() if version not in here}
        return settle(previous, self.model, self.route, here, failed, self.gate)


def resolvable(world: World) -> bool:
    """Whether every pointer names an existing version."""
    return all(
        to in world.model.versions for to in (*world.model.stages.values(), *world.model.aliases.values())
    )


class Traffic(RuleBasedStateMachine):
    """A registry, an operator and backends that do what they like, one thing at a time or several."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(a_model(), None, frozenset())
        self.before: Serving | None = None
        self.now = self.world.settle(None)

    def step(self) -> None:
        """Let the change be seen."""
        self.before, self.now = self.now, self.world.settle(self.now)

    @rule(model=models)
    def registry_changes(self, model: RegisteredModel) -> None:
        """Versions come and go, stages and aliases move."""
        self.world.model = model
        self.step()

    @rule(kind=st.sampled_from(PointerKind), name=st.sampled_from(NAMES), to=versions)
    def pointer_moves(self, kind: PointerKind, name: str, to: str) -> None:
        """One pointer moves, into nothing perhaps."""
        model = self.world.model
        if kind is PointerKind.STAGE:
            self.world.model = replace(model, stages={**model.stages, name: VersionId(to)})
        else:
            self.world.model = replace(model, aliases={**model.aliases, name: VersionId(to)})
        self.step()

    @rule(route=st.none() | routes())
    def operator_changes_the_route(self, route: Route | None) -> None:
        """Or removes it."""
        self.world.route = route
        self.step()

    @rule(ready=ready_sets)
    def backends_change(self, ready: frozenset[VersionId]) -> None:
        """Loads, unloads, restarts."""
        self.world.ready = ready
        self.step()

    @rule(failed=ready_sets)
    def loads_fail(self, failed: frozenset[VersionId]) -> None:
        """Or are no longer remembered to have failed."""
        self.world.failed = dict.fromkeys(failed, "no memory")
        self.step()

    @rule(contracts=learned)
    def contracts_are_learned(self, contracts: dict[VersionId, Contract]) -> None:
        """Of some versions, and others are forgotten."""
        self.world.gate = replace(self.world.gate, learned=contracts)
        self.step()

    @rule(accepted=ready_sets)
    def somebody_accepts_versions(self, accepted: frozenset[VersionId]) -> None:
        """Or takes it back."""
        self.world.gate = replace(self.world.gate, accepted=accepted)
        self.step()

    @invariant()
    def no_pointer_moves_to_what_breaks_its_clients(self) -> None:
        """Nor to what may break them, where that is not known yet; the old one answers."""
        old = {(p.kind, p.name): p.version for p in self.before.pointers} if self.before else {}
        for pointer in self.now.pointers:
            was = old.get((pointer.kind, pointer.name))
            if was is not None and was in self.world.model.versions and was != pointer.version:
                self.may_replace(was, pointer.version)

    @invariant()
    def no_split_puts_what_breaks_its_clients_in_front_of_them(self) -> None:
        """Compared with what the stable arm served, as long as that is there."""
        if self.before is None or any(
            arm.version not in self.world.model.versions for arm in self.before.arms
        ):
            return
        name = self.world.route.stable.name if self.world.route else "stable"
        stable = next((arm.version for arm in self.before.arms if arm.name == name), None)
        in_front = {arm.version for arm in self.before.arms if arm.meets_clients}
        for arm in self.now.arms:
            if stable is not None and arm.meets_clients and arm.version not in in_front:
                self.may_replace(stable, arm.version)

    def may_replace(self, old: VersionId, new: VersionId) -> None:
        """Its contract is known, where that of the old one is, and does not break it; or it was accepted."""
        gate = self.world.gate
        assert not breaks(old, new, self.world.model.versions, gate)
        assert new in gate.accepted or old not in gate.learned or new in gate.learned

    @invariant()
    def the_split_is_whole_or_has_a_reason(self) -> None:
        """10,000 exactly, or empty and `unroutable`."""
        total = sum(arm.weight for arm in self.now.arms)
        assert total == WHOLE if self.now.arms else self.now.unroutable
        assert not (self.now.arms and self.now.unroutable)

    @invariant()
    def only_existing_versions_are_served(self) -> None:
        """By arms, by pointers, and wanted."""
        named = {arm.version for arm in self.now.arms} | {pointer.version for pointer in self.now.pointers}
        named |= {shadow.version for shadow in self.now.shadows}
        assert (named | set(self.now.wanted)) <= self.world.model.versions.keys()

    @invariant()
    def no_pointer_moves_to_a_cold_version_while_the_old_one_exists(self) -> None:
        """The old one answers."""
        old = {(p.kind, p.name): p.version for p in self.before.pointers} if self.before else {}
        for pointer in self.now.pointers:
            was = old.get((pointer.kind, pointer.name))
            if was is not None and was in self.world.model.versions and was != pointer.version:
                assert pointer.version in self.world.ready

    @invariant()
    def no_split_puts_a_cold_version_in_front_of_clients(self) -> None:
        """Unless it was there, or nothing was, or the arm's old version is gone."""
        if self.before is None or not self.before.arms:
            return
        exists = self.world.model.versions.keys()
        if any(arm.version not in exists for arm in self.before.arms):
            return
        in_front = {arm.version for arm in self.before.arms if arm.weight}
        for arm in self.now.arms:
            assert not arm.weight or arm.version in in_front | self.world.ready

    @invariant()
    def what_serves_goes_on_serving(self) -> None:
        """A model whose served versions all exist never becomes unroutable."""
        if self.before is not None and self.before.arms:
            kept = all(arm.version in self.world.model.versions for arm in self.before.arms)
            assert self.now.arms or not kept

    @invariant()
    def a_shadow_changes_nothing_that_clients_see(self) -> None:
        """With the shadows taken out of the route, all but them and what is loaded for them is the same."""
        if self.world.route is None:
            return
        bare = replace(self.world, route=replace(self.world.route, shadows=()))
        without, now = bare.settle(self.now), self.world.settle(self.now)
        assert (without.arms, without.pointers) == (now.arms, now.pointers)
        assert (without.split_reference, without.unroutable) == (now.split_reference, now.unroutable)
        assert set(without.wanted) <= set(now.wanted)

    @invariant()
    def settling_twice_changes_nothing(self) -> None:
        """Idempotent: the same inputs keep the same state, to the last sentence."""
        assert self.world.settle(self.now) == self.now

    @invariant()
    def it_arrives_once_everything_is_ready(self) -> None:
        """And accepted; it is then what a fresh start would show, with nothing to wait for."""
        everything = frozenset(map(VersionId, VERSIONS))
        gate = replace(self.world.gate, accepted=everything)
        world = replace(self.world, ready=everything, failed={}, gate=gate)
        fresh = world.settle(None)
        if not resolvable(world) or fresh.unroutable or fresh.waiting:
            return  # what names nothing has no one right answer; it keeps what it had
        assert world.settle(self.now) == fresh

    @invariant()
    def what_is_waited_for_is_said_and_wanted(self) -> None:
        """Every version that somebody waits for is loaded, and each wait has its sentence.

        What breaks a contract waits for people, who are told what it breaks.
        """
        for waiting in self.now.waiting:
            assert waiting.sentence.startswith(f"{waiting.what} of model ")
            assert all(text in waiting.sentence for text in waiting.differences)
            if waiting.version in self.world.model.versions and not waiting.differences:
                assert waiting.version in self.now.wanted


TestTraffic = Traffic.TestCase


@given(st.lists(st.integers(1, WHOLE), min_size=1, max_size=20))
def test_a_split_is_scaled_to_exactly_the_whole(weights: list[int]) -> None:
    """Within one hundredth of a percent of each share."""
    scaled = split_exactly(weights)

    assert sum(scaled) == WHOLE
    assert all(
        abs(part - weight * WHOLE / sum(weights)) < 1 for part, weight in zip(scaled, weights, strict=True)
    )
