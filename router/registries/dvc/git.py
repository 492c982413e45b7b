"""A bare mirror of somebody's git repository, by the `git` program, held to what a registry needs.

No prompts, no hooks, no credentials or rules from anybody's git configuration, no transport but https, ssh
and file, no redirects, no proxies; each call ends in time, and what it prints is bounded. Nothing is ever
checked out: files are read by their path at a commit.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from router.errors import InvalidInput, NotSupported, RegistryUnavailable
from router.registries.dvc.tags import GitTag

MOST_REFS = 50_000
"""Tags and branches that a repository may have."""

MOST_TEXT = 64 << 20
"""Bytes that one call may print."""

MOST_FILE = 1 << 20
"""Bytes of one file that is read from a repository; lists of files lie in remotes."""

_CUT = 500
_PIECE = 1 << 16
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*")
_RULES = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=false", "core.askPass="),
    *("credential.helper=", "http.proxy=", "http.followRedirects=false", "http.cookieFile="),
    *("protocol.allow=never", "protocol.https.allow=always", "protocol.ssh.allow=always"),
    *("protocol.file.allow=always", "protocol.ext.allow=never", "protocol.version=2"),
    *("gc.auto=0", "maintenance.auto=false", "fetch.recurseSubmodules=false", "submodule.recurse=false"),
    *("user.name=stagegate", "user.email=stagegate@localhost", "tag.gpgSign=false", "fetch.parallel=1"),
)
_SSH = "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout=10"


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
        self._registry = registry
        self._url = url
        self._kept = folder
        self._folder: Path | None = None
        self._token = token
        self._timeout = timeout
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
            raise self._away(f"has more than {MOST_REFS} branches and tags")
        return found

    def fetch(self) -> None:
        """Bring the mirror to what the repository has now. Raises RegistryUnavailable."""
        self._git(
            *("fetch", "--quiet", "--prune", "--no-tags", "--force", "--depth=1", "--no-write-fetch-head"),
            *("--", self._url, "+refs/tags/*:refs/tags/*", "+refs/heads/*:refs/heads/*"),
            remote=True,
        )

    def tags(self) -> list[GitTag]:
        """The tags in the mirror."""
        form = "%(objecttype)%09%(objectname)%09%(*objectname)%09%(taggerdate:unix)%09%(refname:strip=2)"
        text = self._git("for-each-ref", f"--format={form}", "refs/tags").decode(errors="replace")
        found = []
        for line in text.splitlines():
            kind, own, named, date, name = line.split("\t", 4)
            dated = kind == "tag" and date.isdecimal()
            found.append(GitTag(name, named or own, float(date) if dated else None))
        return found

    def has(self, commit: str) -> bool:
        """Whether the mirror has a commit, after asking the repository for it where it had not."""
        if not _COMMIT.fullmatch(commit):
            return False
        if self._kind(commit) == "":
            try:
                self._git(
                    *("fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head"),
                    *("--", self._url, f"+{commit}:refs/stagegate/{commit}"),
                    remote=True,
                )
            except RegistryUnavailable:
                self.refs()  # the repository is there, so it is the commit that is not
                return False
        return self._kind(commit) == "commit"

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
            ValueError: it is too large or no text.
        """
        listed = self._git("ls-tree", "-l", "-z", "--full-tree", commit, "--", f":(literal){path}")
        head, _, name = listed.rstrip(b"\0").partition(b"\t")
        if name.decode(errors="surrogateescape") != path:
            return None
        mode, kind, blob, size = head.split()
        if kind != b"blob" or mode == b"120000":
            raise ValueError(f"{path} is no regular file")
        if int(size) > MOST_FILE:
            raise ValueError(f"{path} is larger than {MOST_FILE} bytes")
        try:
            return self._git("cat-file", "blob", blob.decode()).decode()
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
        """Remove the mirror, unless a place was given for it."""
        with self._lock:
            if self._folder is not None and self._kept is None:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _kind(self, commit: str) -> str:
        """`commit` or another kind of object; "" where the mirror has none of that id."""
        data = self._git("cat-file", "--batch-check=%(objecttype)", stdin=f"{commit}\n".encode())
        kind = data.decode().strip()
        return "" if kind.endswith("missing") else kind

    def _bare(self) -> Path:
        if self._folder is None:
            folder = self._kept or Path(tempfile.mkdtemp(prefix="stagegate-git-"))
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._away(f"mirror {folder} cannot be made: {error.strerror}") from error
            self._folder = folder
            if not (folder / "HEAD").is_file():
                self._run(["init", "--quiet", "--bare", "--template=", "--", str(folder)], {})
        return self._folder

    def _git(self, *arguments: str, remote: bool = False, stdin: bytes = b"") -> bytes:
        with self._lock:
            place = f"--git-dir={self._bare()}"
            return self._run([place, *arguments], self._secrets() if remote else {}, stdin)

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

    def _run(self, arguments: Sequence[str], secrets: Mapping[str, str], stdin: bytes = b"") -> bytes:
        rules = [word for rule in _RULES for word in ("-c", rule)]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", "/"),  # where ssh looks for its keys and known hosts
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_SSH_COMMAND": _SSH,
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            **({"SSH_AUTH_SOCK": os.environ["SSH_AUTH_SOCK"]} if "SSH_AUTH_SOCK" in os.environ else {}),
            **secrets,
        }
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            try:
                process = subprocess.Popen(  # noqa: S603 - addresses and commits are checked, paths are literal
                    ["git", *rules, *arguments],  # noqa: S607 - whichever git the operator's PATH has
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise NotSupported(
                    f"registry {self._registry!r}: the program `git` is not installed",
                    hint="install git, such as by `apt-get install git`",
                ) from error
            printed = _bounded(process, self._timeout)
            if process.returncode == 0 and printed is not None:
                return printed
            said.seek(0)
            text = " ".join(said.read(4 * _CUT).decode(errors="replace").split())
        if printed is None:
            raise self._away(f"`git {_verb(arguments)}` printed or took too much; it was ended")
        raise self._away(f"`git {_verb(arguments)}` failed: {text[:_CUT] or process.returncode}")

    def _away(self, reason: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"registry {self._registry!r}: {reason}")


def _verb(arguments: Sequence[str]) -> str:
    return next(word for word in arguments if not word.startswith("-"))


def _bounded(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """What a program prints until it ends; None where it was ended for its time or its size."""
    output = process.stdout
    if output is None:  # it was given a pipe
        return None
    late = threading.Timer(timeout, _end, (process,))
    late.start()
    printed = bytearray()
    started = time.monotonic()
    try:
        while piece := output.read(_PIECE):
            printed += piece
            if len(printed) > MOST_TEXT:
                _end(process)
                process.wait()
                return None
        process.wait()
    finally:
        late.cancel()
        output.close()
    return None if process.returncode < 0 and time.monotonic() - started >= timeout else bytes(printed)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program with all that it started, such as ssh."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
