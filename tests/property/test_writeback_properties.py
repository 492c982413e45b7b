"""Registry and traffic, whatever operators, other people, outages and restarts do to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.errors import RegistryRefused, RegistryUnavailable, StagegateError
from router.model import VersionId
from tests.unit.control.deciding import Desk, Kept, M, Writable

VERSIONS = ("1", "2", "3", "4")
POINTERS = ("@champion", "production")

Answer = TypeVar("Answer")

versions = st.sampled_from(VERSIONS)
names = st.sampled_from(POINTERS)


class Step(RuleBasedStateMachine):
    """One model with an alias and a stage; every version can be loaded at once."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.shelf = Writable()
        self.shelf.set("m", "".join(VERSIONS), {"production": "1"}, {"champion": "1"})
        self.desk = self.do(self.opened())
        self.decided = dict.fromkeys(POINTERS, "1")
        self.moved = dict.fromkeys(POINTERS, "1")

    async def opened(self) -> Desk:
        """A gateway on a new state."""
        desk = Desk(Kept(), self.shelf)
        await desk.open()
        return desk

    def do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Let something happen."""
        return self.loop.run_until_complete(work)

    def named(self, pointer: str) -> str:
        """What the registry names."""
        return self.shelf.named() if pointer == "@champion" else self.shelf.stage()

    def served(self, pointer: str) -> str:
        """What clients meet."""
        return self.desk.served(pointer.removeprefix("@"))

    # What operators do

    @rule(version=versions, to=names)
    def promote(self, version: str, to: str) -> None:
        """Somebody promotes here."""
        with contextlib.suppress(StagegateError):
            self.decided[to] = self.do(self.desk.promote(version, to)).after

    @rule(name=names)
    def rollback(self, name: str) -> None:
        """Somebody rolls back here."""
        with contextlib.suppress(StagegateError):
            self.decided[name] = self.do(self.desk.rollback(name=name)).after

    @rule()
    def clear(self) -> None:
        """Somebody gives all open ones up."""
        for write in self.desk.controller.writes:
            with contextlib.suppress(StagegateError):
                self.do(self.desk.writes.clear(write.id, actor="ben", reason=""))

    # What others do

    @rule(version=versions, name=names)
    def move(self, version: str, name: str) -> None:
        """Somebody moves a pointer in the registry."""
        model = self.shelf.models[M]
        if version not in model.versions:
            return
        self.moved[name] = version
        if name == "@champion":
            model = replace(model, aliases={**model.aliases, "champion": VersionId(version)})
        else:
            model = replace(model, stages={**model.stages, "production": VersionId(version)})
        self.shelf.models[M] = model
        self.shelf.hint()

    @rule(version=versions)
    def drop_or_add(self, version: str) -> None:
        """Somebody deletes a version that nothing names, or registers it again."""
        model = self.shelf.models[M]
        left = {key: value for key, value in model.versions.items() if key != version}
        if version in (*model.aliases.values(), *model.stages.values()):
            return
        if version not in model.versions:
            other = next(iter(model.versions.values()))
            made = replace(other, version=VersionId(version), artifact=f"/models/m/{version}")
            left = {**model.versions, VersionId(version): made}
        self.shelf.models[M] = replace(model, versions=left)
        self.shelf.hint()

    @rule()
    def go_down(self) -> None:
        """The registry is away."""
        self.shelf.fault = RegistryUnavailable("away")

    @rule()
    def refuse(self) -> None:
        """The registry can be read only."""
        self.shelf.trouble = RegistryRefused("locked")

    @rule()
    def break_writes(self) -> None:
        """The next change is done, and its answer is lost."""
        self.shelf.after = RegistryUnavailable("connection reset")

    @rule()
    def come_back(self) -> None:
        """All is well again."""
        self.shelf.fault = self.shelf.trouble = None
        self.shelf.hint()

    # Time

    @rule(seconds=st.sampled_from([0.0, 1.0, 31.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.do(self.desk.later(seconds))

    @precondition(lambda self: self.shelf.fault is None)
    @rule()
    def restart(self) -> None:
        """The gateway is killed, and another one comes up."""
        self.desk = self.do(self.desk.again())

    # What holds

    @invariant()
    def in_step_or_told(self) -> None:
        """Clients meet what the registry names, or a sentence says why not; never a version that is gone."""
        if self.shelf.fault is not None:
            return
        self.do(self.desk.settle())
        open_ones = self.desk.controller.writes
        told = [one.name for one in open_ones if self.desk.writes.sentence(one)]
        for name in POINTERS:
            assert self.served(name) in self.shelf.models[M].versions
            assert self.served(name) == self.named(name) or name.removeprefix("@") in told

    def teardown(self) -> None:
        """In the end both say the same: what was decided here, or what somebody else did there."""
        try:
            self.come_back()
            self.shelf.after = None
            for _ in range(12):
                self.do(self.desk.later(31.0))
            for write in self.desk.controller.writes:
                assert write.state == "refused"
                self.do(self.desk.writes.clear(write.id, actor="ben", reason=""))
            self.do(self.desk.settle())
            for name in POINTERS:
                assert self.served(name) == self.named(name)
                assert self.named(name) in (self.decided[name], self.moved[name], *self.before(name))
        finally:
            self.do(self.desk.kill())
            self.loop.close()

    def before(self, name: str) -> tuple[str, ...]:
        """What a decision that was given up leaves: an earlier one."""
        ended = self.do(self.desk.store.write_backs(1_000))
        pointer = name.removeprefix("@")
        return tuple(v for one in ended if one.name == pointer for v in (*one.before, one.version))


TestStep = Step.TestCase
TestStep.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
