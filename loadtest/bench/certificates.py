"""A certificate for `localhost` and the authority that vouches for it, for one measurement."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.errors import BenchError

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
_LEAF = (
    "-addext",
    "subjectAltName=DNS:localhost",
    "-addext",
    "basicConstraints=critical,CA:FALSE",
)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files.

    Attributes:
        authority: what clients trust.
        chain: the server's certificate.
        key: its private key.
        both: `chain` and `key` in one file, as HAProxy wants them.
    """

    authority: Path
    chain: Path
    key: Path
    both: Path


def certificates(folder: Path) -> Certificates:
    """Those of `folder`, made there by `openssl` at the first call.

    Raises:
        Missing: there is no `openssl`.
        BenchError: it refused.
    """
    found = Certificates(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "both.pem")))
    if not found.both.exists():
        ca_key = folder / "ca.key"
        _openssl("-subj", "/CN=bench", "-keyout", str(ca_key), "-out", str(found.authority))
        signed = ("-CA", str(found.authority), "-CAkey", str(ca_key), *_LEAF)
        _openssl("-subj", "/CN=localhost", *signed, "-keyout", str(found.key), "-out", str(found.chain))
        found.both.write_text(found.chain.read_text() + found.key.read_text())
    return found


def _openssl(*options: str) -> None:
    command = [tools.program("openssl"), "req", "-x509", *_KEY, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BenchError(f"openssl made no certificate: {done.stderr.strip()}")
