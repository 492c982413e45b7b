"""One registry is followed: what is asked of it, how often, and what comes of its silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine

import pytest

from router.control import reader as module
from router.control.reader import HINTS_WAITING, ReaderHooks, RegistryReader, RegistryState
from router.errors import RegistryIncomplete, RegistryUnavailable
from router.model import ModelName, RegisteredModel, RegistryView
from router.ports import ANYTHING, Hint
from tests.fakes.registry import FakeRegistry
from tests.unit.control.conftest import ManualClock

M, N = ModelName("m"), ModelName("n")


class Slow(FakeRegistry):
    """Each reading sees what is there when it begins, and ends when the test says so."""

    def __init__(self) -> None:
        super().__init__("r")
        self.fault: Exception | None = None
        self.under_way: list[tuple[Hint, asyncio.Event]] = []

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        seen = await super().read(hint)
        gate = asyncio.Event()
        self.under_way.append((hint, gate))
        await gate.wait()
        if self.fault is not None:
            raise self.fault
        return seen

    def end(self, number: int) -> None:
        """Let one reading end, by the order in which they began."""
        self.under_way[number][1].set()

    def end_all(self) -> None:
        """Let all that are under way end."""
        for _, gate in self.under_way:
            gate.set()


class Followed:
    """A reader with what it told."""

    def __init__(self, poll: float | None = None) -> None:
        self.clock = ManualClock()
        self.registry = Slow()
        self.state = RegistryState(self.registry, poll, self.clock.now())
        self.changed: list[ModelName | None] = []
        self.reader = RegistryReader(
            self.state, self.clock, ReaderHooks(changed=self.changed.append, looked=lambda: None)
        )
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do something beside the test."""
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    async def first(self, *names: ModelName) -> None:
        """Models are there, and everything was read once."""
        for name in names:
            await self.registry.put(RegisteredModel("r", name, {}))
        self.begin(self.reader.read())
        await turns()
        self.registry.end(0)
        await turns()
        self.registry.under_way.clear()
        self.registry.hints.clear()


async def turns() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    """A registry that nobody reads yet."""
    followed = Followed()
    yield followed
    followed.registry.end_all()
    for task in followed.tasks:
        task.cancel()
    await asyncio.gather(*followed.tasks, return_exceptions=True)
    await followed.reader.close()


async def test_a_notice_does_not_wait_behind_a_slow_poll(followed: Followed) -> None:
    """Its own reading begins at once, and the poll that ends later takes nothing of it back."""
    await followed.first(M, N)
    followed.begin(followed.reader.read())
    await turns()
    await followed.registry.put(RegisteredModel("r", M, {}, description="moved"))
    followed.reader.notice(Hint(M))
    await turns()
    assert [hint for hint, _ in followed.registry.under_way] == [ANYTHING, Hint(M)]
    followed.registry.end(1)
    await turns()
    assert followed.state.view is not None
    seen_at_once = followed.state.view.models[M].description
    followed.registry.end(0)
    await turns()

    assert seen_at_once == "moved"
    assert followed.state.view.models[M].description == "moved"
    assert followed.changed == [None, M]


async def test_what_is_asked_for_while_it_is_read_is_read_once_more(followed: Followed) -> None:
    """However often: the reading under way may have begun before the change."""
    await followed.first(M)
    for _ in range(5):
        followed.begin(followed.reader.read())
        followed.reader.notice(Hint(M, "champion"))
    await turns()
    began = len(followed.registry.under_way)
    for _ in range(3):
        followed.registry.end_all()
        await turns()

    assert began == 2
    assert sorted(map(str, followed.registry.hints)) == sorted(
        map(str, [ANYTHING, ANYTHING, Hint(M, "champion"), Hint(M, "champion")])
    )


async def test_notices_of_two_aliases_of_a_model_become_one_reading_of_it(followed: Followed) -> None:
    """Those that wait for the same model are asked for together."""
    await followed.first(M)
    followed.reader.notice(Hint(M, "a"))
    await turns()
    followed.reader.notice(Hint(M, "b"))
    followed.reader.notice(Hint(M, "c"))
    await turns()
    followed.registry.end_all()
    await turns()

    assert followed.registry.hints == [Hint(M, "a"), Hint(M)]


