"""`make profile`: find out what is hot in the data plane, for release builds by this version of rustc.

A data plane that counts what it does is built and given the loads of `training`. The counts go into
`gateway/dataplane/profile/rustc-VERSION.profdata`, which `scripts/rust` hands to release builds by that same
compiler: names of functions differ from one version to the next, so to others they say nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from loadtest.bench import tools
from loadtest.bench.errors import BenchError, Missing
from loadtest.bench.profile.training import train

PROFILES = tools.WORKSPACE / "profile"
_TARGET = tools.TOOLS / "target-profile"


def main() -> int:
    """The exit code is 1 where nothing could be recorded; an earlier profile is then left as it was."""
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="stagegate-profile-") as folder:
            return _record(Path(folder), console)
    except BenchError as error:
        console.print(f"profile: {error}", style="red", markup=False, highlight=False)
        return 1


def _record(folder: Path, console: Console) -> int:
    version = tools.first_line("rustc", "--version").split(" ")[1]
    merge = _profdata()
    load = tools.build("constant-backend", "check-client")
    counts = folder / "counts"
    with console.status("building a data plane that counts what it does"):
        serve = _build(counts)
    # What build scripts and macros did while they were counted.
    shutil.rmtree(counts, ignore_errors=True)
    train(load, serve, folder, lambda line: console.print(line, highlight=False))
    target = PROFILES / f"rustc-{version}.profdata"
    PROFILES.mkdir(exist_ok=True)
    merged = folder / target.name
    # Sparse: without the functions that nothing ran, which says the same.
    _run([merge, "merge", "--sparse", "-o", str(merged), str(counts)], {})
    shutil.copyfile(merged, target)
    size = target.stat().st_size >> 10
    console.print(f"recorded {target.relative_to(tools.CHECKOUT)}, {size} KiB", highlight=False)
    console.print("now: make bench-instructions, and --record there", highlight=False)
    return 0


def _build(counts: Path) -> Path:
    """The data plane alone, which writes its counts into a folder when it ends."""
    flags = {"CARGO_ENCODED_RUSTFLAGS": f"-Cprofile-generate={counts}", "CARGO_TARGET_DIR": str(_TARGET)}
    _run(tools.build_command(tools.CHECKOUT, "serve"), flags)
    return _TARGET / "release" / "serve"


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)  # noqa: S603 - our own
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed; its message is above")


def _profdata() -> str:
    """The `llvm-profdata` of rustc's own LLVM: others may not read what it writes.

    Raises:
        Missing: it is not installed.
    """
    about = tools.output("rustc", "--version", "--verbose")
    major = about.partition("LLVM version: ")[2].partition(".")[0]
    sysroot = Path(tools.first_line("rustc", "--print", "sysroot"))
    candidates = [
        *sysroot.glob("lib/rustlib/*/bin/llvm-profdata"),
        Path(f"/usr/lib/llvm-{major}/bin/llvm-profdata"),
    ]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise Missing("llvm-profdata", f"rustup component add llvm-tools, or apt-get install llvm-{major}")


if __name__ == "__main__":
    sys.exit(main())
