"""However it ends, nothing stays behind: no process, no shared memory, no lock."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, UP, Gateway, environment, start_gateway, wait_until
from tests.e2e.digits import inputs


def processes_of(session: int) -> dict[int, str]:
    """Every process that descends from the gateway by session or that mentions its folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if stat[0] != "Z" and int(stat[3]) == session:
            found[int(entry.name)] = command
    return found


def mentions(folder: Path) -> dict[int, str]:
    """Every live process whose command line names a folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found[int(entry.name)] = command
    return found


def regions_of(folder: Path) -> set[str]:
    """Shared memory of the Tritons of one gateway: a stub is told the name of its region."""
    told = " ".join(mentions(folder).values())
    return {name for name in os.listdir("/dev/shm") if name in told}


@pytest.fixture
def gateway(trained: Path, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with one model loaded, so that Triton has a stub and shared memory."""
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    running = start_gateway(tmp_path, "up", UP, models)
    client = running.client()
    client.infer("digits", inputs(client.get_model_metadata("digits")))
    client.close()
    yield running
    running.stop(signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_everything(gateway: Gateway, signum: int) -> None:
    """Exit code 0, and no process, shared memory region or lock remains; it can start again at once."""
    theirs = regions_of(gateway.folder)
    assert theirs

    assert gateway.stop(signum) == 0

    wait_until("all processes are gone", lambda: not mentions(gateway.folder), 5)
    assert processes_of(gateway.process.pid) == {}
    assert theirs & set(os.listdir("/dev/shm")) == set()
    again = start_gateway(gateway.folder, "up", UP, gateway.models)
    assert again.stop() == 0


def test_a_killed_gateway_takes_its_triton_along(gateway: Gateway) -> None:
    """SIGKILL leaves no Triton and no stub; the next start cleans what the kernel could not."""
    theirs = regions_of(gateway.folder)
    assert theirs
    gateway.stop(signal.SIGKILL)

    wait_until("Triton and its stubs are gone", lambda: not mentions(gateway.folder), 20)
    again = start_gateway(gateway.folder, "up", UP, gateway.models)
    assert again.stop() == 0
    assert theirs & set(os.listdir("/dev/shm")) == set()


def test_a_triton_that_dies_is_started_again_and_answers(gateway: Gateway) -> None:
    """kill -9 of Triton: it comes back with its models, and requests wait for it."""
    client = gateway.client()
    metadata = client.get_model_metadata("digits")
    tritons = [
        pid
        for pid, command in mentions(gateway.folder).items()
        if command.startswith("/") and "tritonserver" in command.split()[0]
    ]
    assert len(tritons) == 1
    os.kill(tritons[0], signal.SIGKILL)

    def answers() -> bool:
        try:
            client.infer("digits", inputs(metadata), client_timeout=30)
        except Exception:
            return False
        return True

    wait_until("an answer after the restart", answers, 60)


def test_a_port_in_use_is_named_with_its_key(trained: Path, tmp_path: Path) -> None:
    """The error says which port, and which key moves it; the exit code is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "stagegate.yaml"
        config.write_text(
            f'listen: {{inference: "127.0.0.1:{port}"}}\nstate: memory://\n'
            f"registries:\n  local: {{type: folder, path: {trained}/models}}\n"
            'backends:\n  - {name: t0, grpc: "127.0.0.1:9"}\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "gateway", "--config", str(config)],
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "listen.inference" in done.stderr
