"""The configuration as typed, frozen values. Field descriptions say unit and meaning.

The text of each scalar is typed here and nowhere else. Checks that need two keys stand in
`gateway.config.checks`, so that one mistake does not hide another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    InstanceOf,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)

from gateway.config.artifacts import ArtifactsConfig
from gateway.config.fields import Duration, FilePath, Section, Size, Text, Whole, Word, in_folder, scalar
from gateway.config.registries import RegistryConfig
from gateway.config.units import Address, parse_listen_address, parse_remote_address
from router.model import Backend, BackendId, Control

METHOD_GROUPS: Mapping[str, tuple[str, ...]] = {
    "repository": ("RepositoryModelLoad", "RepositoryModelUnload"),
    "shared_memory": tuple(
        f"{kind}SharedMemory{verb}"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
    "trace": ("TraceSetting",),
    "log": ("LogSettings",),
}
"""Methods of the inference protocol that change the backend, by the group that opens them."""

BUILT_IN = "(built in)"
"""Source of the configuration that `stagegate up` uses when it is given none."""

_METHODS = frozenset(method for group in METHOD_GROUPS.values() for method in group)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_HOUR, _DAY = 3_600.0, 86_400.0


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a name of 1 to 63 letters, digits, '.', '_' or '-'")
    return text


def _admin_address(text: str) -> Address:
    address = parse_listen_address(text)
    if not address.loopback:
        raise ValueError(
            f"{address} can be reached from other machines, and the admin API has no authentication "
            "(auth.mode is none); use 127.0.0.1 or [::1]"
        )
    return address


def _address_or_off(text: str) -> Address | None:
    return None if text == "off" else parse_listen_address(text)


def _allowed(word: str) -> str:
    if word not in METHOD_GROUPS and word not in _METHODS:
        raise ValueError(
            f"{word!r} is neither a group ({', '.join(METHOD_GROUPS)}) nor one of their methods "
            f"({', '.join(sorted(_METHODS))})"
        )
    return word


NamePart = Annotated[str, Text(_name)]
ListenAddress = Annotated[Address, Text(parse_listen_address)]
RemoteAddress = Annotated[Address, Text(parse_remote_address)]


class ListenConfig(Section):
    """Where this process listens; Triton's own ports are the defaults. Port 0 takes any free one."""

    inference: ListenAddress = Field(
        default=Address("0.0.0.0", 8001),  # noqa: S104 - Triton's own default; a warning tells of it
        description="the inference protocol, gRPC",
    )
    http: Annotated[Address | None, Text(_address_or_off)] = Field(
        default=Address("0.0.0.0", 8000),  # noqa: S104 - Triton's own default; a warning tells of it
        description="the inference protocol, REST; off for none",
    )
    metrics: ListenAddress = Field(
        default=Address("0.0.0.0", 8002),  # noqa: S104 - what scrapes and probes comes from elsewhere
        description="/metrics, /livez and /readyz",
    )
    admin: Annotated[Address, Text(_admin_address)] = Field(
        default=Address("127.0.0.1", 8003), description="the admin API that the CLI speaks; loopback only"
    )


class StateConfig(Section):
    """Where routes are kept: SQLite in `path`, or memory (gone with the process)."""

    kind: Literal["sqlite", "memory"]
    path: Path | None = None

    def __str__(self) -> str:
        return "memory://" if self.path is None else f"sqlite:///{self.path}"


def _state(value: object, info: ValidationInfo) -> StateConfig:
    text = scalar(value)
    scheme = urlsplit(text).scheme
    if scheme in ("redis", "rediss"):
        raise ValueError(f"{scheme} is not served by this version; use sqlite:///PATH or memory://")
    if text == "memory://":
        return StateConfig(kind="memory")
    path = text.removeprefix("sqlite:///")
    if path == text or not path:
        raise ValueError(
            f"{text!r} is not memory:// or sqlite:///PATH (relative to this file; four slashes: absolute)"
        )
    return StateConfig(kind="sqlite", path=in_folder(path, info))


class TlsConfig(Section):
    """TLS towards clients."""

    cert: FilePath = Field(
        description="certificate chain of the gateway in PEM; with it, TLS and nothing else"
    )
    key: FilePath = Field(description="its private key in PEM, not encrypted")
    client_ca: FilePath | None = Field(
        default=None, description="certificates in PEM that those of clients must lead to; with it, mTLS"
    )


class BackendTlsConfig(Section):
    """TLS towards one Triton."""

    ca: FilePath = Field(description="certificates in PEM that the Triton's must lead to; with it, TLS")
    cert: FilePath | None = Field(default=None, description="certificate chain that the Triton is shown")
    key: FilePath | None = Field(default=None, description="its private key in PEM, not encrypted")
    server_name: Annotated[str, Text(str)] = Field(
        default="",
        description="what the Triton's certificate must be for; by default the host of its address",
    )


