"""The certificates that are in force: read and checked whole, and read again when their files change.

What cannot be used (no PEM, a key of another certificate, one that ran out) is refused with its key and
its file, and what was in force stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from gateway.bridge import check_backend_tls, check_tls
from gateway.config import BackendTlsConfig, GatewayConfig, TlsConfig
from router.errors import InvalidInput, StagegateError
from router.model import BackendTls

LOG = logging.getLogger("stagegate")

LOOK_SECONDS = 2.0
"""How often the files are looked at. A change is taken when it has stood for one more look: certificate
and key are two files, and nobody can replace both at once."""

FRONT = "listen"
"""Name of the gateway's own certificate in metrics; others are named after their backend."""

_Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class FrontTls:
    """What clients are shown, all in PEM. `client_ca` is empty where they need no certificate."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes = b""


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that a configuration names, read and found good.

    Attributes:
        backends: of those that are spoken to in TLS.
        expiry: unix seconds until which our own certificates are valid, by `listen` or `backend NAME`.
    """

    front: FrontTls | None
    backends: Mapping[str, BackendTls]
    expiry: Mapping[str, int]


class Users(Protocol):
    """Who works with certificates; `gateway.bridge.DataPlane` is one."""

    def set_tls(self, cert: bytes, key: bytes, client_ca: bytes) -> None:
        """Show another certificate to clients."""
        ...

    def set_backend_tls(self, name: str, ca: bytes, cert: bytes, key: bytes, server_name: str) -> None:
        """Speak TLS with a backend."""
        ...

    def clear_backend_tls(self, name: str) -> None:
        """Speak plaintext with a backend."""
        ...


def read_material(config: GatewayConfig) -> Material:
    """Read and check all certificates that a configuration names.

    Raises:
        InvalidInput: a file cannot be read or used; names the key and the file.
    """
    expiry: dict[str, int] = {}
    front = _read_front(config.tls) if config.tls is not None else None
    if front is not None and config.tls is not None:
        with _named("tls", config.tls):
            expiry[FRONT] = check_tls(front.cert, front.key, front.client_ca)
    backends: dict[str, BackendTls] = {}
    for index, backend in enumerate(config.backends):
        if backend.tls is None:
            continue
        tls = _read_backend(f"backends[{index}].tls", backend.tls)
        with _named(f"backends[{index}].tls", backend.tls):
            until = check_backend_tls(tls.ca, tls.cert, tls.key, tls.server_name)
        backends[backend.name] = tls
        if until:
            expiry[f"backend {backend.name}"] = until
    return Material(front, backends, expiry)


class _named:  # noqa: N801 - a context manager that reads like a function
    """Turn a ValueError about certificates into one that names where they came from."""

    def __init__(self, key: str, section: TlsConfig | BackendTlsConfig) -> None:
        self._key = key
        self._files = ", ".join(str(path) for path in _paths(section))

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if isinstance(problem, ValueError):
            raise InvalidInput(f"{self._key}: {problem} (in {self._files})") from None


def _read_front(section: TlsConfig) -> FrontTls:
    return FrontTls(
        cert=_read("tls.cert", section.cert),
        key=_read("tls.key", section.key),
        client_ca=_read("tls.client_ca", section.client_ca),
    )


def _read_backend(key: str, section: BackendTlsConfig) -> BackendTls:
    return BackendTls(
        ca=_read(f"{key}.ca", section.ca),
        cert=_read(f"{key}.cert", section.cert),
        key=_read(f"{key}.key", section.key),
        server_name=section.server_name,
    )


def _read(key: str, path: Path | None) -> bytes:
    """The content of a file, b"" where none is named."""
    if path is None:
        return b""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise InvalidInput(f"{key}: {path} cannot be read: {problem.strerror}") from None
    if not content.strip():
        raise InvalidInput(f"{key}: {path} is empty")
    return content


def _paths(section: TlsConfig | BackendTlsConfig) -> Iterator[Path]:
    ca = section.client_ca if isinstance(section, TlsConfig) else section.ca
    yield from (path for path in (section.cert, section.key, ca) if path is not None)


class Certificates:
    """Holds what is in force and watches its files.

    Args:
        config: the configuration that names the files.
        material: what it named at the start; the data plane has `front` already.
        users: who is told.
    """

    def __init__(self, config: GatewayConfig, material: Material, users: Users) -> None:
        self._config = config
        self._front = config.tls
        self._users = users
        self._material = replace(material, backends={})
        self._seen = _signature(config)
        self.refused = 0
        self.take(config, material)

    @property
    def expiry(self) -> Mapping[str, int]:
        """Unix seconds until which our own certificates are valid, by what they are for."""
        return self._material.expiry

    @property
    def material(self) -> Material:
        """All that is in force."""
        return self._material

    def backend(self, name: str) -> BackendTls | None:
        """How a backend is to be spoken to; None for plaintext."""
        return self._material.backends.get(name)

    def read(self, config: GatewayConfig) -> Material:
        """What a configuration names, as far as it can be taken without a restart. Raises InvalidInput."""
        # A listener cannot begin to speak TLS, or cease to: nobody could tell what its clients speak.
        if config.tls is None or self._front is None:
            config = config.model_copy(update={"tls": self._front})
        return read_material(config)

    def take(self, config: GatewayConfig, material: Material) -> None:
        """Put what was read in force, and watch the files that this configuration names."""
        before, self._material, self._config = self._material, material, config
        if config.tls is not None and self._front is not None:
            self._front = config.tls
        front = material.front
        if front is not None and front != before.front:
            self._users.set_tls(front.cert, front.key, front.client_ca)
        for name in before.backends.keys() - material.backends.keys():
            self._users.clear_backend_tls(name)
        for name, tls in material.backends.items():
            if before.backends.get(name) != tls:
                self._users.set_backend_tls(name, tls.ca, tls.cert, tls.key, tls.server_name)

    async def watch(self, look: float = LOOK_SECONDS) -> None:
        """Take files that changed, for as long as this runs; looks every `look` seconds."""
        unsettled: _Signature | None = None
        while True:
            await asyncio.sleep(look)
            now = await asyncio.to_thread(_signature, self._watched())
            if now == self._seen:
                unsettled = None
            elif now == unsettled:
                self._seen = now
                await self._renew()
            else:
                unsettled = now

    def _watched(self) -> GatewayConfig:
        return self._config.model_copy(update={"tls": self._front})

    async def _renew(self) -> None:
        config = self._watched()
        try:
            material = await asyncio.to_thread(read_material, config)
        except StagegateError as problem:
            self.refused += 1
            LOG.warning("new certificates refused, the old ones stay: %s", problem)
            return
        if config == self._watched() and material != self._material:
            self.take(self._config, material)
            LOG.info("new certificates taken")


def _signature(config: GatewayConfig) -> _Signature:
    """What changes when one of the files does; cheap to get."""
    sections = [config.tls, *(backend.tls for backend in config.backends)]
    found = []
    for section in sections:
        for path in _paths(section) if section is not None else ():
            try:
                stat = path.stat()
            except OSError:
                found.append((str(path), 0, 0, 0))
            else:
                found.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
