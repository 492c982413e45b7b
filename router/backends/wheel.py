"""Finds a tritonserver on this machine and tells what it needs to run.

Looked for in this order: the folder that is given (or that STAGEGATE_TRITON names), the PyPI package
nvidia-pytriton, `tritonserver` on PATH. The package's server is run as it lies; nothing of it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from router.errors import NotSupported

FOLDER_VARIABLE = "STAGEGATE_TRITON"

_PYTHONS = ("3.11", "3.12")
_OLDEST_GLIBC = (2, 35)
_HINT = (
    "on x86_64 Linux with glibc 2.35 or newer and Python 3.11 or 3.12: pip install 'stagegate[triton]'; "
    "elsewhere name a tritonserver that you have with triton.path or "
    f"{FOLDER_VARIABLE}, or run one and list it under backends"
)


@dataclass(frozen=True, slots=True)
class StubPython:
    """The Python that Triton's Python backend is to embed.

    The stub ignores PYTHONPATH and PYTHONHOME (it runs isolated); the only way to tell it where packages
    are is a virtual environment whose `bin` is first on PATH, so this is what such a one is made from.

    Attributes:
        version: `3.11` or `3.12`.
        home: folder of the base interpreter, for `pyvenv.cfg`.
        library: folder of `libpython3.X.so.1.0`.
        packages: folders that hold numpy, onnxruntime and what else models import.
    """

    version: str
    home: Path
    library: Path
    packages: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A tritonserver on this machine.

    Attributes:
        binary: the executable.
        libraries: folders for LD_LIBRARY_PATH that belong to it.
        backends: folder of its backends, or None where its own default is right.
        stub: executable of the Python backend that must be put beside it, or None where it is there.
        python: what that stub embeds, or None with `stub`.
    """

    binary: Path
    libraries: tuple[Path, ...] = ()
    backends: Path | None = None
    stub: Path | None = None
    python: StubPython | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether the package's server can run here.

    Attributes:
        glibc: its version, or () where there is none.
        python: `major.minor` of this interpreter.
        numpy: version of the numpy that models would import, or "".
    """

    system: str
    architecture: str
    glibc: tuple[int, ...]
    python: str
    numpy: str


def backends_in(folder: Path) -> frozenset[str] | None:
    """Names of the backends in a Triton's backend folder: the folders with a library or a model.py.

    None where the folder cannot be read.
    """
    try:
        return frozenset(
            entry.name
            for entry in folder.iterdir()
            if any(entry.glob("libtriton_*.so")) or (entry / "model.py").is_file()
        )
    except OSError:
        return None


def base_interpreter() -> Path:
    """The interpreter itself, where this one is that of a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def this_machine() -> Machine:
    """The machine and interpreter that this runs on."""
    name, version = platform.libc_ver()
    return Machine(
        system=sys.platform,
        architecture=platform.machine(),
        glibc=tuple(int(part) for part in version.split(".")) if name == "glibc" else (),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        numpy=_installed("numpy"),
    )


