"""Git repositories that the real DVC made; made once for all tests of a run, then copied."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

VERSIONS = ("1", "2", "3", "9", "10")
"""Each is one commit; `models/digits.onnx` holds `digits N`, `models/tree` a Triton folder with it."""

_DATE = 1_760_000_000
_PROJECT = """artifacts:
  digits: {path: models/digits.onnx, type: model, desc: Handwritten digits, meta: {team: vision}}
"""

# One process for everything: to start DVC takes longer than all that it does here.
_MAKE = """
import pathlib, subprocess, sys
from dvc.repo import Repo
from dvc.cli import main

def call(*words):
    assert main(list(words)) == 0, words

def git(*words):
    subprocess.run(["git", *words], check=True, stdout=subprocess.DEVNULL)

git("init", "--quiet", "--initial-branch=main", ".")
call("init", "--quiet")
call("config", "core.analytics", "false")
call("remote", "add", "--quiet", "-d", "storage", "../remote")
pathlib.Path("dvc.yaml").write_text(sys.argv[1])
pathlib.Path("models/tree/1").mkdir(parents=True)
with Repo(".") as repo:
    for version in sys.argv[2:]:
        pathlib.Path("models/digits.onnx").write_text(f"digits {version}")
        pathlib.Path("models/tree/config.pbtxt").write_text(f'name: "tree{version}"')
        pathlib.Path("models/tree/1/model.py").write_text(f"VERSION = {version}")
        repo.add(["models/digits.onnx", "models/tree"])
        git("add", "--all")
        git("commit", "--quiet", "-m", f"version {version}")
        git("branch", f"at-{version}")
        repo.push()
"""


def environment(**more: str) -> dict[str, str]:
    """What git and DVC are started with: nothing of who runs the tests, no analytics, no network."""
    who = {f"GIT_{role}_{what}": "tester" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONWARNINGS": "ignore",
        **who,
        **more,
    }


@dataclass
class Repository:
    """A repository, its remote beside it, and the hand that tags it."""

    folder: Path
    _ticks: list[int] = field(default_factory=lambda: [_DATE])

    @property
    def path(self) -> Path:
        """The checkout."""
        return self.folder / "repository"

    @property
    def remote(self) -> Path:
        """Where DVC keeps the files."""
        return self.folder / "remote"

    def git(self, *words: str, **more: str) -> str:
        """Run git in the checkout; what it prints."""
        done = subprocess.run(
            ["git", *words],  # noqa: S607
            cwd=self.path,
            env=environment(HOME=str(self.folder), **more),
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def dvc(self, *words: str, **more: str) -> str:
        """Run the real DVC in the checkout; what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=self.path,
            env=environment(HOME=str(self.folder), **more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, version: str) -> str:
        """The id of the commit that holds a version of `VERSIONS`, or of any revision."""
        revision = f"at-{version}" if version in VERSIONS else version
        return self.git("rev-parse", "--verify", f"{revision}^{{commit}}")

    def tag(self, name: str, at: str) -> None:
        """Make a tag with a date, a second later than the one before."""
        self._ticks[0] += 1
        self.git("tag", "-a", "-m", "x", name, self.commit(at), GIT_COMMITTER_DATE=f"{self._ticks[0]} +0000")

    def untag(self, *patterns: str) -> None:
        """Remove tags."""
        for name in self.git("tag", "--list", *patterns).splitlines():
            self.git("tag", "--delete", name)

    def tags(self) -> list[str]:
        """All there are."""
        return self.git("tag", "--list").splitlines()

    def write(self, files: Mapping[str, str], message: str = "x") -> str:
        """Commit files as they are given, past DVC; the id of the commit."""
        for path, text in files.items():
            (self.path / path).parent.mkdir(parents=True, exist_ok=True)
            (self.path / path).write_text(text)
        self.git("add", "--all", "--force", *files)
        self.git("commit", "--quiet", "-m", message)
        return self.commit("HEAD")

    def copy(self, folder: Path) -> Repository:
        """The same elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Repository(folder)


@pytest.fixture(scope="session")
def dvc_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A repository with all `VERSIONS` and no tags. Tests copy it."""
    folder = tmp_path_factory.mktemp("dvc")
    made = Repository(folder)
    made.path.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, _PROJECT, *VERSIONS],
        cwd=made.path,
        env=environment(HOME=str(folder)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def dvc_repository(dvc_template: Repository, tmp_path: Path) -> Repository:
    """A repository of the test's own."""
    return dvc_template.copy(tmp_path / "dvc")
