"""A tritonserver on this machine, started and ended by us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from router.backends.triton import TritonServer
from router.backends.wheel import StubPython, TritonInstall, backends_in, base_interpreter
from router.errors import BackendUnavailable
from router.model import Backend, BackendId, Control

Progress = Callable[[str], None]

HOST = "127.0.0.1"
"""Triton has no access control worth the name: what we start is reached from this machine only."""

_LOOK = 0.05
_ATTEMPTS = 3
_GUARD_SLACK = 10.0
_TOLD_LINES = 5
_LOAD_THREADS = 32
_COMPLAINT = re.compile(r"^E\d{4} |^error:|unrecognized|failed to|cannot open", re.IGNORECASE)
_PORT_TAKEN = ("already in use", "failed to start gRPC", "Address in use")


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How one Triton is to run.

    Attributes:
        name: its name among the backends; also in messages.
        repository: the folder with its model folders; made if it is not there.
        work: a folder of its own for its log and for what it runs from; made if it is not there.
        grpc_port, http_port, metrics_port: 0 for any free one.
        start_timeout: seconds until it must be ready.
        stop_timeout: seconds that requests in flight may take at the end; it is killed 5 s after that.
        arguments: further flags for its command line.
    """

    name: str
    repository: Path
    work: Path
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Ports:
    grpc: int
    http: int
    metrics: int


