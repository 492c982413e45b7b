"""Finding a tritonserver: which one is taken, and what is said where none can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from router.backends import wheel
from router.backends.wheel import FOLDER_VARIABLE, Machine, backends_in, find_triton
from router.errors import NotSupported

FIT = Machine("linux", "x86_64", (2, 36), wheel.this_machine().python, "1.26.4")


def executable(path: Path) -> Path:
    """An executable file that does nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as `pip install --target` leaves it, with files of no content."""
    server = tmp_path / "target/pytriton/tritonserver"
    executable(server / "bin/tritonserver")
    executable(server / f"python_backend_stubs/{FIT.python}/triton_python_backend_stub")
    (server / "backends/python").mkdir(parents=True)
    (server / "backends/python/libtriton_python.so").touch()
    (tmp_path / "target/nvidia_pytriton.libs").mkdir()
    return tmp_path / "target"


def test_named_folder_of_the_package(package: Path) -> None:
    """A folder that pip filled gives the server with its libraries, backends and the stub of this Python."""
    found = find_triton(package, environment={}, machine=FIT)

    assert found.binary == package / "pytriton/tritonserver/bin/tritonserver"
    assert found.libraries[0] == package / "nvidia_pytriton.libs"
    assert found.backends == package / "pytriton/tritonserver/backends"
    assert found.stub is not None
    assert FIT.python in str(found.stub)
    assert found.python is not None
    assert (found.python.library / f"libpython{FIT.python}.so.1.0").is_file()


def test_folder_by_environment(package: Path) -> None:
    """The environment names a folder as the argument does."""
    assert find_triton(environment={FOLDER_VARIABLE: str(package)}, machine=FIT) == find_triton(
        package, environment={}, machine=FIT
    )


def test_argument_beats_environment(package: Path, tmp_path: Path) -> None:
    """What the caller names is not overruled by the environment."""
    elsewhere = {FOLDER_VARIABLE: str(tmp_path / "elsewhere")}

    assert find_triton(package, environment=elsewhere, machine=FIT).binary.is_relative_to(package)


def test_folder_of_a_container(tmp_path: Path) -> None:
    """NVIDIA's own layout brings its Python and its libraries; nothing is put beside it."""
    server = tmp_path / "opt/tritonserver"
    executable(server / "bin/tritonserver")
    (server / "backends").mkdir()
    (server / "lib").mkdir()

    found = find_triton(server, environment={}, machine=replace(FIT, architecture="aarch64"))

    assert (found.binary, found.stub, found.python) == (server / "bin/tritonserver", None, None)
    assert (found.backends, found.libraries) == (server / "backends", (server / "lib",))


def test_on_path_where_the_package_cannot_run(tmp_path: Path) -> None:
    """On a machine that the package does not fit, `tritonserver` on PATH is taken."""
    binary = executable(tmp_path / "bin/tritonserver")

    found = find_triton(
        environment={"PATH": str(tmp_path / "bin")}, machine=replace(FIT, architecture="aarch64")
    )

    assert found.binary == binary
    assert found.backends is None


def test_named_folder_without_a_server(tmp_path: Path) -> None:
    """A named folder without a server is an error, though there is one elsewhere."""
    with pytest.raises(NotSupported, match="no tritonserver in") as caught:
        find_triton(tmp_path, environment={}, machine=FIT)

    assert "bin/tritonserver" in caught.value.hint


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (replace(FIT, architecture="aarch64"), "built for x86_64 Linux, and this is aarch64 linux"),
        (replace(FIT, system="darwin", glibc=()), "built for x86_64 Linux, and this is x86_64 darwin"),
        (replace(FIT, glibc=(2, 31)), r"needs glibc 2\.35 or newer, and here is 2\.31"),
        (replace(FIT, glibc=()), r"needs glibc 2\.35 or newer, and here is none"),
        (replace(FIT, python="3.13"), r"Python 3\.11 and 3\.12, and this is 3\.13"),
        (replace(FIT, numpy="2.1.0"), r"needs numpy < 2, and numpy 2\.1\.0 is installed"),
    ],
)
def test_machine_that_it_does_not_fit(package: Path, machine: Machine, why: str) -> None:
    """What is wrong with the machine is told, and what to install."""
    with pytest.raises(NotSupported, match=why) as caught:
        find_triton(package, environment={}, machine=machine)

    assert "pip install 'stagegate[triton]'" in caught.value.hint


@pytest.mark.parametrize("part", ["nvidia_pytriton.libs", "pytriton/tritonserver/backends/python"])
def test_half_a_package(package: Path, part: str) -> None:
    """A package with a part missing is told with that part, before anything is started."""
    (package / part).rename(package / "gone")

    with pytest.raises(NotSupported, match="is not complete") as caught:
        find_triton(package, environment={}, machine=FIT)

    assert part in str(caught.value)


def test_backends_are_the_folders_that_hold_one(tmp_path: Path) -> None:
    """A library, or a model.py for one that is written in Python; None where nobody can look."""
    for file in ("python/libtriton_python.so", "vllm/model.py", "empty/readme"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("")

    assert backends_in(tmp_path) == frozenset({"python", "vllm"})
    assert backends_in(tmp_path / "nowhere") is None
