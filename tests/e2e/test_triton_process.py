"""A real Triton as our child: it answers, and whatever way it or we end, nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import TritonInstall, find_triton
from router.errors import BackendUnable, BackendUnavailable, LoadFailed, NotSupported
from router.model import TritonName
from tests.fakes.triton_models import write_model

ROOT = Path(__file__).parents[2]
DOUBLE = TritonName("double")


@pytest.fixture(scope="module")
def install() -> TritonInstall:
    """The tritonserver of this machine."""
    try:
        return find_triton()
    except NotSupported as reason:
        pytest.skip(str(reason))


def make(install: TritonInstall, folder: Path, name: str = "t0", **options: object) -> TritonProcess:
    """A Triton, not started, with the model `double` in its folder."""
    if not (folder / f"{name}-models").exists():
        write_model(folder / f"{name}-models", DOUBLE)
    return TritonProcess(
        install,
        TritonOptions(name, folder / f"{name}-models", folder / name, **options),  # type: ignore[arg-type]
    )


@asynccontextmanager
async def running(process: TritonProcess) -> AsyncIterator[TritonProcess]:
    """A Triton that runs inside the context; after it no process and no shared memory of it is left."""
    async with process:
        sid = os.getsid(process.pid)
        yield process
    assert not members(sid)
    assert not regions(process)


async def load(process: TritonProcess, name: TritonName = DOUBLE) -> None:
    """Load a model on a running Triton."""
    server = TritonServer(process.backend())
    try:
        await server.load(name, timeout=60)
    finally:
        await server.close()


def ask(address: str, values: list[float]) -> list[float]:
    """One inference by a stock client."""
    tensor = triton.InferInput("x", [len(values)], "FP32")
    tensor.set_data_from_numpy(np.array(values, dtype=np.float32))
    with triton.InferenceServerClient(address) as client:
        return [float(value) for value in client.infer(DOUBLE, [tensor]).as_numpy("y")]


def members(sid: int) -> set[int]:
    """Processes of a session that are not merely waiting to be reaped."""
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == sid and fields[0] not in "ZX":
            found.add(int(name))
    return found


def is_stub(pid: int) -> bool:
    """Whether a process is a stub of Triton's Python backend."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"triton_python_backend_stub")


def stubs(process: TritonProcess) -> set[int]:
    """The stub processes of a Triton."""
    return {pid for pid in members(os.getsid(process.pid)) if is_stub(pid)}


def shared(prefix: str) -> list[str]:
    """What is in /dev/shm under a prefix."""
    return [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]


def regions(process: TritonProcess) -> list[str]:
    """Its shared memory."""
    return shared(process.shared_memory)


def wait_gone(sid: int, seconds: float) -> None:
    """Wait until no process of a session is left."""
    end = time.monotonic() + seconds
    while left := members(sid):
        assert time.monotonic() < end, f"still there after {seconds} s: {left}"
        time.sleep(0.05)


async def test_two_side_by_side(install: TritonInstall, tmp_path: Path) -> None:
    """Two instances have ports and shared memory of their own; the end of one leaves the other."""
    told: list[str] = []
    one = TritonProcess(install, make(install, tmp_path, "one").options, told.append)
    two = make(install, tmp_path, "two")
    async with running(one), running(two):
        await asyncio.gather(load(one), load(two))
        first = os.getsid(one.pid)

        assert ask(one.grpc, [1, 2]) == ask(two.grpc, [1, 2]) == [2, 4]
        assert len({one.grpc, one.http, one.metrics, two.grpc, two.http, two.metrics}) == 6
        assert regions(one)
        assert regions(two)
        await one.stop()
        assert not members(first)
        assert not regions(one)
        assert ask(two.grpc, [3]) == [6]

    assert await two.exited() == 0
    assert told[0] == "starting Triton one"
    assert one.grpc in told[-1]


async def test_it_knows_of_requests_that_others_sent(install: TritonInstall, tmp_path: Path) -> None:
    """By the time of its last one."""
    async with running(make(install, tmp_path)) as process:
        server = TritonServer(process.backend())
        await load(process)
        before = await server.last_used(DOUBLE, "1")
        asked = time.time()
        await asyncio.to_thread(ask, process.backend().grpc, [1.0])
        # Triton counts a request after it has answered it.
        async with asyncio.timeout(30):
            while (after := await server.last_used(DOUBLE, "1")) is None:  # noqa: ASYNC110 - Triton tells nobody
                await asyncio.sleep(0.01)
        await server.close()

    assert before is None
    assert asked - 1 < after < time.time() + 1


