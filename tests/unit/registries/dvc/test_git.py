"""The `git` program, held short."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import InvalidInput, NotSupported, RegistryUnavailable
from router.registries.dvc import git, program
from router.registries.dvc.git import Mirror, check_url
from router.registries.dvc.objects import Broken, Objects
from tests.servers.dvc import Repository


@pytest.mark.parametrize(
    "url",
    [
        *("https://host/a/b.git", "https://host:8443/a", "ssh://git@host:22/a", "ssh://host/a"),
        *("git@host.example:team/models.git", "file:///srv/models.git"),
    ],
)
def test_addresses(url: str) -> None:
    """https, ssh in both its forms, and file."""
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c id", "ext::sh%20-c%20id", "http://host/a", "git://host/a", "ftp://host/a", "fd::17"),
        *("-upload-pack=x", "--upload-pack=touch x", "ssh://-oProxyCommand=id/a", "ssh://-l@host/a"),
        *("-oProxyCommand=id@host:a", "https://user@host/a", "https://user:secret@host/a", "https:///a"),
        *(
            "file://host/a",
            "file:a",
            "a",
            "/a",
            "../a",
            "",
            "https://host/a b",
            "https://host/\na",
            "https://[::1/a",
        ),
        *("a@-host:b", "persistent-https://host/a", "host:a", "ssh://u:p@host/a", "a@host::b"),
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    """No other transport, no option in disguise, no secret in a text that is shown."""
    with pytest.raises(InvalidInput) as refused:
        check_url(url)
    assert "secret" not in str(refused.value).replace("has a secret in it", "")


@pytest.fixture
def mirror(dvc_repository: Repository, tmp_path: Path) -> Iterator[Mirror]:
    """A mirror of a repository."""
    made = Mirror("local", str(dvc_repository.path), tmp_path / "mirror", timeout=20)
    yield made
    made.close()


def test_refs_tags_and_files(dvc_repository: Repository, mirror: Mirror) -> None:
    """What is asked of a repository."""
    dvc_repository.tag("digits@v1.0.0", "1")
    dvc_repository.git("tag", "light", "at-2")
    one = dvc_repository.commit("1")
    refs = mirror.refs()
    mirror.fetch()

    assert refs["refs/tags/digits@v1.0.0^{}"] == refs["refs/heads/at-1"] == one
    assert {tag.name: (tag.commit, tag.created is None) for tag in mirror.tags()} == {
        "digits@v1.0.0": (one, False),
        "light": (dvc_repository.commit("2"), True),
    }
    assert "models/digits.onnx.dvc" in mirror.paths(one)
    assert "outs:" in (mirror.read(one, "models/digits.onnx.dvc") or "")
    assert (
        mirror.read(one, "models/none.dvc")
        is mirror.read(one, "models/*.dvc")
        is mirror.read(one, ":/")
        is None
    )
    assert mirror.date(one) is not None


def test_a_tag_that_moves_or_goes(dvc_repository: Repository, mirror: Mirror) -> None:
    """The mirror follows."""
    dvc_repository.tag("a", "1")
    mirror.fetch()
    dvc_repository.untag("a")
    dvc_repository.tag("a", "2")
    dvc_repository.tag("b", "2")
    mirror.fetch()
    moved = {tag.name: tag.commit for tag in mirror.tags()}
    dvc_repository.untag("a")
    mirror.fetch()

    assert moved == dict.fromkeys(("a", "b"), dvc_repository.commit("2"))
    assert [tag.name for tag in mirror.tags()] == ["b"]


def test_a_commit_that_nothing_names_is_asked_for(dvc_repository: Repository, mirror: Mirror) -> None:
    """And one that there is not, is not there."""
    hidden = dvc_repository.write({"dvc.yaml": "artifacts: {}"})
    dvc_repository.git("reset", "--quiet", "--hard", "at-1")
    mirror.fetch()

    assert mirror.has(hidden)
    assert mirror.read(hidden, "dvc.yaml") == "artifacts: {}"
    assert not mirror.has("0" * 40)
    assert not mirror.has("main")
    assert not mirror.has("--all")
    assert not mirror.has(dvc_repository.git("rev-parse", "HEAD^{tree}"))


def test_files_that_are_no_text_of_ours(dvc_repository: Repository, mirror: Mirror) -> None:
    """Folders, large files and other bytes; a link is the text of its target, and is not followed."""
    (dvc_repository.path / "link").symlink_to("/etc/passwd")
    (dvc_repository.path / "bytes").write_bytes(b"\xff\xfe")
    dvc_repository.write({"large": "x" * (git.MOST_FILE + 1)})
    dvc_repository.git("add", "link", "bytes")
    dvc_repository.git("commit", "--quiet", "-m", "x")
    commit = dvc_repository.commit("HEAD")
    mirror.fetch()

    assert mirror.read(commit, "link") == "/etc/passwd"
    for path in ("large", "bytes", "models"):
        with pytest.raises(ValueError, match=r"larger|text|no file"):
            mirror.read(commit, path)
    for path in ("a\nb", "a\0b", "../x", "/models", ".git/config"):
        assert mirror.read(commit, path) is None


def test_a_tag_of_a_tag(dvc_repository: Repository, mirror: Mirror) -> None:
    """It leads to the commit in the end; one that leads to none is nothing."""
    dvc_repository.tag("a", "1")
    dvc_repository.git("tag", "-a", "-m", "x", "b", "a")
    dvc_repository.git("tag", "-a", "-m", "x", "c", "b")
    dvc_repository.git("tag", "-a", "-m", "x", "tree", "HEAD^{tree}")
    dvc_repository.git("tag", "light-tree", "HEAD^{tree}")
    mirror.fetch()

    assert {tag.name: tag.commit for tag in mirror.tags()} == dict.fromkeys("abc", dvc_repository.commit("1"))


def test_a_program_that_ends_is_started_again(dvc_repository: Repository, mirror: Mirror) -> None:
    """The question that it left open fails, the next one is answered; it ends with the mirror."""
    commit = dvc_repository.commit("1")
    mirror.fetch()
    assert mirror.has(commit)
    started = mirror._started()._process
    assert started is not None
    started.kill()
    started.wait()
    assert mirror.has(commit)
    again = mirror._started()._process
    assert again is not None
    mirror.close()

    assert again.poll() is not None
    with pytest.raises(RegistryUnavailable, match="was closed"):
        mirror.refs()


def test_a_program_that_does_not_answer(tmp_path: Path) -> None:
    """It is ended in time, and so is one that never stops."""
    for script, said in (("sleep 60", "in time"), ("yes | tr -d '\\n'", "without end"), ("exit", "ended")):

        def start(script: str = script) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                ["sh", "-c", script],  # noqa: S607
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

        objects = Objects(start, 0.2)
        with pytest.raises(Broken, match=said):
            objects.find("HEAD")
        assert objects._process is None


def test_nothing_of_the_repository_is_run(dvc_repository: Repository, tmp_path: Path) -> None:
    """Neither hooks that lie in the mirror nor what the repository's configuration names."""
    modules = '[submodule "a"]\n path = a\n url = ext::x\n'
    dvc_repository.write({".gitattributes": "* filter=x diff=x", ".gitmodules": modules})
    dvc_repository.git("checkout", "--quiet", "--detach")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexec cat\n")
    trap.chmod(0o755)
    hooks = tmp_path / "mine" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        (hooks / name).symlink_to(trap)
    dvc_repository.git("config", "core.fsmonitor", str(trap))
    dvc_repository.git("config", "uploadpack.packObjectsHook", str(trap))
    mirror = Mirror("local", str(dvc_repository.path), tmp_path / "mine", timeout=20)
    mirror.refs()
    mirror.fetch()
    mirror.push_tag("a@v1.0.0", dvc_repository.commit("1"), "x", 1_800_000_000)

    assert dvc_repository.commit("a@v1.0.0") == dvc_repository.commit("1")
    assert not (tmp_path / "sprung").exists()
    dvc_repository.git("status")
    assert (tmp_path / "sprung").exists()


