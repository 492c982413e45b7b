"""Versions that break the contract of what they replace, and who accepts them in spite of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.alias import parse_reference, resolve
from router.control.controller import Controller
from router.errors import ContractBroken, InvalidInput
from router.model import ModelName, RegisteredModel, Route, VersionId
from router.ports import ACCEPT, Accepted, Decision, StateStore
from router.traffic.serving import Waiting, objections


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What came of accepting a version.

    Attributes:
        also: versions that it replaces, accepted with it for the way back.
        already: whether it was accepted before, and nothing was changed.
        revision: of the state, that has it.
    """

    model: ModelName
    version: VersionId
    also: tuple[VersionId, ...] = ()
    already: bool = False
    revision: int = 0


class Acceptances:
    """Looks at what a change would break, and keeps what somebody accepts."""

    def __init__(self, controller: Controller, store: StateStore) -> None:
        self._controller = controller
        self._store = store

    def of_routes(self, routes: Sequence[Route], *, force: bool, reason: str) -> tuple[Accepted, ...]:
        """What has to be accepted for routes to be written.

        Raises:
            ContractBroken: an arm breaks the contract of what its clients meet, and nobody forces it.
            InvalidInput: it is forced without a reason.
        """
        _check_reason(force, reason)
        accepted: list[Accepted] = []
        for route in routes:
            model = self._controller.registered(route)
            waits = self._objections(model, route) if model is not None else ()
            broken = [wait for wait in waits if wait.differences]
            if broken and not force:
                raise ContractBroken(
                    f"route of {route.model!r}: {_sentence(broken)}",
                    differences=[text for wait in broken for text in wait.differences],
                    hint="with --force and --reason it takes over all the same",
                )
            if model is not None and force:
                accepted += self._accepted(model, waits)
        return tuple(dict.fromkeys(accepted))

    async def accept(self, model: ModelName, reference: str, *, actor: str, reason: str) -> Acceptance:
        """Let a version, as it is now, take the place of any other of its model, whatever contract it breaks.

        Args:
            reference: version id, stage or `@alias` that names the version now.

        Raises:
            ModelNotFound, VersionNotFound, InvalidReference: there is no such version.
            InvalidInput: without a reason.
            StateUnavailable: the state cannot be written now.
        """
        _check_reason(True, reason)
        entry = self._controller.models.get(model)
        if entry is None:
            raise self._controller.not_found(model)
        registered = entry.registered
        version = resolve(registered, parse_reference(reference)).version
        waits = [wait for wait in entry.serving.waiting if wait.version == version and wait.differences]
        also = tuple(dict.fromkeys(VersionId(wait.instead_of) for wait in waits))
        known = self._controller.gate(registered).accepted
        if known >= {version, *also}:
            return Acceptance(model, version, also, already=True, revision=self._controller.store_revision)
        accepted = tuple(self._controller.acceptance(registered, one) for one in (version, *also))
        revision = await self._store.decide(
            Decision(ACCEPT, accepted=accepted), expected_revision=None, actor=actor, reason=reason
        )
        await self._controller.load_routes()
        await self._controller.turned()
        return Acceptance(model, version, also, revision=revision)

    def _accepted(self, model: RegisteredModel, waits: Iterable[Waiting]) -> list[Accepted]:
        versions = [one for wait in waits for one in (wait.version, VersionId(wait.instead_of)) if one]
        return [self._controller.acceptance(model, version) for version in versions]

    def _objections(self, model: RegisteredModel, route: Route) -> tuple[Waiting, ...]:
        entry = self._controller.models.get(route.model)
        same = entry is not None and entry.registered.registry == model.registry
        before = entry.serving if entry is not None and same else None
        return objections(before, model, route, self._controller.gate(model))


def _check_reason(force: bool, reason: str) -> None:
    if force and not reason.strip():
        raise InvalidInput("to force what breaks a contract, a reason is needed", hint="say it with --reason")


def _sentence(broken: Iterable[Waiting]) -> str:
    return "; ".join(
        f"{wait.what}: version {wait.version} breaks the contract of version {wait.instead_of}: "
        + "; ".join(wait.differences)
        for wait in broken
    )
