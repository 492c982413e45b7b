"""Promotions, rollbacks and registry changes as operators see them, over the control loop's own."""

from __future__ import annotations

from gateway.operations import Change, Moved, Problem, WriteCount, WriteRow
from router.control.controller import Controller
from router.control.decide import Decider, Order, Outcome
from router.control.writebacks import WriteBacks
from router.errors import InvalidInput
from router.model import ModelName
from router.ports import Clock, StateStore, WriteBack, WriteState

TOLD_SECONDS = 3_600.0
"""How long the status tells of a decision that came to nothing."""


class Moving:
    """What `gateway.operations.Moving` says; `worker` is to be run."""

    def __init__(self, controller: Controller, store: StateStore, clock: Clock) -> None:
        self.worker = WriteBacks(controller, store, clock)
        self._controller = controller
        self._store = store
        self._clock = clock
        self._decider = Decider(controller, store, self.worker, clock)

    async def promote(
        self,
        model: ModelName,
        reference: str,
        to: str,
        *,
        keep_existing: bool,
        force: bool,
        change: Change,
    ) -> Moved:
        """Let a stage or `@alias` name a version."""
        if force and not change.reason.strip():
            raise InvalidInput("to force a promotion a reason is needed", hint="say why with --reason")
        order = Order(change.actor, change.reason, force)
        return _moved(
            await self._decider.promote(model, reference, to, order, archive_existing=not keep_existing)
        )

    async def rollback(self, model: ModelName, pointer: str, version: str, change: Change) -> Moved:
        """Bring traffic and registry back."""
        order = Order(change.actor, change.reason)
        return _moved(await self._decider.rollback(model, version, order, name=pointer))

    async def writes(self, ended: int) -> tuple[WriteRow, ...]:
        """Open registry changes, oldest first, then the newest ended ones."""
        return tuple(self._row(write) for write in await self._store.write_backs(ended))

    async def clear(self, number: int, change: Change) -> WriteRow:
        """Give an open one up."""
        return self._row(await self.worker.clear(number, actor=change.actor, reason=change.reason))

    def notes(self, model: str) -> tuple[str, ...]:
        """Where registry and traffic of a model disagree, and why, in sentences."""
        mine = (write for write in self._controller.writes if write.model == model)
        return tuple(text for write in mine if (text := self.worker.sentence(write)))

    def problems(self) -> tuple[Problem, ...]:
        """Where registries and traffic disagree, and decisions that came to nothing of late."""
        since = self._clock.unix() - TOLD_SECONDS
        open_ones = ((write, self.worker.sentence(write)) for write in self._controller.writes)
        lost = ((one, _came_to_nothing(one)) for one in self.worker.lost if (one.ended or 0.0) >= since)
        return tuple(Problem(write.model, text) for write, text in (*open_ones, *lost) if text)

    def counts(self) -> tuple[WriteCount, ...]:
        """Changes that registries were asked for."""
        return tuple(WriteCount(*key, count) for key, count in self.worker.results.items())

    def pending(self) -> dict[str, int]:
        """Registry to how many decisions it does not say yet."""
        waiting = [write.registry for write in self._controller.writes if write.state.overrides]
        return {name: waiting.count(name) for name in self._controller.registries}

    def _row(self, write: WriteBack) -> WriteRow:
        note = self.worker.waits(write) if write.state is WriteState.PENDING else ""
        return WriteRow(
            id=write.id,
            registry=write.registry,
            model=write.model,
            kind=write.kind.value,
            name=write.name,
            version=write.version,
            registry_names=self.worker.named(write),
            action=write.action,
            state=write.state.value,
            attempts=write.attempts,
            next_try=write.next_try or None,
            note=note or write.note,
            actor=write.actor,
            reason=write.reason,
            at=write.at,
            ended=write.ended,
            revision=write.revision,
        )


def _came_to_nothing(write: WriteBack) -> str:
    what = f"{write.kind} {write.name}: the {write.action} to version {write.version} by {write.actor}"
    return f"{what} came to nothing: {write.note}"


def _moved(outcome: Outcome) -> Moved:
    return Moved(
        model=outcome.model,
        registry=outcome.registry,
        kind=str(outcome.kind),
        name=outcome.name,
        before=outcome.before,
        after=outcome.after,
        already=outcome.already,
        revision=outcome.revision,
        write=outcome.write,
        said=outcome.said,
    )