async def test_a_notice_before_the_first_reading_reads_everything(followed: Followed) -> None:
    """The rest of what an adapter gives then would be nothing, and look like everything."""
    followed.reader.notice(Hint(M))
    await turns()

    assert followed.registry.hints == [ANYTHING]


async def test_a_flood_of_notices_becomes_one_reading_of_everything(followed: Followed) -> None:
    """Nobody asks a registry a thousand things at once."""
    await followed.first(M)
    for number in range(HINTS_WAITING * 3):
        followed.reader.notice(Hint(ModelName(f"m{number}")))
    await turns()
    at_once = len(followed.registry.under_way)
    for _ in range(HINTS_WAITING):
        followed.registry.end_all()
        await turns()

    assert at_once <= module.HINTS_AT_ONCE + 1
    assert len(followed.registry.hints) <= HINTS_WAITING + module.HINTS_AT_ONCE + 3
    assert ANYTHING in followed.registry.hints


async def test_a_failed_reading_of_one_model_leaves_all_as_it_was(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read before goes on; the next reading of everything tells whether it is over."""
    await followed.first(M)
    followed.registry.fault = RegistryUnavailable("it is away")
    before = followed.state.view
    followed.reader.notice(Hint(M))
    await turns()
    followed.registry.end_all()
    await turns()
    failed = followed.state.error
    followed.registry.fault = None
    followed.begin(followed.reader.read())
    await turns()
    followed.registry.end_all()
    await turns()

    assert followed.state.view == before
    assert (failed, followed.state.error) == ("it is away", "")
    assert "it is away; what was read before goes on" in caplog.text


async def test_a_registry_that_never_answers_is_given_up(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing would be read of it any more."""
    monkeypatch.setattr(module, "READ_SECONDS", 0.001)
    await asyncio.wait_for(followed.reader.read(), 10)

    assert followed.state.error == "registry 'r': no answer within 0.001 s"


@pytest.mark.parametrize(
    ("poll", "tells", "reads"), [(None, False, 6), (None, True, 0), (5.0, True, 0), (40.0, False, 1)]
)
async def test_a_registry_that_tells_of_its_polls_is_not_read_beside_them(
    poll: float | None, tells: bool, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent one is read every ten seconds, or every two and a half polls."""
    followed = Followed(poll)
    registry, clock = FakeRegistry("r"), followed.clock
    followed.state.registry = registry
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        """A second after the other; a registry that tells is read in each by its own doing."""
        assert seconds > 0
        for _ in range(round(seconds)):
            clock.time += 1
            if tells:
                await followed.reader.read()
                registry.reads -= 1
        if clock.time > 1000 + 64 + (poll or 0) * 2:
            over.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    again = asyncio.ensure_future(followed.reader.again())
    await over.wait()
    again.cancel()

    assert registry.reads == reads


async def test_an_old_reading_is_told_once_and_its_end_once(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning in the log; `status` has it for as long as it is so."""
    caplog.set_level(logging.INFO)
    await followed.first(M)
    shown = []
    for _ in range(80):
        followed.clock.time += 1
        followed.state.look(followed.clock.now())
        shown.append(followed.state.warning(followed.clock.now()))
    followed.begin(followed.reader.read())
    await turns()
    followed.registry.end_all()
    await turns()
    followed.state.look(followed.clock.now())

    assert sum(map(bool, shown)) == 50
    assert shown[-1] == "was last read 80 s ago; what it said then goes on"
    assert [line for line in caplog.messages if "registry r" in line] == [
        "registry r was last read 31 s ago; what it said then goes on",
        "registry r is read again",
    ]


async def test_a_registry_that_was_never_read_is_told(followed: Followed) -> None:
    """From the moment on from which it is followed."""
    followed.clock.time += 31

    assert followed.state.warning(followed.clock.now()) == "was never read in 31 s"


async def test_what_takes_several_readings_is_read_to_its_end(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each begins where the one before ended; until then it neither was read nor is given up."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "GO_ON_SECONDS", 0.0)
    followed.registry.fault = RegistryIncomplete("3 of 9 models are read")
    followed.begin(followed.reader.read())
    await turns()
    followed.registry.end(0)
    await turns()
    between = (followed.state.progress, followed.state.error, followed.state.read_at, followed.changed[:])
    followed.registry.fault = None
    followed.registry.end(1)
    await turns()

    assert between == ("3 of 9 models are read", "", None, [])
    assert (followed.state.progress, followed.state.read_at) == ("", followed.clock.now())
    assert [hint for hint, _ in followed.registry.under_way] == [ANYTHING, ANYTHING]
    assert caplog.messages == ["registry r: 3 of 9 models are read"]


async def test_a_slow_reading_is_not_done_all_the_time(followed: Followed) -> None:
    """One that takes 6 s is done every two minutes without a hint, and is not old before the third time."""
    followed.begin(followed.reader.read())
    await turns()
    followed.clock.time += 6
    followed.registry.end(0)
    await turns()

    assert followed.state.pace == 120
    followed.clock.time += 360
    assert followed.state.warning(followed.clock.now()) == ""
    followed.clock.time += 1
    assert followed.state.warning(followed.clock.now()) == (
        "was last read 361 s ago; what it said then goes on"
    )


async def test_a_model_that_a_notice_named_is_asked_for_again_soon(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few times, where its registry does not answer; what was read before goes on until then."""
    monkeypatch.setattr(module, "TRY_AGAIN_SECONDS", (0.0, 0.0, 0.0))
    await followed.first(M)
    followed.registry.fault = RegistryUnavailable("it is away")
    followed.reader.notice(Hint(M, "champion"))
    for _ in range(10):
        await turns()
        followed.registry.end_all()
    asked = list(followed.registry.hints)
    followed.reader.notice(Hint(M))
    await turns()
    await followed.registry.put(RegisteredModel("r", M, {}, description="moved"))
    followed.registry.end_all()
    await turns()
    followed.registry.fault = None
    for _ in range(3):
        followed.registry.end_all()
        await turns()

    assert asked == [Hint(M, "champion")] * 4
    assert followed.state.view is not None
    assert followed.state.view.models[M].description == "moved"


@pytest.mark.parametrize("answer", [None, "models", RegistryView("r", None)])  # type: ignore[arg-type]
@pytest.mark.parametrize("hint", [ANYTHING, Hint(M)])
async def test_an_adapter_that_answers_with_something_else_takes_nothing_away(
    followed: Followed, answer: object, hint: Hint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the next reading counts."""
    await followed.first(M)
    before = followed.state.view

    async def read(_hint: Hint) -> object:
        return answer

    monkeypatch.setattr(followed.registry, "read", read)
    await followed.reader.read(hint)
    told = followed.state.error
    monkeypatch.undo()
    followed.begin(followed.reader.read())
    await turns()
    followed.registry.end_all()
    await turns()

    assert told.startswith("internal error: ")
    assert followed.state.view == before
    assert followed.state.error == ""


async def test_who_waits_no_longer_takes_no_reading_from_others(followed: Followed) -> None:
    """A reading that covers two who asked goes on, though the one that began it goes away."""
    await followed.first(M)
    followed.begin(followed.reader.read(Hint(M)))
    await turns()
    impatient = followed.begin(followed.reader.read(Hint(M)))
    await turns()
    patient = followed.begin(followed.reader.read(Hint(M)))
    await turns()
    followed.registry.end(0)
    await turns()
    impatient.cancel()
    await turns()
    assert not patient.done()
    followed.registry.end_all()
    await turns()

    assert patient.done()
    assert len(followed.registry.under_way) == 2
    followed.begin(followed.reader.read(Hint(M)))
    await turns()
    assert len(followed.registry.under_way) == 3
