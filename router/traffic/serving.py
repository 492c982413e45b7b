"""What clients of one model see now, and how that follows the registry and the route. Pure.

The registry and the operator say what is wanted at once; clients must only meet versions that are
loaded. `settle` holds both together with four rules:

1. A stage or alias that moves goes on naming its old version until the new one is ready, unless the old
   one is gone from the registry. A pointer that is seen for the first time goes straight to its target.
2. Arms resolve through the pointers *as served*, so a weight change is never held up by a stage whose
   new version is still loading (or cannot be loaded): it takes effect on the old one.
3. A split (or a match rule) that would put a version in front of clients that was not there before waits as
   a whole until that version is ready. A split between versions that already answer takes effect at once.
4. What cannot be resolved never takes away what serves: the last version of that arm goes on, else its
   weight goes to the stable arm.
5. A version that does not take and give what the one before it did is never put in its place: a pointer
   stays, and a split waits as by rule 3 (compared with what its stable arm serves), until it is accepted.
   Where the contract of the one before is not known there is nothing to hold against the new one; where
   that of the new one is not known, it is loaded first, and tells.

By the same rule an arm answers for others that fail only where it takes and gives what the stable one does.

Shadows follow the pointers as served too. They change nothing of the above: one whose version is not ready
gets no copies until it is, and nobody waits for it.

`settle` is idempotent, and reaches what is wanted as soon as all of it is ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from router.alias import highest, parse_reference, resolve
from router.errors import InvalidReference, VersionNotFound
from router.model import (
    WHOLE,
    Arm,
    BackendModel,
    BucketRuns,
    Contract,
    Fallback,
    MatchRule,
    ModelName,
    PointerKind,
    RegisteredModel,
    Route,
    Shadow,
    Sticky,
    Version,
    VersionId,
    format_weight,
)
from router.traffic.buckets import served_buckets
from router.traffic.contract import differences

PRODUCTION = "production"
"""The stage that the implicit route follows where a model has it."""

STABLE = "stable"
"""The arm of the implicit route."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """A stage or alias and the version it names for clients now."""

    kind: PointerKind
    name: str
    version: VersionId


@dataclass(frozen=True, slots=True)
class ServedArm:
    """One target of the split in force; `weight` in hundredths of a percent.

    Attributes:
        ruled: whether a match rule leads to it, so that clients meet it without any weight.
    """

    name: str
    version: VersionId
    weight: int
    ruled: bool = False

    @property
    def meets_clients(self) -> bool:
        """Whether requests that do not insist on it get here."""
        return self.weight > 0 or self.ruled


@dataclass(frozen=True, slots=True)
class Assignment:
    """How requests find their arms in the split in force, other than by chance.

    Attributes:
        rules: their arms are all in force.
        buckets: whose each bucket of sticky keys is; empty where one arm has everything.
    """

    sticky: Sticky | None = None
    rules: tuple[MatchRule, ...] = ()
    arm_header: bool = False
    buckets: BucketRuns = ()


@dataclass(frozen=True, slots=True)
class ServedShadow:
    """One target of copies; `sample` in hundredths of a percent."""

    name: str
    version: VersionId
    sample: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something wanted that clients do not see yet.

    Attributes:
        what: `stage production`, `alias champion`, `arm canary` or `shadow next`.
        version: the version it waits for; "" where its reference names none.
        sentence: for people: what is waited for, and what answers until then.
        differences: how that version breaks the contract of what it is to replace; it is not loaded for
            this, and waits for somebody to accept it. Empty where something else is waited for.
        instead_of: the version that it is to replace, where there are differences.
    """

    what: str
    version: VersionId
    sentence: str
    differences: tuple[str, ...] = ()
    instead_of: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What is known of the contracts of a model's versions beside what their registry says.

    Attributes:
        learned: of versions whose registry does not say it.
        accepted: versions that may take the place of any other, because somebody said so.
    """

    learned: Mapping[VersionId, Contract] = field(default_factory=dict)
    accepted: frozenset[VersionId] = frozenset()


_NOTHING_LEARNED = Gate()


@dataclass(frozen=True, slots=True)
class Serving:
    """What clients of one model see now.

    Attributes:
        pointers: stages and aliases as served, sorted by kind and name.
        arms: the split in force, summing to 10,000; empty where `unroutable` says why.
        split_reference: the reference that enters the split besides the empty one; "" for none.
        deadline_ms: default deadline of unary calls, 0 for the gateway's.
        implicit: whether the route is the implicit one.
        waiting: what is wanted and not seen yet.
        wanted: versions to load without being asked by a request, in the registry's order: targets of
            moved pointers and arms, all weighted versions of a split of two or more arms, and shadows.
        unroutable: why a request without a reference cannot be answered; "" otherwise.
        shadows: who gets copies, as soon as its version is ready.
        assignment: how requests find their arms.
        fallback_codes: gRPC status names of failures that another arm answers.
        fallback_to: that arm; "" for none.
    """

    model: ModelName
    pointers: tuple[Pointer, ...]
    arms: tuple[ServedArm, ...]
    split_reference: str
    deadline_ms: int
    implicit: bool
    waiting: tuple[Waiting, ...]
    wanted: tuple[VersionId, ...]
    unroutable: str
    shadows: tuple[ServedShadow, ...] = ()
    assignment: Assignment = Assignment()
    fallback_codes: tuple[str, ...] = ()
    fallback_to: str = ""


def backend_version_id(model: BackendModel) -> VersionId:
    """The version id under which a split shows a model that a backend brought itself."""
    return VersionId("/".join(("backend", model.name, model.version)).rstrip("/"))


def with_backend_models(model: RegisteredModel, route: Route | None) -> RegisteredModel:
    """Add the `backend_model` targets of a route to a model as versions without registry or artifact.

    They come first, so the highest version of the registry stays the last. `settle` and
    `compile_model` both want the result.
    """
    brought = {
        version: Version(registry="", model=model.name, version=version)
        for arm in (route.arms if route else ())
        if arm.backend_model is not None
        and (version := backend_version_id(arm.backend_model)) not in model.versions
    }
    return replace(model, versions={**brought, **model.versions}) if brought else model


def implicit_route(model: RegisteredModel) -> Route | None:
    """One arm `stable` on `production` where the model has that stage, else on the highest version.

    None where the model has neither.
    """
    reference = PRODUCTION if PRODUCTION in model.stages else highest(_own_versions(model))
    if reference is None:
        return None
    return Route(model=model.name, arms=(Arm(STABLE, reference, WHOLE),), registry=model.registry)


def settle(  # noqa: PLR0917 - each is one of the things that it decides from
    previous: Serving | None,
    model: RegisteredModel,
    route: Route | None,
    ready: frozenset[VersionId],
    failed: Mapping[VersionId, str],
    gate: Gate = _NOTHING_LEARNED,
) -> Serving:
    """Decide what clients of a model see now.

    Args:
        previous: what they saw until now; None at first sight.
        model: the registry's last good reading, with `with_backend_models` applied.
        route: the explicit route, or None for the implicit one.
        ready: versions that at least one backend can answer for now.
        failed: versions whose last load failed, with the reason.
        gate: what is known of contracts.

    Returns:
        The new state; it equals `previous` where nothing is to change.
    """
    return _Settling(previous, model, route, ready, failed, gate).run()


def breaks(
    old: VersionId, new: VersionId, versions: Mapping[VersionId, Version], gate: Gate
) -> tuple[str, ...]:
    """How a version breaks the contract of one that it is to replace; nothing where it was accepted, or
    where the contract of one of the two is not known."""
    if new in gate.accepted:
        return ()
    before, after = (_contract_of(version, versions, gate) for version in (old, new))
    return () if before is None or after is None else differences(before, after)


def untold(old: VersionId, new: VersionId, versions: Mapping[VersionId, Version], gate: Gate) -> bool:
    """Whether a version is to replace one whose contract is known before it told its own.

    One that a backend brought itself is never asked.
    """
    known = versions.get(new)
    if known is None or new in gate.accepted or not _has_files(known):
        return False
    before, after = (_contract_of(version, versions, gate) for version in (old, new))
    return before is not None and after is None


def _contract_of(version: VersionId, versions: Mapping[VersionId, Version], gate: Gate) -> Contract | None:
    known = versions.get(version)
    return (known.contract if known else None) or gate.learned.get(version)


def met(serving: Serving) -> dict[VersionId, str]:
    """Versions that clients meet by a stage, an alias or the split, and by which of them."""
    found = {arm.version: f"arm {arm.name}" for arm in serving.arms if arm.meets_clients}
    return found | {pointer.version: f"{pointer.kind} {pointer.name}" for pointer in serving.pointers}


def left_behind(before: Serving, after: Serving) -> dict[VersionId, str]:
    """Versions that clients met by something that gives them another one now, and what that is."""
    found: dict[VersionId, str] = {}
    now = {(pointer.kind, pointer.name): pointer.version for pointer in after.pointers}
    for pointer in before.pointers:
        to = now.get((pointer.kind, pointer.name))
        if to is not None and to != pointer.version:
            found.setdefault(pointer.version, f"{pointer.kind} {pointer.name}")
    serve = {arm.version for arm in after.arms if arm.meets_clients}
    for arm in before.arms:
        if arm.meets_clients and serve and arm.version not in serve:
            found.setdefault(arm.version, f"arm {arm.name}")
    return found


def objections(
    previous: Serving | None, model: RegisteredModel, route: Route, gate: Gate
) -> tuple[Waiting, ...]:
    """What would keep arms of a route from their clients if every version were loaded: contracts alone."""
    model = with_backend_models(model, route)
    served = settle(previous, model, route, frozenset(model.versions), {}, gate)
    return tuple(
        wait for wait in served.waiting if wait.what.startswith("arm ") and wait.version in model.versions
    )


def split_exactly(weights: Sequence[int]) -> list[int]:
    """Scale positive weights so that they sum to exactly 10,000, by largest remainder."""
    total = sum(weights)
    shares = [weight * WHOLE // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(weights[i] * WHOLE % total), i))
    for index in by_remainder[: WHOLE - sum(shares)]:
        shares[index] += 1
    return shares


@dataclass(frozen=True, slots=True)
class _Target:
    """A desired arm: the version it should serve, and what is wrong with its reference."""

    arm: Arm
    version: VersionId | None
    problem: str


# Stages, arms and version numbers are much the same in all models: equal ones are one object.
_pointer = lru_cache(maxsize=4096)(Pointer)
_arm = lru_cache(maxsize=4096)(ServedArm)
_BY_CHANCE = Assignment()


class _Settling:
    """One run of `settle`: its inputs, and the sentences collected on the way."""

    def __init__(  # noqa: PLR0917 - those of `settle`
        self,
        previous: Serving | None,
        model: RegisteredModel,
        route: Route | None,
        ready: frozenset[VersionId],
        failed: Mapping[VersionId, str],
        gate: Gate,
    ) -> None:
        self.gate = gate
        self.model = model
        self.explicit = route
        self.route = route or implicit_route(model)
        self.ready = ready
        self.failed = failed
        self.waiting: list[Waiting] = []
        self.wanted: set[VersionId] = set()
        self.old_arms = previous.arms if previous else ()
        self.old_reference = previous.split_reference if previous else ""
        self.old_assignment = previous.assignment if previous else Assignment()
        self.goes_on = False
        self.desired: frozenset[str] = frozenset()
        self.old_pointers = {(p.kind, p.name): p.version for p in previous.pointers} if previous else {}

    def run(self) -> Serving:
        pointers = self._pointers()
        arms, reference, unroutable = self._split(self.route, pointers)
        shadows = tuple(self._shadows(self.route.shadows if self.route else (), pointers))
        deadline = self.route.deadline if self.route else None
        fallback, fallback_arm = self._fallback(arms)
        # Who is to answer for others must not have to be loaded first.
        self.wanted.update(arm.version for arm in arms if arm.name == fallback_arm)
        return Serving(
            model=self.model.name,
            pointers=pointers,
            arms=tuple(arms),
            split_reference=reference,
            deadline_ms=0 if deadline is None else max(1, round(deadline * 1_000)),
            implicit=self.explicit is None,
            waiting=tuple(self.waiting),
            wanted=tuple(v.version for v in self.model.versions.values() if self._to_load(v)),
            unroutable=unroutable,
            shadows=shadows,
            assignment=self._assignment(arms),
            fallback_codes=fallback.codes if fallback else (),
            fallback_to=fallback_arm,
        )

    def _assignment(self, arms: Sequence[ServedArm]) -> Assignment:
        """The route's, or where the split before goes on, that of before."""
        if self.route is None:
            return Assignment()
        said = Assignment(self.route.sticky, self.route.match, self.route.arm_header)
        if self.goes_on:
            said = self.old_assignment
        names = {arm.name for arm in arms}
        weights = {arm.name: arm.weight for arm in arms}
        assignment = Assignment(
            said.sticky,
            tuple(rule for rule in said.rules if rule.arm in names),
            said.arm_header,
            served_buckets(self.route, self.old_assignment.buckets, weights),
        )
        return _BY_CHANCE if assignment == _BY_CHANCE else assignment

    # Pointers

    def _pointers(self) -> tuple[Pointer, ...]:
        named = [(PointerKind.ALIAS, name, to) for name, to in sorted(self.model.aliases.items())]
        named += [(PointerKind.STAGE, name, to) for name, to in sorted(self.model.stages.items())]
        served = ((kind, name, self._pointer(kind, name, target)) for kind, name, target in named)
        return tuple(_pointer(kind, name, version) for kind, name, version in served if version is not None)

    def _pointer(self, kind: PointerKind, name: str, target: VersionId) -> VersionId | None:
        """The version that a stage or alias names for clients now (rule 1)."""
        what = f"{kind} {name}"
        old = self._existing(self.old_pointers.get((kind, name)))
        if target not in self.model.versions:
            goes_on = "nothing answers for it" if old is None else f"version {old} goes on"
            missing = f"points to version {target}, which registry {self.model.registry!r} does not have"
            self._wait(what, target, f"{missing}; {goes_on}")
            return old
        if old is None or old == target:
            return target
        broken = breaks(old, target, self.model.versions, self.gate)
        if broken:
            self._wait_for_contract(what, target, old, broken, f"version {old} goes on")
            return old
        if target in self.ready and not self._untold(old, target):
            return target
        self.wanted.add(target)
        self._wait(what, target, f"{self._why_not(target)}; version {old} answers until then")
        return old

    # The split

    def _split(
        self, route: Route | None, pointers: Sequence[Pointer]
    ) -> tuple[Sequence[ServedArm], str, str]:
        """The arms in force, the reference that enters them, and why there are none."""
        if route is None:
            return (), "", f"model {self.model.name!r} has no versions"
        targets = [self._target(arm, pointers) for arm in route.arms]
        stable = next(target for target in targets if target.arm.name == route.stable.name)
        if stable.version is None:
            return self._without_stable(stable)
        desired = self._desired(targets, stable)
        self.desired = frozenset(arm.name for arm in desired)
        self.stable = next(arm for arm in desired if arm.name == stable.arm.name)
        refused = [] if self.old_arms else [arm for arm in desired if self._broken(arm, ())]
        if refused:
            # What meets them was never served: it has their weight until somebody accepts them.
            kept = [arm for arm in desired if arm not in refused]
            desired = _add_weight(kept, route.stable.name, sum(arm.weight for arm in refused))
        blocked = [arm for arm in desired if self._blocks(arm, self.old_arms)]
        held = self._held(desired, route.stable.name) if blocked else []
        if held:
            # Where a version that is gone was replaced, its successor is in front of clients already.
            blocked = [arm for arm in desired if self._blocks(arm, held)]
        if held and blocked:
            arms, reference, self.goes_on = held, self.old_reference, True
        else:
            arms, reference = self._first_split(desired, blocked, route.stable.name), route.stable.reference
        # Where every cold arm is in force already, requests wait for the loads and no arm does.
        waiting = {arm.name: arm for arm in (*refused, *blocked) if arm not in arms}
        self._wait_for_arms([waiting[arm.name] for arm in route.arms if arm.name in waiting], arms)
        for split in (desired, arms):
            self._keep_loaded([arm for arm in split if not self._broken(arm, self.old_arms)])
        return arms, reference, ""

    def _target(self, arm: Arm, pointers: Sequence[Pointer]) -> _Target:
        old = self._existing(next((a.version for a in self.old_arms if a.name == arm.name), None))
        if arm.backend_model is not None:
            version = backend_version_id(arm.backend_model)
            if version in self.model.versions:
                return _Target(arm, version, "")
            return _Target(arm, old, f"no backend model {arm.backend_model.name!r} is known")
        try:
            return _Target(arm, self._resolve(arm.reference, pointers), "")
        except (InvalidReference, VersionNotFound) as error:
            return _Target(arm, old, error.message)

    def _resolve(self, text: str, pointers: Sequence[Pointer]) -> VersionId:
        """The version that a reference names as served (rule 2)."""
        reference = parse_reference(text)
        as_served = RegisteredModel(
            self.model.registry,
            self.model.name,
            self.model.versions,
            stages={p.name: p.version for p in pointers if p.kind is PointerKind.STAGE},
            aliases={p.name: p.version for p in pointers if p.kind is PointerKind.ALIAS},
        )
        try:
            return resolve(as_served, reference).version
        except VersionNotFound:
            # The registry's own reading knows better why: a pointer into nothing is still a pointer.
            return resolve(self.model, reference).version

    def _without_stable(self, stable: _Target) -> tuple[Sequence[ServedArm], str, str]:
        """The stable arm names nothing and never did: what serves goes on as a whole (rule 4)."""
        arms = [arm for arm in self.old_arms if arm.version in self.model.versions]
        if sum(arm.weight for arm in arms) != WHOLE:
            return (), "", f"arm {stable.arm.name!r} cannot be resolved: {stable.problem}"
        self._wait(f"arm {stable.arm.name}", VersionId(""), f"{stable.problem}; until then: {_show(arms)}")
        self._keep_loaded(arms)
        self.goes_on = True
        return arms, self.old_reference, ""

    def _desired(self, targets: Sequence[_Target], stable: _Target) -> list[ServedArm]:
        """The arms as the route wants them; the weight of an arm without a version goes to stable."""
        arms: list[ServedArm] = []
        loose = 0
        ruled = {rule.arm for rule in self.route.match} if self.route else set()
        for target in targets:
            what = f"arm {target.arm.name}"
            if target.version is None:
                loose += target.arm.weight
                text = f"{target.problem}; its weight goes to arm {stable.arm.name}"
                self._wait(what, VersionId(""), text)
                continue
            if target.problem:
                self._wait(what, VersionId(""), f"{target.problem}; version {target.version} goes on")
            name = target.arm.name
            arms.append(_arm(name, target.version, target.arm.weight, name in ruled))
        return _add_weight(arms, stable.arm.name, loose)

    def _blocks(self, arm: ServedArm, before: Sequence[ServedArm]) -> bool:
        """Whether an arm would put a version in front of clients that is not loaded, or not known to take
        what they send (rules 3 and 5).

        It does not where clients meet that version already, nor where what the arm gave them is gone.
        """
        if not arm.meets_clients or self._in_front(arm, before):
            return False
        old = self._replaces(arm, before) if before else None
        untold = old is not None and self._untold(old, arm.version)
        return arm.version not in self.ready or untold or bool(self._broken(arm, before))

    def _in_front(self, arm: ServedArm, before: Sequence[ServedArm]) -> bool:
        return any(
            old.meets_clients
            and (old.version == arm.version or (old.name == arm.name and not self._existing(old.version)))
            for old in before
        )

    def _broken(self, arm: ServedArm, before: Sequence[ServedArm]) -> tuple[str, ...]:
        """How an arm breaks the contract of what the clients of a split were made for."""
        if not arm.meets_clients or self._in_front(arm, before):
            return ()
        old = self._replaces(arm, before)
        return () if old is None else breaks(old, arm.version, self.model.versions, self.gate)

    def _replaces(self, arm: ServedArm, before: Sequence[ServedArm]) -> VersionId | None:
        """What the clients that meet an arm were made for: what the stable arm of a split served, else, if
        it is not the stable one itself, what that is to serve."""
        served = {old.name: old.version for old in before}
        named = [name for name in (self.stable.name, STABLE) if name in served]
        elsewhere = [name for name in served if name not in self.desired]
        for name in (*named, *elsewhere[:1]):
            return self._existing(served[name])
        return None if arm.name == self.stable.name else self.stable.version

    def _untold(self, old: VersionId, new: VersionId) -> bool:
        return untold(old, new, self.model.versions, self.gate)

    def _held(self, desired: Sequence[ServedArm], stable: str) -> list[ServedArm]:
        """The split before, as a whole; an arm whose version is gone has its new one at once."""
        wanted = {arm.name: arm.version for arm in desired}
        arms: list[ServedArm] = []
        loose = 0
        for old in self.old_arms:
            version = self._existing(old.version) or wanted.get(old.name)
            if version is None:
                loose += old.weight
            else:
                arms.append(replace(old, version=version))
        heirs = [arm.name for arm in arms if arm.weight]
        if not heirs:
            return []
        return _add_weight(arms, stable if stable in heirs else heirs[0], loose)

    def _first_split(
        self, desired: list[ServedArm], blocked: Sequence[ServedArm], stable: str
    ) -> list[ServedArm]:
        """The split where there is nothing to hold on to: all of it, or the part that is ready."""
        ready = [arm for arm in desired if arm.weight and arm.version in self.ready]
        if not blocked or not ready:
            return desired
        safe = [arm for arm in ready if arm.name == stable] or ready
        weights = split_exactly([arm.weight for arm in safe])
        return [replace(arm, weight=weight) for arm, weight in zip(safe, weights, strict=True)]

    def _wait_for_arms(self, blocked: Sequence[ServedArm], in_force: Sequence[ServedArm]) -> None:
        for arm in blocked:
            what, broken = f"arm {arm.name}", self._broken(arm, self.old_arms)
            old = self._replaces(arm, self.old_arms)
            if broken and old is not None:
                self._wait_for_contract(what, arm.version, old, broken, f"until then: {_show(in_force)}")
                continue
            self.wanted.add(arm.version)
            self._wait(what, arm.version, f"{self._why_not(arm.version)}; until then: {_show(in_force)}")

    def _keep_loaded(self, split: Sequence[ServedArm]) -> None:
        """A version of a real split is never loaded by the request that meets it first."""
        if len(split) > 1:
            self.wanted.update(arm.version for arm in split if arm.meets_clients)

    # Who answers for others

    def _fallback(self, arms: Sequence[ServedArm]) -> tuple[Fallback | None, str]:
        """The fallback and its arm's name; nobody where what it serves is not what clients were made for."""
        to = self.route.fallback_arm if self.route else None
        if self.route is None or self.route.fallback is None or to is None:
            return None, ""
        served = {arm.name: arm.version for arm in arms}
        old, new = served.get(self.route.stable.name), served.get(to.name)
        broken = breaks(old, new, self.model.versions, self.gate) if old and new else ()
        if old and new and broken:
            self._wait_for_contract(f"arm {to.name}", new, old, broken, "it answers for no other arm")
            return None, ""
        return self.route.fallback, to.name

    # Shadows

    def _shadows(self, shadows: Sequence[Shadow], pointers: Sequence[Pointer]) -> Iterator[ServedShadow]:
        for shadow in shadows:
            what = f"shadow {shadow.name}"
            try:
                version = self._resolve(shadow.reference, pointers)
            except (InvalidReference, VersionNotFound) as error:
                self._wait(what, VersionId(""), f"{error.message}; it gets no copies")
                continue
            self.wanted.add(version)
            if version not in self.ready:
                self._wait(what, version, f"{self._why_not(version)}; it gets no copies until then")
            yield ServedShadow(shadow.name, version, shadow.sample)

    # Small things

    def _existing(self, version: VersionId | None) -> VersionId | None:
        return version if version in self.model.versions else None

    def _to_load(self, version: Version) -> bool:
        return version.version in self.wanted and _has_files(version)

    def _why_not(self, version: VersionId) -> str:
        ours = _has_files(self.model.versions[version])
        if version in self.ready:
            return f"waits for version {version} to tell what it takes and gives"
        if version in self.failed:
            what = "its load failed" if ours else "no backend can serve it"
            return f"cannot move to version {version}, {what}: {self.failed[version]}"
        return f"waits for version {version} to be {'loaded' if ours else 'ready on a backend'}"

    def _wait_for_contract(
        self, what: str, version: VersionId, old: VersionId, broken: tuple[str, ...], until: str
    ) -> None:
        """Somebody has to accept a version that is not what the clients of an old one were made for."""
        model = self.model.name
        text = (
            f"version {version} breaks the contract of version {old}: {'; '.join(broken)}; {until}; "
            f"`stagegate accept {model} {version} --reason TEXT` lets it take over all the same"
        )
        self.waiting.append(Waiting(what, version, f"{what} of model {model!r}: {text}", broken, old))

    def _wait(self, what: str, version: VersionId, text: str) -> None:
        self.waiting.append(Waiting(what, version, f"{what} of model {self.model.name!r}: {text}"))


def _has_files(version: Version) -> bool:
    """Whether it is ours to load; a model that a backend brought has neither format nor artifact."""
    return bool(version.format or version.artifact)


def _own_versions(model: RegisteredModel) -> dict[VersionId, Version]:
    return {key: value for key, value in model.versions.items() if value.registry == model.registry}


def _add_weight(arms: list[ServedArm], heir: str, weight: int) -> list[ServedArm]:
    """Give weight that lost its arm to another one."""
    return [replace(arm, weight=arm.weight + weight) if arm.name == heir else arm for arm in arms]


def _show(arms: Sequence[ServedArm]) -> str:
    return ", ".join(f"{arm.name} = {arm.version} at {format_weight(arm.weight)} %" for arm in arms)