async def test_loading_again_changes_nothing(install: TritonInstall, tmp_path: Path) -> None:
    """Serving writes nothing into a model's folder, so a second load keeps the running stub."""
    async with running(make(install, tmp_path)) as process:
        await load(process)
        before = stubs(process)
        await load(process)

        assert stubs(process) == before
        assert len(before) == 1
        files = {path.name for path in process.options.repository.rglob("*") if path.is_file()}
        assert files == {"config.pbtxt", "model.py"}


async def test_crash_and_restart(install: TritonInstall, tmp_path: Path) -> None:
    """A killed Triton is noticed, its stubs and memory go, and it can be started again."""
    process = make(install, tmp_path)
    async with process:
        await load(process)
        sid = os.getsid(process.pid)
        os.kill(process.pid, signal.SIGKILL)

        assert await asyncio.wait_for(process.exited(), 10) == 128 + signal.SIGKILL
        assert not process.running
        assert not members(sid)
        assert not regions(process)
        await process.start()
        await load(process)
        assert ask(process.grpc, [5]) == [10]
    assert not process.running


async def test_stopped_triton_ends(install: TritonInstall, tmp_path: Path) -> None:
    """A Triton that was frozen by SIGSTOP is ended as any other."""
    process = make(install, tmp_path)
    async with running(process):
        await load(process)
        os.kill(process.pid, signal.SIGSTOP)


async def test_retry_after_a_slow_load(install: TritonInstall, tmp_path: Path) -> None:
    """A load that is tried again after it took too long ends ready, however the first one ends."""
    process = make(install, tmp_path)
    slow = TritonName("slow")
    write_model(process.options.repository, slow, "import time; time.sleep(2)")
    async with running(process):
        server = TritonServer(process.backend())
        with pytest.raises(LoadFailed, match=r"within 0\.3 s"):
            await server.load(slow, timeout=0.3)
        with pytest.raises(LoadFailed, match="still not ended"):
            await server.load(slow, timeout=0.1)
        await server.load(slow, timeout=60)

        assert [entry.name for entry in await server.index() if entry.ready] == [slow]
        await server.close()


async def test_endless_loads(install: TritonInstall, tmp_path: Path) -> None:
    """Loads that never end keep neither other models from loading nor Triton from ending."""
    process = make(install, tmp_path, stop_timeout=1.0)
    endless = [TritonName(f"endless{number}") for number in range(6)]
    for name in endless:
        write_model(process.options.repository, name, "import time; time.sleep(600)")
    async with running(process):
        server = TritonServer(process.backend())
        loads = (server.load(name, timeout=0.5) for name in endless)
        assert {type(end) for end in await asyncio.gather(*loads, return_exceptions=True)} == {LoadFailed}
        await load(process)

        assert ask(process.grpc, [1]) == [2]
        await server.close()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--backend-config=python,shm-default-byte-size=1099511627776", "shared memory"),
        ("--model-control-mode=poll", "not allowed"),
    ],
)
async def test_a_load_that_triton_can_give_nobody(
    install: TritonInstall, tmp_path: Path, argument: str, said: str
) -> None:
    """It says so of itself: the model is not to blame."""
    process = make(install, tmp_path, arguments=(argument,))
    async with running(process):
        with pytest.raises(BackendUnable, match=said):
            await load(process)


async def endless_load(server: TritonServer, repository: Path, limits: Sequence[float]) -> asyncio.Task[None]:
    """A load that Triton works on, with half of its time left at least.

    On a busy machine it takes long until Triton's stub begins: the first of these limits that suffices.
    """
    for number, limit in enumerate(limits):
        name, begun = TritonName(f"endless{number}"), repository.parent / f"begun{number}"
        write_model(repository, name, f"open({str(begun)!r}, 'w'); import time; time.sleep(600)")
        loading, asked = asyncio.create_task(server.load(name, timeout=limit)), time.monotonic()
        while not (begun.exists() or loading.done()):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        if begun.exists() and time.monotonic() - asked < limit / 2:
            return loading
        await asyncio.gather(loading, return_exceptions=True)
    raise AssertionError(f"no load began within {limits[-1] / 2:g} s")


