"""Promotions and rollbacks: what an operator asks for becomes one change of the state, or an error.

Everything is checked against what this gateway knows at one revision, and written only where the state is
still at that revision; nothing is changed by a request that is refused. What follows from a decision,
loading, traffic, the registry, is done by others, who read it in the state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from router.alias import ReferenceKind as Written
from router.alias import parse_reference, resolve
from router.control.controller import Controller
from router.control.entries import ModelEntry
from router.control.writebacks import WriteBacks
from router.errors import (
    Conflict,
    ContractBroken,
    InvalidInput,
    InvalidName,
    InvalidReference,
    LoadFailed,
    ModelNotFound,
    NotSupported,
    VersionNotFound,
)
from router.model import Arm, ModelName, PointerKind, RegisteredModel, Route, Version, VersionId
from router.ports import (
    ARM,
    PROMOTE,
    ROLLBACK,
    Accepted,
    AliasChange,
    Clock,
    Decision,
    PointerChange,
    PointerMove,
    StageTransition,
    StateStore,
    StoredRoute,
    TagChange,
    WriteBack,
)
from router.traffic.overlay import pointers
from router.traffic.serving import breaks, implicit_route, untold

TAG = "stagegate."
"""How the tags begin that are written on versions."""

MOST_REASON = 500
"""Characters of a reason that a tag keeps."""

_TRIES = 5
_ROUTES_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks, why, and whether what speaks against it is to be set aside."""

    actor: str
    reason: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a promotion or a rollback came to.

    Attributes:
        registry: where it is written; "" for an arm of a route.
        kind: `stage`, `alias` or `arm`; `name` without `@`.
        before, after: version ids, for an arm references; "" for nothing.
        already: whether it was so before, and nothing was changed.
        revision: of the state, that has it.
        write: the number of the registry change that is to be written; 0 where there is none.
        said: sentences for people.
    """

    model: ModelName
    registry: str
    kind: str
    name: str
    before: str
    after: str
    already: bool = False
    revision: int = 0
    write: int = 0
    said: tuple[str, ...] = ()


Plan = tuple[Decision | None, Outcome]
"""What is to be decided, None where it is so already, and what to tell."""


class Decider:
    """Carries out what operators ask for."""

    def __init__(self, controller: Controller, store: StateStore, writes: WriteBacks, clock: Clock) -> None:
        self._controller = controller
        self._store = store
        self._writes = writes
        self._clock = clock

    async def promote(
        self, model: ModelName, reference: str, to: str, order: Order, *, archive_existing: bool = True
    ) -> Outcome:
        """Let a stage or `@alias` name a version, for clients and in the registry.

        Args:
            reference: version id, stage or `@alias` that names the version now.
            to: a stage, or an alias with its `@`.
            archive_existing: whether other versions leave that stage, where a stage may hold several.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference, InvalidInput: it cannot be meant.
            InvalidName: its registry could never have a stage or alias of that name.
            NotSupported: the model is in no registry.
            LoadFailed: the version cannot be loaded; clients would never meet it.
            ContractBroken: it does not take and give what clients are used to, and nobody forces it.
            Conflict: the state is changed by others all the time.
            StateUnavailable: the state cannot be written now.
        """
        for _ in range(_TRIES):
            revision = self._controller.store_revision
            plan = self._promotion(model, reference, to, order, archive_existing)
            if done := await self._carry_out(plan, revision, order):
                return done
        raise _busy(self._controller.store_revision)

    async def rollback(self, model: ModelName, to: str, order: Order, *, name: str = "") -> Outcome:
        """Bring the model's stable traffic back to what it was before, and the registry with it.

        Args:
            to: the version to go back to; "" for the one before the last move.
            name: the stage or `@alias` to move back; "" for what the stable arm goes by.

        Raises:
            As `promote`; InvalidInput also where nothing is known of the time before.
        """
        for _ in range(_TRIES):
            revision = self._controller.store_revision
            plan = await self._rollback(model, name, to, order)
            if done := await self._carry_out(plan, revision, order):
                return done
        raise _busy(self._controller.store_revision)

    async def _carry_out(self, plan: Plan, expected: int, order: Order) -> Outcome | None:
        """Write a decision and return when traffic follows it; None where it is to be thought over."""
        decision, outcome = plan
        if decision is None:
            return replace(outcome, already=True, revision=self._controller.store_revision)
        try:
            revision = await self._store.decide(
                decision, expected_revision=expected, actor=order.actor, reason=order.reason
            )
        except Conflict:
            await self._controller.load_routes()
            await self._controller.turned()
            return None
        await self._controller.load_routes()
        await self._controller.turned()
        made = [one for one in self._controller.writes if one.revision == revision and decision.writes]
        said = [text for one in made if (text := self._writes.sentence(one))]
        return replace(
            outcome,
            revision=revision,
            write=made[0].id if made else 0,
            said=(*outcome.said, *said),
        )

    # Promotion

    def _promotion(
        self, model: ModelName, reference: str, to: str, order: Order, archive_existing: bool
    ) -> Plan:
        entry = self._entry(model)
        registered = entry.registered
        kind, name = pointer_called(registered, to)
        version = registered.versions[resolve(registered, parse_reference(reference)).version]
        outcome = self._outcome(registered, kind, name, version.version)
        if outcome.before == version.version:
            return None, replace(outcome, said=self._already(registered, kind, name))
        self._check_name(registered.registry, kind, name)
        self._check(entry, version)
        accepted = self._accepted(entry, outcome, order)
        tags = self._tags(version, "promoted", order, {"promoted_to": to if to.startswith("@") else name})
        decision = self._moved(outcome, PROMOTE, kind, tags, archive_existing=archive_existing)
        return replace(decision, accepted=accepted), outcome

    def _outcome(
        self, registered: RegisteredModel, kind: PointerKind, name: str, version: VersionId
    ) -> Outcome:
        before = pointers(registered, kind).get(name, VersionId(""))
        return Outcome(registered.name, registered.registry, kind, name, before, version)

    def _moved(
        self,
        outcome: Outcome,
        action: str,
        kind: PointerKind,
        tags: tuple[TagChange, ...],
        *,
        archive_existing: bool = True,
    ) -> Decision:
        """A pointer goes from one version to another."""
        model, version = outcome.model, VersionId(outcome.after)
        change: PointerChange = (
            AliasChange(model, outcome.name, version)
            if kind is PointerKind.ALIAS
            else StageTransition(model, version, outcome.name, archive_existing)
        )
        before = self._may_name(outcome, kind)
        write = WriteBack(outcome.registry, change, action, before=before, tags=tags)
        move = PointerMove(outcome.registry, model, kind, outcome.name, outcome.before, outcome.after, action)
        return Decision(action, writes=(write,), moves=(move,))

    def _may_name(self, outcome: Outcome, kind: PointerKind) -> tuple[str, ...]:
        """What the registry may name without anybody else having moved it."""
        view = self._controller.registries[outcome.registry].view
        model = view.models.get(outcome.model) if view else None
        named: list[str] = [pointers(model, kind).get(outcome.name, "") if model else ""]
        under_way = self._under_way(outcome.registry, outcome.model, kind, outcome.name)
        if under_way is not None:
            # Its change may have been carried out, or be carried out still.
            named += [*under_way.before, under_way.version]
        return tuple(dict.fromkeys(named))

    def _under_way(self, registry: str, model: ModelName, kind: PointerKind, name: str) -> WriteBack | None:
        """The decision that overrides the registry for a pointer now."""
        for write in self._controller.writes:
            pointer = (write.registry, write.model, write.kind, write.name)
            if write.state.overrides and pointer == (registry, model, kind, name):
                return write
        return None

    def _already(self, registered: RegisteredModel, kind: PointerKind, name: str) -> tuple[str, ...]:
        write = self._under_way(registered.registry, registered.name, kind, name)
        sentence = self._writes.sentence(write) if write else ""
        return (sentence,) if sentence else ()

    # Rollback

    async def _rollback(self, model: ModelName, name: str, to: str, order: Order) -> Plan:
        entry = self._entry(model)
        registered = entry.registered
        if name:
            meant = pointer_meant(registered, name)
            if meant is None:
                raise InvalidInput(f"{name!r} is a version of model {model!r}, no stage or alias")
            return await self._pointer_back(entry, *meant, to, order)
        route = entry.route.route if entry.route else implicit_route(registered)
        if route is None:
            raise ModelNotFound(f"model {model!r} has no versions, so nothing to go back to")
        if route.stable.backend_model is not None:
            raise NotSupported(
                f"arm {route.stable.name!r} of model {model!r} is a model that a backend brought itself",
                hint="`stagegate route set` puts it elsewhere",
            )
        pointer = pointer_meant(registered, route.stable.reference)
        if pointer is None:
            return await self._route_back(entry, route, to)
        return await self._pointer_back(entry, *pointer, to, order)

    async def _pointer_back(
        self, entry: ModelEntry, kind: PointerKind, name: str, to: str, order: Order
    ) -> Plan:
        registered = entry.registered
        now = self._outcome(registered, kind, name, VersionId(""))
        if to:
            target: str | None = resolve(registered, parse_reference(to)).version
        else:
            target = await self._version_before(registered, kind, name)
        if target is None or target == now.before:
            said = self._already(registered, kind, name)
            return None, replace(now, after=now.before, said=said)
        if target not in registered.versions:
            raise VersionNotFound(
                f"version {target!r}, which {kind} {name!r} of model {now.model!r} named before, is gone",
                hint="name another one with --to",
            )
        self._check(entry, registered.versions[VersionId(target)])
        left = registered.versions.get(VersionId(now.before))
        tags = self._tags(left, "rolled_back", order, {"rolled_back_to": target}) if left else ()
        outcome = replace(now, after=target)
        accepted = self._accepted(entry, outcome, replace(order, force=True))
        return replace(self._moved(outcome, ROLLBACK, kind, tags), accepted=accepted), outcome

    async def _version_before(self, registered: RegisteredModel, kind: PointerKind, name: str) -> str | None:
        """What a pointer named before; None where the last move was a rollback already.

        Raises:
            InvalidInput: nothing is known of the time before.
        """
        registry, model = registered.registry, registered.name
        now = pointers(registered, kind).get(name, VersionId(""))
        under_way = self._under_way(registry, model, kind, name)
        if under_way is not None and under_way.action == ROLLBACK and under_way.version == now:
            return None
        served = self._controller.served(registry, model, kind, name)
        if served is not None and served != now:
            return served  # clients never met what it names now
        for move in await self._store.moves(registry, model, kind, name):
            if move.after == now and move.action == ROLLBACK:
                return None
            if move.after == now and move.before:
                return move.before
            if move.after not in ("", now) and move.before != now:
                return move.after
        clear = f", or give it up: `stagegate writes clear {under_way.id}`" if under_way is not None else ""
        raise InvalidInput(
            f"{kind} {name!r} of model {model!r} named nothing but version {now!r} since this state is kept",
            hint=f"name the version with --to{clear}",
        )

    async def _route_back(self, entry: ModelEntry, route: Route, to: str) -> Plan:
        """The stable arm names a version itself: the registry has no part in it."""
        stable, stored = route.stable, entry.route
        now = Outcome(route.model, "", ARM, stable.name, stable.reference, stable.reference)
        target = to or await self._reference_before(entry, route, stored)
        if target is None or target == stable.reference:
            return None, now
        version = resolve(entry.registered, parse_reference(target)).version
        self._check(entry, entry.registered.versions[version])
        arms = tuple(replace(arm, reference=target) if arm.name == stable.name else arm for arm in route.arms)
        move = PointerMove("", route.model, ARM, stable.name, stable.reference, target, ROLLBACK)
        outcome = replace(now, after=target, said=(_about_the_route(stable, stored),))
        accepted = (self._controller.acceptance(entry.registered, version),)
        changed = (replace(route, arms=arms),)
        return Decision(ROLLBACK, routes=changed, moves=(move,), accepted=accepted), outcome

    async def _reference_before(
        self, entry: ModelEntry, route: Route, stored: StoredRoute | None
    ) -> str | None:
        """What the stable arm named before; None where that was a rollback already."""
        stable = route.stable
        if stored is None:
            raise InvalidInput(
                f"model {route.model!r} has no stage 'production' and no route: its highest version answers",
                hint=f"name a stage or alias, such as {route.model}@@champion, or give --to VERSION, which "
                "becomes the model's route",
            )
        for move in (await self._store.moves("", route.model, ARM, stable.name))[:1]:
            if move.revision == stored.revision and move.action == ROLLBACK:
                return None
        for change in await self._store.history(route.model, _ROUTES_LOOKED_AT):
            before = _arm_named(change.before, stable.name)
            if before is not None and self._goes_elsewhere(entry.registered, before, stable):
                return before.reference
        raise InvalidInput(
            f"arm {stable.name!r} of model {route.model!r} has named nothing but {stable.reference!r}",
            hint="name the version with --to",
        )

    @staticmethod
    def _goes_elsewhere(registered: RegisteredModel, before: Arm, stable: Arm) -> bool:
        if before.backend_model is not None:
            return False
        try:
            return resolve(registered, parse_reference(before.reference)).version != stable.reference
        except (InvalidReference, VersionNotFound):
            return False

    # Checks

    def _entry(self, model: ModelName) -> ModelEntry:
        entry = self._controller.models.get(model)
        if entry is None:
            raise self._controller.not_found(model)
        if entry.registered.registry not in self._controller.registries:
            raise NotSupported(f"model {model!r} is in no registry: a backend brought it itself")
        return entry

    def _check_name(self, registry: str, kind: PointerKind, name: str) -> None:
        """Refuse a name that the registry could never have: the two would disagree for good."""
        problem = self._controller.registries[registry].registry.pointer_problem(kind, name)
        if problem:
            raise InvalidName(f"registry {registry!r} can have no {kind} {name!r}: {problem}")

    def _check(self, entry: ModelEntry, version: Version) -> None:
        """Refuse what clients could never meet."""
        name = entry.registered.name
        if version.registry != entry.registered.registry:
            raise NotSupported(f"version {version.version!r} of model {name!r} is in no registry")
        if version.unusable:
            raise InvalidInput(
                f"version {version.version!r} of model {name!r} is not to be served: {version.unusable}"
            )
        placement = self._controller.places.placement(entry.registered, version)
        if placement.state == "failed":
            failure = self._controller.residents.failures.get((name, version.version))
            left = math.ceil(failure.retry_at - self._clock.now()) if failure is not None else 0
            raise LoadFailed(
                f"version {version.version!r} of model {name!r} cannot be loaded: {placement.reason}",
                hint="nothing was changed"
                + (f"; its load may be tried again in {left} s" if left > 0 else ""),
            )

    def _accepted(self, entry: ModelEntry, outcome: Outcome, order: Order) -> tuple[Accepted, ...]:
        """What has to be accepted for a move, and for the way back from it.

        Raises:
            ContractBroken: clients of the version before would stumble, and nobody forces it.
        """
        model, new = entry.registered, VersionId(outcome.after)
        kind = PointerKind(outcome.kind)
        old = self._controller.served(model.registry, model.name, kind, outcome.name)
        if old is None or old == new:
            return ()
        gate = self._controller.gate(model)
        broken = breaks(old, new, model.versions, gate)
        if broken and not order.force:
            raise ContractBroken(
                f"version {new} of model {model.name!r} breaks the contract of version {old}, which "
                f"{kind} {outcome.name!r} names: {'; '.join(broken)}",
                differences=broken,
                hint="with --force and --reason it takes over all the same",
            )
        if not broken and not untold(old, new, model.versions, gate):
            return ()
        return tuple(self._controller.acceptance(model, one) for one in (new, old)) if order.force else ()

    def _tags(self, version: Version, what: str, order: Order, more: dict[str, str]) -> tuple[TagChange, ...]:
        at = datetime.fromtimestamp(self._clock.unix(), UTC).isoformat(timespec="seconds")
        said = {f"{what}_at": at, f"{what}_by": order.actor, **more}
        if order.reason:
            said[f"{what}_reason"] = order.reason
        return tuple(
            TagChange(version.model, version.version, TAG + key, text[:MOST_REASON])
            for key, text in said.items()
        )


def pointer_called(model: RegisteredModel, to: str) -> tuple[PointerKind, str]:
    """The stage or alias that somebody wants to move, whether or not it is there yet.

    Raises:
        InvalidReference, InvalidInput: nothing can be called that.
    """
    written = parse_reference(to)
    if written.kind is Written.ALIAS:
        return PointerKind.ALIAS, written.text
    stage = written.text.lower()
    if written.text in model.versions:
        raise InvalidInput(f"{to!r} is a version of model {model.name!r}, so it cannot be a stage")
    if written.text in model.aliases and stage not in model.stages:
        raise InvalidInput(f"{to!r} is an alias of model {model.name!r}", hint=f"write '@{to}'")
    return PointerKind.STAGE, stage


def pointer_meant(model: RegisteredModel, reference: str) -> tuple[PointerKind, str] | None:
    """The stage or alias that a reference goes by; None where it names a version itself.

    Raises:
        InvalidReference, VersionNotFound: it names nothing.
    """
    written = parse_reference(reference)
    text, bare = written.text, written.kind is not Written.ALIAS
    if bare and text in model.versions:
        return None
    if text in model.aliases:
        return PointerKind.ALIAS, text
    if bare and text.lower() in model.stages:
        return PointerKind.STAGE, text.lower()
    resolve(model, written)  # says what there is instead
    return None


def _arm_named(route: Route | None, name: str) -> Arm | None:
    return next((arm for arm in route.arms if arm.name == name), None) if route else None


def _about_the_route(stable: Arm, stored: StoredRoute | None) -> str:
    if stored is None:
        return (
            "the model had no route of its own: it has one now, which names the version; no registry changes"
        )
    return f"arm {stable.name!r} names its version itself, so the route went back; no registry changes"


def _busy(revision: int) -> Conflict:
    return Conflict(
        "the state was changed by others at every try", current_revision=revision, hint="try again"
    )
