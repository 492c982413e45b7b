"""A bare mirror of somebody's git repository: its tags, branches, and files by their path at a commit.

Nothing is ever checked out.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from router.errors import InvalidInput, RegistryUnavailable
from router.registries.dvc.objects import Broken, Object, Objects
from router.registries.dvc.program import Program
from router.registries.dvc.tags import GitTag

MOST_REFS = 50_000
"""Tags and branches that a repository may have."""

MOST_FILE = 1 << 20
"""Bytes of one file that is read from a repository; lists of files lie in remotes."""

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*")


def check_url(url: str) -> str:
    """The URL of a repository as `git` is to be given it.

    Raises:
        InvalidInput: it has another scheme than https, ssh or file, or a password in it.
    """
    if not url.isprintable() or " " in url or url.startswith("-"):
        raise InvalidInput(f"{url[:120]!r} is not the address of a git repository")
    if _SCP.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
        host, password = parts.hostname or "", parts.password
    except ValueError as error:
        raise InvalidInput(f"{url[:120]!r} is not the address of a git repository") from error
    if parts.scheme not in ("https", "ssh", "file") or "://" not in url:
        raise InvalidInput(
            f"{url[:120]!r} is no https, ssh or file address of a git repository",
            hint="a folder of this machine is named by `path`",
        )
    if password is not None or (parts.scheme == "https" and parts.username is not None):
        raise InvalidInput(
            f"the address of the repository at {host!r} has a secret in it", hint="use `token`"
        )
    if parts.scheme == "file" and (host not in ("", "localhost") or not parts.path.startswith("/")):
        raise InvalidInput(f"{url[:120]!r} names no absolute path", hint="file:///path")
    if parts.scheme != "file" and (
        not host or host.startswith("-") or (parts.username or "").startswith("-")
    ):
        raise InvalidInput(f"{url[:120]!r} names no host")
    return url


class Mirror:
    """Tags, branches and files of a repository. Blocking; one thread at a time.

    Args:
        registry: for messages.
        url: as `check_url` returns it, or an absolute path.
        folder: where the mirror is kept; None for a temporary folder, which `close` removes.
        token: for https; None without.
        timeout: seconds that one call may take.
    """

    def __init__(
        self,
        registry: str,
        url: str,
        folder: Path | None,
        *,
        token: Callable[[], str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._url = url
        self._kept = folder
        self._folder: Path | None = None
        self._token = token
        self._timeout = timeout
        self._program = Program(registry, timeout)
        self._objects: Objects | None = None
        self._closed = False
        self._lock = threading.RLock()

    def refs(self) -> dict[str, str]:
        """Every branch and tag of the repository now, by its full name; one call. Raises RegistryUnavailable.

        A tag with a date stands there twice, the second time with `^{}` and the commit that it names.
        """
        text = self._git("ls-remote", "--quiet", "--heads", "--tags", "--", self._url, remote=True).decode(
            errors="replace"
        )
        found = {}
        for line in text.splitlines():
            commit, _, name = line.partition("\t")
            if _COMMIT.fullmatch(commit) and name:
                found[name] = commit
        if len(found) > MOST_REFS:
            raise self._program.away(f"has more than {MOST_REFS} branches and tags")
        return found

    def fetch(self) -> None:
        """Bring the mirror to what the repository has now. Raises RegistryUnavailable."""
        self._git(
            *("fetch", "--quiet", "--prune", "--no-tags", "--force", "--depth=1", "--no-write-fetch-head"),
            *("--", self._url, "+refs/tags/*:refs/tags/*", "+refs/heads/*:refs/heads/*"),
            remote=True,
        )

    def tags(self) -> list[GitTag]:
        """The tags in the mirror that lead to commits."""
        shown = "%(objecttype) %(objectname) %(*objecttype) %(*objectname) %(taggerdate:unix)"
        text = self._git("for-each-ref", f"--format={shown}%09%(refname:strip=2)", "refs/tags").decode(
            errors="replace"
        )
        found = []
        for line in text.splitlines():
            words, _, name = line.partition("\t")
            kind, own, named_kind, named, date = words.split(" ")
            if "tag" in (named_kind, kind) and named_kind != "commit":
                # A tag of a tag: git shows one step only.
                last = self._find(f"{own}^{{commit}}")
                named_kind, named = (last.kind, last.id) if last is not None else ("", "")
            if "commit" in (kind, named_kind):
                dated = kind == "tag" and date.isdecimal()
                found.append(GitTag(name, named or own, float(date) if dated else None))
        return found

    def has(self, commit: str) -> bool:
        """Whether the mirror has a commit, after asking the repository for it where it had not."""
        if not _COMMIT.fullmatch(commit):
            return False
        if self._find(commit) is None:
            try:
                self._git(
                    *("fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head"),
                    *("--", self._url, f"+{commit}:refs/stagegate/{commit}"),
                    remote=True,
                )
            except RegistryUnavailable:
                self.refs()  # the repository is there, so it is the commit that is not
                return False
        found = self._find(commit)
        return found is not None and found.kind == "commit"

    def date(self, commit: str) -> float | None:
        """When a commit was made, unix seconds."""
        text = self._git("show", "--no-patch", "--format=%ct", commit, "--").decode().strip()
        return float(text) if text.isdecimal() else None

    def paths(self, commit: str) -> tuple[str, ...]:
        """All files of a commit."""
        data = self._git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
        return tuple(part.decode(errors="surrogateescape") for part in data.split(b"\0") if part)

    def read(self, commit: str, path: str) -> str | None:
        """The text of a file at a commit; None where it has none.

        Raises:
            ValueError: it is no file, too large, or no text.
            RegistryUnavailable: git does not answer.
        """
        if path.split("/", maxsplit=1)[0] in (
            ".",
            "..",
        ):  # to git that is beside the current folder, and an error
            return None
        try:
            with self._lock:
                answer = self._started().read(f"{commit}:{path}", MOST_FILE)
        except Broken as error:
            raise self._program.away(str(error)) from error
        if answer is None:
            return None
        found, data = answer
        if found.kind != "blob":
            raise ValueError(f"{path} is no file")
        if found.size > MOST_FILE:
            raise ValueError(f"{path} is larger than {MOST_FILE} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text") from error

    def push_tag(self, name: str, commit: str, message: str, date: float) -> None:
        """Make a dated tag and bring it to the repository, where none of that name may be.

        Raises:
            RegistryUnavailable: it was not taken, or it is not known whether it was.
        """
        own = f"refs/stagegate/made/{os.urandom(8).hex()}"
        tag = (
            f"object {commit}\ntype commit\ntag {name}\n"
            f"tagger stagegate <stagegate@localhost> {int(date)} +0000\n\n{message}\n"
        )
        made = self._git("mktag", stdin=tag.encode()).decode().strip()
        try:
            self._git("update-ref", own, made)
            self._git(
                "push", "--quiet", "--no-verify", "--", self._url, f"{own}:refs/tags/{name}", remote=True
            )
            self._git("update-ref", f"refs/tags/{name}", made)
        finally:
            self._git("update-ref", "-d", own)

    def close(self) -> None:
        """Remove the mirror, unless a place was given for it; nothing can be asked any more."""
        with self._lock:
            self._closed = True
            if self._objects is not None:
                self._objects.close()
                self._objects = None
            if self._folder is not None and self._kept is None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _find(self, name: str) -> Object | None:
        try:
            with self._lock:
                return self._started().find(name)
        except Broken as error:
            raise self._program.away(str(error)) from error

    def _started(self) -> Objects:
        if self._objects is None:
            place = f"--git-dir={self._bare()}"
            arguments = [place, "cat-file", "--batch-command"]
            self._objects = Objects(lambda: self._program.start(arguments, {}), self._timeout)
        return self._objects

    def _bare(self) -> Path:
        if self._closed:
            raise self._program.away("was closed")
        if self._folder is None:
            folder = self._kept or Path(tempfile.mkdtemp(prefix="stagegate-git-"))
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._program.away(f"mirror {folder} cannot be made: {error.strerror}") from error
            self._folder = folder
            if not (folder / "HEAD").is_file():
                self._program.run(["init", "--quiet", "--bare", "--template=", "--", str(folder)], {})
        return self._folder

    def _git(self, *arguments: str, remote: bool = False, stdin: bytes = b"") -> bytes:
        with self._lock:
            place = f"--git-dir={self._bare()}"
            return self._program.run([place, *arguments], self._secrets() if remote else {}, stdin)

    def _secrets(self) -> Mapping[str, str]:
        """A token in git's configuration of this one call; arguments would be seen by other users."""
        if self._token is None or not self._url.startswith("https://"):
            return {}
        pair = base64.b64encode(f"stagegate:{self._token()}".encode()).decode()
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
        }