@pytest.mark.parametrize(("how", "limits"), [(signal.SIGKILL, (240,)), (signal.SIGSTOP, (4, 16, 60, 240))])
async def test_a_triton_that_goes_away_while_it_loads(
    install: TritonInstall, tmp_path: Path, how: signal.Signals, limits: Sequence[float]
) -> None:
    """Also where it only stands still: nobody knows what would have come of the load."""
    process = make(install, tmp_path, stop_timeout=1.0)
    async with running(process):
        server = TritonServer(process.backend())
        loading = await endless_load(server, process.options.repository, limits)
        os.kill(process.pid, how)
        with pytest.raises(BackendUnavailable) as problem:
            await loading
        assert not isinstance(problem.value, BackendUnable)
        await server.close()


async def test_ends_at_its_start(install: TritonInstall, tmp_path: Path) -> None:
    """A Triton that does not like its command line is told with its own words."""
    process = make(install, tmp_path, arguments=("--no-such-flag",))

    with pytest.raises(BackendUnavailable, match="no-such-flag") as caught:
        await process.start()

    assert "exit code" in caught.value.message
    assert str(process.log) in caught.value.hint
    assert not process.running


async def test_not_ready_in_time(install: TritonInstall, tmp_path: Path) -> None:
    """A start over its time is an error that tells the limit, and leaves no process."""
    process = make(install, tmp_path, start_timeout=0.001)

    with pytest.raises(BackendUnavailable, match=r"not ready after 0\.001 s"):
        await process.start()

    assert not process.running
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_cancelled_start(install: TritonInstall, tmp_path: Path) -> None:
    """A start that is given up leaves no process."""
    process = make(install, tmp_path)
    starting = asyncio.create_task(process.start())
    async with asyncio.timeout(30):
        while not process.pid:  # noqa: ASYNC110 -- the moment between its birth and its readiness is wanted
            await asyncio.sleep(0)
    sid = os.getsid(process.pid)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert not members(sid)


OWNER = """
import asyncio, signal, sys
from pathlib import Path
from router.backends.process import TritonOptions, TritonProcess

# A shell that runs the tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton

async def main():
    folder = Path(sys.argv[1])
    process = TritonProcess(find_triton(), TritonOptions("t0", folder / "t0-models", folder / "t0"))
    await process.start()
    await TritonServer(process.backend()).load("double", timeout=60)
    print(process.pid, process.shared_memory, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def owner(folder: Path) -> tuple[subprocess.Popen[str], int, str]:
    """Another Python that owns a Triton with a loaded model; with Triton's session and memory prefix."""
    write_model(folder / "t0-models", DOUBLE)
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout as out:
        pid, prefix = out.readline().split()
    return process, os.getsid(int(pid)), prefix


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_owner_dies(install: TritonInstall, tmp_path: Path, signum: signal.Signals) -> None:
    """However the process that started it dies, Triton, its stubs and its shared memory go within seconds."""
    process, sid, prefix = owner(tmp_path)
    assert shared(prefix)
    assert len(members(sid)) == 3

    process.send_signal(signum)
    process.wait(10)

    wait_gone(sid, 20)
    assert not shared(prefix)


def abandoned(folder: Path) -> tuple[int, str]:
    """A Triton whose owner and guard were killed: its session, and the prefix of the memory that is left."""
    process, sid, prefix = owner(folder)
    pids = members(sid)
    stub = {pid for pid in pids if is_stub(pid)}
    for pid in (process.pid, *(pids - stub)):
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    return sid, prefix


async def test_guard_dies_too(install: TritonInstall, tmp_path: Path) -> None:
    """What is left when even the guard is killed is removed at the next start on this machine."""
    # Another Triton that somebody starts on this machine in just that moment removes it as well.
    for attempt in range(3):
        sid, prefix = abandoned(tmp_path / str(attempt))
        if shared(prefix):
            break
    assert shared(prefix)

    async with make(install, tmp_path / "next"):
        assert not shared(prefix)
        wait_gone(sid, 5)
