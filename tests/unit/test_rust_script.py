"""scripts/rust, which tells release builds what is hot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUSTC = shutil.which("rustc") or ""
pytestmark = pytest.mark.skipif(not shutil.which("cargo"), reason="there is no cargo")


def flags(home: Path, *options: str, **set_by_user: str) -> str:
    """What a command gets as flags of rustc."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("RUSTFLAGS")}
    return subprocess.run(
        [str(ROOT / "scripts/rust"), "sh", "-c", 'printf %s "${CARGO_ENCODED_RUSTFLAGS-}"', *options],
        cwd=ROOT,
        env={**environment, "CARGO_HOME": str(home), **set_by_user},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_release_builds_of_a_compiler_that_has_a_profile_get_it(tmp_path: Path) -> None:
    """Others get no flags."""
    version = subprocess.run([RUSTC, "--version"], capture_output=True, text=True, check=True).stdout.split()[
        1
    ]
    profile = ROOT / f"gateway/dataplane/profile/rustc-{version}.profdata"

    assert flags(tmp_path) == ""
    assert (f"-Cprofile-use={profile}" in flags(tmp_path, "--release")) == profile.exists()


@pytest.mark.parametrize("file", ["config.toml", "config"])
def test_flags_of_cargos_configuration_hold(tmp_path: Path, file: str) -> None:
    """Cargo leaves them aside where it is given others: a linker that somebody needs would not be used."""
    (tmp_path / file).write_text('[build]\nrustflags = ["-Clink-arg=-s"]\n')

    assert flags(tmp_path, "--release") == ""


@pytest.mark.parametrize(
    "name", ["RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS"]
)
def test_flags_of_the_environment_hold(tmp_path: Path, name: str) -> None:
    """By whichever of cargo's names they are set."""
    assert flags(tmp_path, "--release", **{name: "-Clink-arg=-s"}) == ""