class BackendConfig(Section):
    """One Triton, known by address."""

    name: NamePart = Field(description="its name in metrics, tables and messages")
    grpc: RemoteAddress = Field(description="host:port of its gRPC endpoint")
    http: RemoteAddress | None = Field(default=None, description="host:port of its HTTP endpoint")
    metrics: RemoteAddress | None = Field(default=None, description="host:port of its metrics endpoint")
    control: Annotated[Literal["explicit", "none"], Word(("explicit", "none"))] = Field(
        default="none", description="explicit: Stagegate loads and unloads; none: somebody else does"
    )
    repository: FilePath | None = Field(
        default=None, description="the folder that Triton was started on; for control: explicit"
    )
    runs: tuple[NamePart, ...] = Field(
        default=(),
        description="Triton's own backends that it has, such as python and onnxruntime; they decide "
        "how models are served",
    )
    memory: Annotated[int, Size(1 << 20, 1 << 50)] | None = Field(
        default=None, description="bytes for models; checked, but not yet a bound in this version"
    )
    tls: BackendTlsConfig | None = Field(default=None, description="TLS towards it; without it plaintext")

    def to_backend(self) -> Backend:
        """As the rest of Stagegate knows it."""
        return Backend(
            name=BackendId(self.name),
            grpc=str(self.grpc),
            http=str(self.http or ""),
            metrics=str(self.metrics or ""),
            control=Control(self.control),
            repository=self.repository,
            memory=self.memory,
            backends=frozenset(self.runs) or None,
        )


class ProtocolConfig(Section):
    """Which methods that change the backend clients may call."""

    allow: tuple[Annotated[str, Text(_allowed)], ...] = Field(
        default=(), description="groups (repository, shared_memory, trace, log) or exact method names"
    )

    @property
    def methods(self) -> tuple[str, ...]:
        """The allowed methods, groups unfolded, each once."""
        words = (METHOD_GROUPS.get(word, (word,)) for word in self.allow)
        return tuple(dict.fromkeys(method for group in words for method in group))


class AuthConfig(Section):
    """Who may call."""

    mode: Annotated[Literal["none"], Word(("none",), later=("api-key", "mtls", "jwt"))] = "none"


class LogConfig(Section):
    """The process's own log, on stderr."""

    format: Annotated[Literal["text", "json"], Word(("text", "json"))] = Field(
        default="text", description="text for people, json for machines"
    )
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Word(("debug", "info", "warning", "error"))
    ] = Field(default="info", description="least level shown")


class LimitsConfig(Section):
    """Bounds on what clients may ask for. Sizes in bytes, durations in seconds."""

    max_message: Annotated[int, Size(_KIB, 2 * _GIB - _MIB)] = Field(
        default=64 * _MIB, description="largest message; Triton itself takes 2GiB"
    )
    max_streams: Annotated[int, Whole(1, 65_535)] = Field(
        default=256, description="concurrent streams of a client connection"
    )
    max_header_list: Annotated[int, Size(4 * _KIB, _MIB)] = Field(
        default=16 * _KIB, description="largest header list"
    )
    max_frame: Annotated[int, Size(16 * _KIB, 8 * _MIB)] = Field(
        default=64 * _KIB, description="largest HTTP/2 frame"
    )
    max_connections: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=20_000, description="client connections, all together"
    )
    upstream_connections: Annotated[int, Whole(1, 256)] = Field(
        default=4, description="connections of each data plane thread to each backend"
    )
    queue_per_model: Annotated[int, Whole(0, 1_000_000)] = Field(
        default=256,
        description="requests of a model that may wait for a load, and of a version that may wait their turn",
    )
    default_deadline: Annotated[float, Duration(0.001, _DAY)] = Field(
        default=30.0, description="of unary calls that bring none and whose route has none"
    )
    handshake_timeout: Annotated[float, Duration(0.1, _HOUR)] = Field(
        default=10.0, description="for the preface of a connection and the headers of a request"
    )
    idle_timeout: Annotated[float, Duration(1, _DAY)] = Field(
        default=300.0, description="until a client connection with nothing open is closed"
    )
    inflate_ratio: Annotated[int, Whole(1, 10_000)] = Field(
        default=100, description="how many times its size a compressed message may become"
    )
    replay: Annotated[int, Size(0, 64 * _MIB)] = Field(
        default=_MIB, description="largest message that is kept to be sent again; larger ones are sent once"
    )
    answer_timeout: Annotated[float, Duration(1, _HOUR)] = Field(
        default=30.0, description="how long a client may leave an answer untaken"
    )
    resets_per_second: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=200, description="streams that a client connection may reset within a second"
    )
    connections_per_address: Annotated[int | None, Whole(1, 1_000_000, off=True)] = Field(
        default=None, description="client connections from one address, or off; of IPv6 the /64 counts"
    )
    max_connection_age: Annotated[float | None, Duration(1, 30 * _DAY, never=True)] = Field(
        default=None,
        description="after which a client is told to connect anew, give or take a tenth; or never",
    )
    cancels_per_second: Annotated[int, Whole(0, 1_000_000)] = Field(
        default=2_000,
        description="unwanted answers that one backend is told to stop; those beyond are read and dropped",
    )
    max_buffered: Annotated[int, Size(4 * _MIB, 1 << 40)] = Field(
        default=_GIB, description="bytes of requests that are held at one time, all clients together"
    )
    shadow_queue: Annotated[int, Whole(0, 100_000)] = Field(
        default=256, description="copies for shadows that wait in each data plane thread"
    )
    shadow_concurrency: Annotated[int, Whole(1, 10_000)] = Field(
        default=16, description="copies for shadows that each data plane thread has under way"
    )
    shadow_bytes: Annotated[int, Size(0, 4 * _GIB)] = Field(
        default=16 * _MIB, description="of requests and answers that the copies of each thread hold"
    )
    shadow_deadline: Annotated[float, Duration(0.001, _HOUR)] = Field(
        default=10.0, description="for a copy, its waiting included"
    )

    @field_validator("max_buffered")
    @classmethod
    def _holds_one(cls, value: int, info: ValidationInfo) -> int:
        largest = info.data.get("max_message", 0)
        if value < largest:
            raise ValueError(f"is less than max_message, {largest} bytes: the largest could never be taken")
        return value


