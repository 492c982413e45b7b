"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """\
[ca]
default_ca = it
[it]
new_certs_dir = {folder}/issued
database = {folder}/index
serial = {folder}/serial
default_md = sha256
policy = any
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
subjectAltName = {names}
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
"""
_OPENSSL = shutil.which("openssl") or "openssl"
_YEARS = ("20200101000000Z", "20491231000000Z")
_LONG_AGO = ("20200101000000Z", "20200102000000Z")
LOCALHOST = ("DNS:localhost", "IP:127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    cert: Path
    key: Path

    @property
    def contents(self) -> tuple[bytes, bytes]:
        """Both as bytes."""
        return self.cert.read_bytes(), self.key.read_bytes()

    def over(self, other: Pair) -> None:
        """Put this one in the place of another, each file by one rename."""
        for mine, theirs in ((self.cert, other.cert), (self.key, other.key)):
            beside = theirs.with_suffix(".new")
            shutil.copy(mine, beside)
            beside.replace(theirs)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        (self._folder / "issued").mkdir(parents=True)
        (self._folder / "index").touch()
        (self._folder / "serial").write_text("01\n")
        self._own = self._issue(name, ("DNS:unused",), _YEARS, "root", own=True)

    @property
    def cert(self) -> Path:
        """What certificates of this one lead to."""
        return self._own.cert

    def issue(self, name: str, *names: str, expired: bool = False) -> Pair:
        """A certificate for these names, such as `DNS:localhost` or `URI:spiffe://a/b`."""
        return self._issue(name, names or LOCALHOST, _LONG_AGO if expired else _YEARS, "leaf", own=False)

    def _issue(
        self, name: str, names: tuple[str, ...], time: tuple[str, str], kind: str, *, own: bool
    ) -> Pair:
        folder = self._folder
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        config, asked = folder / f"{name}.cnf", folder / f"{name}.csr"
        config.write_text(_CONFIG.format(folder=folder, names=",".join(names)))
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", pair.key)
        _openssl("req", "-new", "-key", pair.key, "-subj", f"/CN={name}", "-out", asked)
        signer = ["-selfsign", "-keyfile", pair.key] if own else self._signer()
        _openssl(
            *("ca", "-batch", "-notext", "-config", config, "-extensions", kind, "-in", asked),
            *("-out", pair.cert, "-startdate", time[0], "-enddate", time[1], *signer),
        )
        return pair

    def _signer(self) -> list[str | Path]:
        return ["-cert", self._own.cert, "-keyfile", self._own.key]


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run([_OPENSSL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def h2_context(ca: Path, client: Pair | None = None, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    """What a client brings that trusts `ca`; without `alpn` it says nothing of what it speaks."""
    context = ssl.create_default_context(cafile=ca)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return context