def test_a_tag_is_pushed_once(dvc_repository: Repository, mirror: Mirror) -> None:
    """One of that name stays what it is."""
    one, two = dvc_repository.commit("1"), dvc_repository.commit("2")
    mirror.fetch()
    mirror.push_tag("m#prod#1", one, "x", 1_800_000_000)
    with pytest.raises(RegistryUnavailable, match="push"):
        mirror.push_tag("m#prod#1", two, "x", 1_800_000_001)

    assert dvc_repository.commit("m#prod#1") == one
    assert [tag.created for tag in mirror.tags()] == [1_800_000_000]


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    """It says so, short and with the registry's name."""
    mirror = Mirror("local", str(tmp_path / "nowhere"), None)
    with pytest.raises(RegistryUnavailable, match=r"'local'.*ls-remote") as away:
        mirror.refs()
    mirror.close()

    assert len(str(away.value)) < 700


def test_git_that_hangs_or_floods_is_ended(
    dvc_repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it started."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    fake.write_text('#!/bin/sh\ncase "$*" in *ls-remote*) sleep 60 & wait;; esac\n')
    fake.chmod(0o755)
    with pytest.raises(RegistryUnavailable, match="it was ended"):
        Mirror("local", str(dvc_repository.path), tmp_path / "m", timeout=0.2).refs()
    fake.write_text('#!/bin/sh\ncase "$*" in *ls-remote*) exec yes;; esac\n')
    monkeypatch.setattr(program, "MOST_TEXT", 1 << 16)
    with pytest.raises(RegistryUnavailable, match="it was ended"):
        Mirror("local", str(dvc_repository.path), tmp_path / "m", timeout=20).refs()


def test_git_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="`git` is not installed"):
        Mirror("local", "/x", tmp_path / "m").refs()


def test_a_token_is_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no argument, is in no message, and goes along with https only."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    fake.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/said\nenv >> {tmp_path}/env\nexit 1\n')
    fake.chmod(0o755)
    for url in ("https://host/a", "ssh://host/a"):
        (tmp_path / "env").unlink(missing_ok=True)
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / "HEAD").touch()
        mirror = Mirror("local", url, tmp_path / "m", token=lambda: "hunter2")
        with pytest.raises(RegistryUnavailable) as failed:
            mirror.refs()
        sent = "Authorization: Basic" in (tmp_path / "env").read_text()
        assert sent == url.startswith("https")
        assert "hunter2" not in str(failed.value) + (tmp_path / "said").read_text()