class TritonProcess:
    """One tritonserver in its own session, guarded by a small process that ends and cleans up after it.

    Whatever way this process ends, SIGKILL included, Triton ends too, with its stubs, and nothing of it
    stays in /dev/shm. Use as an async context, or call `start` and `stop`. After a crash (see `exited`) or
    a stop, `start` starts it again, on the same ports where they were given, else on new ones.
    """

    def __init__(
        self, install: TritonInstall, options: TritonOptions, progress: Progress | None = None
    ) -> None:
        """Nothing is started yet.

        Args:
            install: what `find_triton` found.
            options: how it is to run.
            progress: told one plain line at each step of a start.
        """
        self.options = options
        self._install = install
        self._tell = progress or (lambda _text: None)
        self._guard: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None
        self._ports = _Ports(options.grpc_port, options.http_port, options.metrics_port)
        self._pid = 0
        self._shared_memory = ""

    @property
    def log(self) -> Path:
        """The file that has Triton's own output; that of the start before is beside it as `.previous`."""
        return self.options.work / "triton.log"

    @property
    def running(self) -> bool:
        """Whether its process runs; says nothing of whether it answers."""
        return self._end is not None and not self._end.done()

    @property
    def pid(self) -> int:
        """Triton's process id; 0 before the first start."""
        return self._pid

    @property
    def shared_memory(self) -> str:
        """What the names of its regions in /dev/shm begin with; "" before the first start."""
        return self._shared_memory

    @property
    def grpc(self) -> str:
        """`host:port` of gRPC."""
        return f"{HOST}:{self._ports.grpc}"

    @property
    def http(self) -> str:
        """`host:port` of HTTP."""
        return f"{HOST}:{self._ports.http}"

    @property
    def metrics(self) -> str:
        """`host:port` of its metrics."""
        return f"{HOST}:{self._ports.metrics}"

    def backend(self, memory: int | None = None) -> Backend:
        """It as a backend, for the control loop. `memory`: bytes that it may use for models."""
        return Backend(
            name=BackendId(self.options.name),
            grpc=self.grpc,
            http=self.http,
            metrics=self.metrics,
            control=Control.EXPLICIT,
            repository=self.options.repository,
            memory=memory,
            backends=backends_in(self._install.backends) if self._install.backends else None,
            log=self.log,
        )

    async def start(self) -> None:
        """Start Triton and return when it is ready. Does nothing while it runs.

        Raises:
            BackendUnavailable: a given port is taken, it ended at once, or it was not ready in time; with
                the last lines of its log. Nothing of it is left running.
        """
        if self.running:
            return
        for attempt in range(1, _ATTEMPTS + 1):
            self._prepare()
            self._ports = _free_ports(self.options)
            try:
                await self._start_once()
            except _PortsTaken:
                # Somebody took a free port between our look and Triton's bind.
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                await self.stop()
                raise
            else:
                return

    async def stop(self) -> None:
        """End Triton and wait until it, its stubs and its shared memory are gone. Idempotent."""
        if self._guard is None or self._end is None:
            return
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        patience = self.options.stop_timeout + 5.0 + _GUARD_SLACK
        done, _ = await asyncio.wait({self._end}, timeout=patience)
        if not done:
            # The guard itself is stuck; Triton gets its SIGTERM from the kernel, the rest the next start.
            self._guard.kill()
            await self._end

    async def exited(self) -> int:
        """Wait until it ends, by `stop` or by itself; return its exit code, 128 + N for signal N."""
        if self._end is None:
            return 0
        return await asyncio.shield(self._end)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _prepare(self) -> None:
        self.options.repository.mkdir(parents=True, exist_ok=True)
        self.options.work.mkdir(parents=True, exist_ok=True)
        lay_out(self._install, self.options.work)
        with contextlib.suppress(FileNotFoundError):
            self.log.replace(self.log.with_suffix(".previous"))
        self.log.touch(mode=0o640)

    async def _start_once(self) -> None:
        name, began = self.options.name, time.monotonic()
        self._tell(f"starting Triton {name}")
        guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("guard.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._guard = guard
        self._end = asyncio.create_task(guard.wait(), name=f"Triton {name}")
        await self._order(guard)
        await self._until_ready()
        self._tell(f"Triton {name} is ready on {self.grpc} after {time.monotonic() - began:.1f} s")

    async def _order(self, guard: asyncio.subprocess.Process) -> None:
        order = {
            "command": command_line(
                self._install, self.options, self._ports.grpc, self._ports.http, self._ports.metrics
            ),
            "environment": environment_of(self._install, self.options.work, os.environ),
            "log": str(self.log),
            "patience": self.options.stop_timeout + 5.0,
        }
        assert guard.stdin is not None and guard.stdout is not None  # noqa: PT018, S101 -- both are pipes
        guard.stdin.write(json.dumps(order).encode() + b"\n")
        await guard.stdin.drain()
        line = await guard.stdout.readline()
        if line:
            told = json.loads(line)
            self._pid, self._shared_memory = told["pid"], told["prefix"]

    async def _until_ready(self) -> None:
        server = TritonServer(self.backend())
        try:
            async with asyncio.timeout(self.options.start_timeout):
                while self.running:
                    if await server.ready():
                        return
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise BackendUnavailable(
                f"Triton {self.options.name} was not ready after {self.options.start_timeout:g} s",
                hint=f"see {self.log}",
            ) from None
        finally:
            await server.close()
        raise self._ended(await self.exited())

    def _ended(self, code: int) -> BackendUnavailable:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        # After a flag that it does not know it prints all of its help, so the last lines need not tell why.
        telling = [line for line in lines if _COMPLAINT.search(line)][:_TOLD_LINES] or lines[-_TOLD_LINES:]
        said = "\n".join(telling)
        text = f"Triton {self.options.name} ended at its start with exit code {code}: {said}"
        taken = any(sign in line for line in lines for sign in _PORT_TAKEN)
        kind = _PortsTaken if taken else BackendUnavailable
        return kind(text, hint=f"see {self.log}")


class _PortsTaken(BackendUnavailable):
    """Triton could not listen."""


def command_line(
    install: TritonInstall, options: TritonOptions, grpc_port: int, http_port: int, metrics_port: int
) -> list[str]:
    """Triton's command line, but for the prefix in /dev/shm, which the guard adds."""
    backends = options.work / "backends" if install.stub is not None else install.backends
    flags = [
        f"--model-repository={options.repository.resolve()}",
        "--model-control-mode=explicit",
        # One model that failed to load must not make a server "not ready".
        "--strict-readiness=false",
        # Completing a configuration runs the model's stub once more: 1.4 s a load instead of 0.2 s.
        "--disable-auto-complete-config",
        # Triton cannot give up a load; with its own 4 threads, four that never end would stop all others.
        f"--model-load-thread-count={_LOAD_THREADS}",
        f"--exit-timeout-secs={max(1, round(options.stop_timeout))}",
        # The gateway finds dead connections by pings; without this gRPC ends a connection that pings.
        "--grpc-http2-max-ping-strikes=0",
        "--allow-gpu-metrics=false",
    ]
    if backends is not None:
        flags.append(f"--backend-directory={backends.resolve()}")
    for kind, port in (("grpc", grpc_port), ("http", http_port), ("metrics", metrics_port)):
        flags += [f"--{kind}-address={HOST}", f"--{kind}-port={port}"]
    return [str(install.binary), *flags, *options.arguments]


def environment_of(install: TritonInstall, work: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Triton's environment: ours, with its libraries, and with the Python that its stubs are to embed."""
    environment = dict(inherited)
    if install.libraries:
        folders = [str(folder) for folder in install.libraries]
        if before := inherited.get("LD_LIBRARY_PATH"):
            folders.append(before)
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    if install.python is not None:
        path = inherited.get("PATH", os.defpath)
        environment["PATH"] = os.pathsep.join([str((work / "python/bin").resolve()), path])
    return environment


def lay_out(install: TritonInstall, work: Path) -> None:
    """Put together, from links, the backend folder and the virtual environment that the stubs run in."""
    if install.stub is None or install.backends is None or install.python is None:
        return
    for backend in install.backends.iterdir():
        for file in backend.iterdir():
            if file.name != "__pycache__":
                _link(work / "backends" / backend.name / file.name, file)
    _link(work / "backends/python/triton_python_backend_stub", install.stub)
    _lay_out_python(install.python, (work / "python").resolve())


def _lay_out_python(python: StubPython, folder: Path) -> None:
    packages = folder / f"lib/python{python.version}/site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    _link(folder / "bin/python3", base_interpreter())
    (folder / "pyvenv.cfg").write_text(
        f"home = {python.home}\ninclude-system-site-packages = false\nversion = {python.version}\n"
    )
    # Bytecode beside a model.py would change its folder's time, and Triton would load the model anew.
    lines = [f"import sys; sys.pycache_prefix = {str(folder / 'pycache')!r}"]
    lines += [f"import site; site.addsitedir({str(path)!r})" for path in python.packages]
    (packages / "stagegate.pth").write_text("\n".join(lines) + "\n")


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() and place.readlink() == target:
        return
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def _free_ports(options: TritonOptions) -> _Ports:
    """The given ports, checked, and free ones for those that are 0; all held at once, so all different.

    Raises:
        BackendUnavailable: a given port is taken.
    """
    given = {"grpc": options.grpc_port, "http": options.http_port, "metrics": options.metrics_port}
    with contextlib.ExitStack() as held:
        found = {kind: held.enter_context(_bound(options.name, kind, port)) for kind, port in given.items()}
    return _Ports(**found)


@contextlib.contextmanager
def _bound(name: str, kind: str, port: int) -> Iterator[int]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError as problem:
            raise BackendUnavailable(
                f"Triton {name}: {kind} port {port} cannot be had on {HOST}: {problem.strerror}",
                hint=f"choose another {kind} port, or 0 for any free one",
            ) from None
        yield sock.getsockname()[1]