class ResidencyConfig(Section):
    """What stays loaded. Durations in seconds."""

    idle_unload: Annotated[float | None, Duration(1, 365 * _DAY, never=True)] = Field(
        default=1_800.0, description="until a version that nothing names or asks for is unloaded, or never"
    )
    rollback_window: Annotated[float, Duration(0, 365 * _DAY)] = Field(
        default=600.0,
        description="for which a version stays loaded that a stage, alias or arm went away from",
    )
    loss_window: Annotated[float | None, Duration(0, 365 * _DAY, never=True)] = Field(
        default=3_600.0,
        description="for which models, stages and aliases go on that a registry lost most of at once",
    )
    load_timeout: Annotated[float, Duration(1, _DAY)] = Field(
        default=120.0, description="for one load; then it counts as failed"
    )


class TritonConfig(Section):
    """The Tritons that `stagegate up` starts itself; not read by `stagegate gateway`."""

    instances: Annotated[int, Whole(0, 64)] = Field(default=1, description="how many")
    path: FilePath | None = Field(
        default=None,
        description="folder that holds tritonserver; by default that of the nvidia-pytriton package",
    )
    folder: FilePath = Field(
        default=".stagegate", validate_default=True, description="where their model folders and logs are kept"
    )


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class GatewayConfig(Section):
    """A whole configuration, checked."""

    listen: ListenConfig = Field(default_factory=ListenConfig)
    threads: Annotated[int, Whole(1, 256)] = Field(
        default_factory=available_cores, description="of the data plane; by default one for each core"
    )
    state: Annotated[StateConfig, PlainValidator(_state)] = Field(
        default="sqlite:///.stagegate/stagegate.db",
        validate_default=True,
        description="where routes are kept: sqlite:///PATH or memory://",
    )
    registries: Mapping[NamePart, InstanceOf[RegistryConfig]] = Field(default_factory=dict)
    default_registry: Annotated[str, Text(str)] = Field(
        default="", description="where models without a route resolve; the only registry where there is one"
    )
    artifacts: ArtifactsConfig = Field(default_factory=ArtifactsConfig)
    backends: tuple[BackendConfig, ...] = ()
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)
    auth: AuthConfig = Field(default_factory=AuthConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    tls: TlsConfig | None = Field(default=None, description="TLS towards clients; without it plaintext")
    residency: ResidencyConfig = Field(default_factory=ResidencyConfig)
    triton: TritonConfig = Field(default_factory=TritonConfig)
    _source: str = PrivateAttr(BUILT_IN)

    @property
    def not_served(self) -> tuple[str, ...]:
        """Keys that are right and have no effect in this version, each as a sentence."""
        found = [
            f"backends[{index}].memory: memory budgets are not served by this version; the key has no effect"
            for index, backend in enumerate(self.backends)
            if backend.memory is not None
        ]
        return tuple(found)

    @property
    def source(self) -> str:
        """The file it was read from, as it was named, or `(built in)`."""
        return self._source
