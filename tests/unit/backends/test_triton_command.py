"""What a local Triton is started with: command line, environment, and the folder of links it runs from."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from router.backends.process import TritonOptions, TritonProcess, command_line, environment_of, lay_out
from router.backends.wheel import StubPython, TritonInstall
from router.errors import BackendUnavailable


@pytest.fixture
def install(tmp_path: Path) -> TritonInstall:
    """A package's server with two backends and files of no content."""
    server = tmp_path / "server"
    for file in ("bin/tritonserver", "stub", "backends/python/lib.so", "backends/other/other.so"):
        (server / file).parent.mkdir(parents=True, exist_ok=True)
        (server / file).touch()
    (server / "backends/python/__pycache__").mkdir()
    python = StubPython("3.11", Path("/base/bin"), Path("/base/lib"), (Path("/p1"), Path("/p'2")))
    return TritonInstall(
        server / "bin/tritonserver",
        (Path("/libs"), Path("/base/lib")),
        server / "backends",
        server / "stub",
        python,
    )


@pytest.fixture
def options(tmp_path: Path) -> TritonOptions:
    """Options with folders that do not exist yet."""
    return TritonOptions("t0", tmp_path / "models", tmp_path / "work", arguments=("--log-verbose=1",))


def test_loopback_only(install: TritonInstall, options: TritonOptions) -> None:
    """Every endpoint is bound to 127.0.0.1, at the port that was chosen for it."""
    command = command_line(install, options, 1, 2, 3)

    addresses = {flag for flag in command if "-address=" in flag}
    assert addresses == {f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http", "metrics")}
    assert {"--grpc-port=1", "--http-port=2", "--metrics-port=3"} <= set(command)


def test_command_line(install: TritonInstall, options: TritonOptions) -> None:
    """We say what is loaded, one bad model does not make it unready, and the user's own flags come last."""
    command = command_line(install, options, 1, 2, 3)

    assert command[0] == str(install.binary)
    assert command[-1] == "--log-verbose=1"
    assert {
        f"--model-repository={options.repository}",
        f"--backend-directory={options.work / 'backends'}",
        "--model-control-mode=explicit",
        "--strict-readiness=false",
    } <= set(command)


def test_server_with_its_own_backends(options: TritonOptions) -> None:
    """A server from elsewhere keeps its own backend folder and our environment."""
    install = TritonInstall(Path("/opt/bin/tritonserver"))
    inherited = {"PATH": "/bin", "LD_LIBRARY_PATH": "/mine"}

    assert not any("backend-directory" in flag for flag in command_line(install, options, 1, 2, 3))
    assert environment_of(install, options.work, inherited) == inherited


def test_environment(install: TritonInstall, options: TritonOptions) -> None:
    """Its libraries come before the user's, its Python before any on PATH, and the rest stays."""
    found = environment_of(install, options.work, {"PATH": "/bin", "LD_LIBRARY_PATH": "/mine", "LANG": "C"})

    assert found == {
        "PATH": f"{options.work}/python/bin:/bin",
        "LD_LIBRARY_PATH": "/libs:/base/lib:/mine",
        "LANG": "C",
    }


def test_environment_without_a_library_path(install: TritonInstall, options: TritonOptions) -> None:
    """No empty entry is made: the loader would read it as the current folder."""
    found = environment_of(install, options.work, {"PATH": "/bin"})

    assert found["LD_LIBRARY_PATH"] == "/libs:/base/lib"


def test_backend_folder(install: TritonInstall, options: TritonOptions) -> None:
    """All backends are linked, and the stub of this Python lies beside the Python backend."""
    lay_out(install, options.work)

    backends = options.work / "backends"
    links = {str(path.relative_to(backends)) for path in backends.rglob("*") if path.is_symlink()}
    assert links == {"python/lib.so", "python/triton_python_backend_stub", "other/other.so"}
    assert (backends / "python/triton_python_backend_stub").readlink() == install.stub


def test_python_of_the_stub(install: TritonInstall, options: TritonOptions) -> None:
    """The stub's virtual environment names the base Python and adds the package folders, quoted."""
    lay_out(install, options.work)

    python = options.work / "python"
    assert "home = /base/bin\n" in (python / "pyvenv.cfg").read_text()
    assert os.access(python / "bin/python3", os.X_OK)
    path_file = (python / "lib/python3.11/site-packages/stagegate.pth").read_text()
    assert "addsitedir('/p1')" in path_file
    assert 'addsitedir("/p\'2")' in path_file
    assert str(python / "pycache") in path_file


def test_lay_out_again(install: TritonInstall, options: TritonOptions, tmp_path: Path) -> None:
    """A second start after an update of the package links to the new files."""
    lay_out(install, options.work)
    stub = options.work / "backends/python/triton_python_backend_stub"
    newer = tmp_path / "newer"
    newer.touch()
    stub.unlink()
    stub.symlink_to(newer)

    lay_out(install, options.work)

    assert stub.readlink() == install.stub


@pytest.mark.parametrize("kind", ["grpc", "http", "metrics"])
async def test_port_taken(install: TritonInstall, tmp_path: Path, kind: str) -> None:
    """A given port that somebody has is named before anything is started."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        ports = {f"{kind}_port": port}
        process = TritonProcess(install, TritonOptions("t0", tmp_path / "m", tmp_path / "w", **ports))  # type: ignore[arg-type]

        with pytest.raises(BackendUnavailable, match=f"t0: {kind} port {port}"):
            await process.start()

    assert not process.running
    assert process.pid == 0


async def test_stop_before_start(install: TritonInstall, options: TritonOptions) -> None:
    """Stopping what was never started does nothing."""
    process = TritonProcess(install, options)
    await process.stop()

    assert await process.exited() == 0
