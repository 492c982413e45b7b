"""The `git` program: what it is started with, and how long and how much it may talk.

No prompts, no hooks, no credentials or rules from anybody's git configuration, no transport but https, ssh
and file, no redirects, no proxies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from router.errors import NotSupported, RegistryUnavailable

MOST_TEXT = 64 << 20
"""Bytes that one call may print."""

_CUT = 500
_PIECE = 1 << 16
_RULES = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=false", "core.askPass="),
    *("credential.helper=", "http.proxy=", "http.followRedirects=false", "http.cookieFile="),
    *("protocol.allow=never", "protocol.https.allow=always", "protocol.ssh.allow=always"),
    *("protocol.file.allow=always", "protocol.ext.allow=never", "protocol.version=2"),
    *("gc.auto=0", "maintenance.auto=false", "fetch.recurseSubmodules=false", "submodule.recurse=false"),
    *("user.name=stagegate", "user.email=stagegate@localhost", "tag.gpgSign=false", "fetch.parallel=1"),
)
_SSH = "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout=10"


class Program:
    """Runs `git`.

    Args:
        registry: for messages.
        timeout: seconds that one call may take.
    """

    def __init__(self, registry: str, timeout: float) -> None:
        self._registry = registry
        self._timeout = timeout

    def run(self, arguments: Sequence[str], secrets: Mapping[str, str], stdin: bytes = b"") -> bytes:
        """What a call prints.

        Args:
            secrets: environment of this one call.

        Raises:
            RegistryUnavailable: it failed, printed more than `MOST_TEXT`, or took too long.
            NotSupported: git is not installed.
        """
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            process = self.start(arguments, secrets, stdin=given, stderr=said)
            printed = _bounded(process, self._timeout)
            if process.returncode == 0 and printed is not None:
                return printed
            said.seek(0)
            text = " ".join(said.read(4 * _CUT).decode(errors="replace").split())
        verb = next(word for word in arguments if not word.startswith("-"))
        if printed is None:
            raise self.away(f"`git {verb}` printed or took too much; it was ended")
        raise self.away(f"`git {verb}` failed: {text[:_CUT] or process.returncode}")

    def start(
        self,
        arguments: Sequence[str],
        secrets: Mapping[str, str],
        *,
        stdin: IO[bytes] | int = subprocess.PIPE,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start it, with a pipe for what it prints, in a process group of its own. Raises NotSupported."""
        rules = [word for rule in _RULES for word in ("-c", rule)]
        try:
            return subprocess.Popen(  # noqa: S603 - addresses and commits are checked, paths are literal
                ["git", *rules, *arguments],  # noqa: S607 - whichever git the operator's PATH has
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**_environment(), **secrets},
                cwd="/",
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NotSupported(
                f"registry {self._registry!r}: the program `git` is not installed",
                hint="install git, such as by `apt-get install git`",
            ) from error

    def away(self, reason: str) -> RegistryUnavailable:
        """The error that says why the repository cannot be read."""
        return RegistryUnavailable(f"registry {self._registry!r}: {reason}")


def _environment() -> dict[str, str]:
    agent = {"SSH_AUTH_SOCK": os.environ["SSH_AUTH_SOCK"]} if "SSH_AUTH_SOCK" in os.environ else {}
    return {
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
        **agent,
    }


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