def find_triton(
    folder: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> TritonInstall:
    """Find a tritonserver.

    Args:
        folder: where to look and nowhere else: a folder with `bin/tritonserver`, or one into which
            nvidia-pytriton was installed (`pip install --target`). None: the usual places.
        environment: read instead of the process' own.
        machine: judged instead of this one.

    Raises:
        NotSupported: there is none, or the one that is there cannot run here; says what to install.
    """
    environment = os.environ if environment is None else environment
    machine = this_machine() if machine is None else machine
    named = folder or _path(environment.get(FOLDER_VARIABLE, ""))
    if named is not None:
        return _in_folder(named, machine)
    server = _package_server()
    on_path = shutil.which("tritonserver", path=environment.get("PATH"))
    if server is not None and (on_path is None or not _unfit(machine)):
        return _of_package(server, machine)
    if on_path is None:
        raise NotSupported("there is no tritonserver on this machine", hint=_HINT)
    return TritonInstall(Path(on_path))


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _package_server() -> Path | None:
    """The folder `pytriton/tritonserver` of the installed package. A top-level spec imports nothing."""
    spec = importlib.util.find_spec("pytriton")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        server = Path(location, "tritonserver")
        if (server / "bin/tritonserver").is_file():
            return server
    return None


def _in_folder(folder: Path, machine: Machine) -> TritonInstall:
    for inside in ("pytriton/tritonserver", "tritonserver", "."):
        server = (folder / inside).resolve()
        if not (server / "bin/tritonserver").is_file():
            continue
        if (server / "python_backend_stubs").is_dir():
            return _of_package(server, machine)
        backends = server / "backends"
        return TritonInstall(
            server / "bin/tritonserver",
            libraries=tuple(path for path in (server / "lib",) if path.is_dir()),
            backends=backends if backends.is_dir() else None,
        )
    raise NotSupported(
        f"there is no tritonserver in {folder}",
        hint="name the folder that holds bin/tritonserver, or one made by "
        "pip install --no-deps --target FOLDER nvidia-pytriton==0.7.0",
    )


def _unfit(machine: Machine) -> str:
    """Why the package's server cannot run on a machine, or ""."""
    if machine.system != "linux" or machine.architecture != "x86_64":
        return f"it is built for x86_64 Linux, and this is {machine.architecture} {machine.system}"
    if machine.glibc < _OLDEST_GLIBC:
        found = ".".join(map(str, machine.glibc)) or "none"
        return f"it needs glibc 2.35 or newer, and here is {found}"
    if machine.python not in _PYTHONS:
        return f"its Python backend fits Python 3.11 and 3.12, and this is {machine.python}"
    if machine.numpy and int(machine.numpy.partition(".")[0]) >= 2:  # noqa: PLR2004
        # With NumPy 2 its backend answers OK with zero bytes in every tensor.
        return f"its Python backend needs numpy < 2, and numpy {machine.numpy} is installed"
    return ""


def _of_package(server: Path, machine: Machine) -> TritonInstall:
    if reason := _unfit(machine):
        raise NotSupported(f"the tritonserver in {server} cannot run here: {reason}", hint=_HINT)
    stub = server / "python_backend_stubs" / machine.python / "triton_python_backend_stub"
    libraries = server.parent.parent / "nvidia_pytriton.libs"
    for needed in (stub, libraries, server / "backends/python/libtriton_python.so"):
        if not needed.exists():
            raise NotSupported(
                f"the tritonserver in {server} is not complete: {needed} is missing",
                hint="install nvidia-pytriton==0.7.0 again",
            )
    python = _stub_python(machine.python)
    return TritonInstall(
        binary=server / "bin/tritonserver",
        libraries=(libraries, python.library),
        backends=server / "backends",
        stub=stub,
        python=python,
    )


def _stub_python(version: str) -> StubPython:
    """The libpython that fits this interpreter, and where this interpreter's packages are.

    Raises:
        NotSupported: there is no libpython of that version.
    """
    name = f"libpython{version}.so.1.0"
    own = base_interpreter().parent
    for library, home in _library_folders(own):
        if (library / name).is_file():
            return StubPython(version, home, library, _package_folders())
    raise NotSupported(
        f"Triton's Python backend needs {name}, and it is not on this machine",
        hint=f"sudo apt-get install libpython{version}, or use a Python built with --enable-shared",
    )


def _library_folders(own: Path) -> list[tuple[Path, Path]]:
    """Where a libpython may be, each with the `bin` of the Python that it belongs to."""
    variables = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu")
    folders = [Path(text) for text in variables if text]
    folders += [Path(sys.base_prefix, "lib"), Path(sys.base_prefix, "lib", multiarch)]
    system = Path("/usr/lib", multiarch)
    return [(folder, own) for folder in folders] + [(system, Path("/usr/bin"))]


def _package_folders() -> tuple[Path, ...]:
    """This interpreter's package folders, and wherever else numpy and onnxruntime come from."""
    folders = [Path(text) for text in sys.path if Path(text).name in ("site-packages", "dist-packages")]
    if site.ENABLE_USER_SITE and site.USER_SITE:
        folders.append(Path(site.USER_SITE))
    for module in ("numpy", "onnxruntime"):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent.parent)
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))
