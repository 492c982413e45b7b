"""What may be fetched, from where, and what of it may run: pure decisions, made before a byte moves.

A registry is untrusted: whoever can write to it names the URI. So a place is allowed only where it is the
registry's own or the operator listed it, and every refusal names the key of the configuration that would
allow it. Whether a host's *address* may be reached is judged where the connection is made
(`router.remote.net`); whether a local path leads out through links, where it is opened.
"""

from __future__ import annotations

import enum
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote, urlsplit

from router.errors import ArtifactRefused
from router.model import Version
from router.remote.addresses import BadHost, canonical_host

MIB = 1 << 20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_LONGEST_URI = 2048
_PORTS = {"http": 80, "https": 443}


class Code(enum.StrEnum):
    """What runs when a version is loaded."""

    PYTHON = "python"
    """Source for Triton's Python backend: it can be read before it is allowed."""
    PICKLE = "pickle"
    """Pickle, joblib, `.pt` and what is made of them: whoever loads it runs whatever is inside."""
    NATIVE = "native"
    """What a backend of Triton runs or opens for it: programs, graphs that read and write files."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a registry is, as far as its artifacts go.

    Attributes:
        type: as in the configuration, such as `folder`.
        folder: the folder of a folder registry.
        uri: where the operator said that the registry is, "" where there is no such thing. An S3 URI makes
            its bucket and prefix the registry's own; an http(s) URL its host.
    """

    type: str
    folder: Path | None = None
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Allow:
    """Places that registries may name although they are not their own.

    Attributes:
        buckets: `bucket`, or `bucket/prefix` for what is below a prefix.
        hosts: `host` or `host:port` for https, `http://host:port` for http. They may be on private addresses.
        files: folders of this machine.
    """

    buckets: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The disk cache of artifacts.

    Attributes:
        path: its folder; None for no cache.
        size: bytes that it may hold.
    """

    path: Path | None = None
    size: int = 20 * 1024 * MIB


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Access to buckets for registries that bring none of their own.

    Attributes:
        endpoint: URL of the server; "" for AWS.
        region: "" for what the environment says.
        access_key, secret_key: read anew for each fetch; None for what the environment, its files or, on
            AWS alone, the machine's role give.
    """

    endpoint: str = ""
    region: str = ""
    access_key: Callable[[], str] | None = field(default=None, repr=False)
    secret_key: Callable[[], str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SignatureSettings:
    """Signatures of artifacts, as `model-signing` makes them.

    Attributes:
        required: globs of models whose artifacts must be signed.
        public_key: a PEM file with the key that signs, or
        certificates: PEM files with the certificates that a signer's certificate must lead to.
    """

    required: tuple[str, ...] = ()
    public_key: Path | None = None
    certificates: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """The section `artifacts` of the configuration.

    Attributes:
        timeout: seconds for the whole of a fetch.
        stall: seconds in which `slowest` bytes a second must be reached, or the fetch is given up.
        slowest: bytes a second.
        pause: seconds before a store that failed is asked again; doubled with each further failure.
        reserve: bytes of a disk that are left free.
        code: globs of models that may bring code.
    """

    cache: CacheSettings = CacheSettings()
    timeout: float = 3600.0
    stall: float = 30.0
    slowest: int = 1_000_000
    pause: float = 0.2
    reserve: int = 256 * MIB
    s3: S3Settings = S3Settings()
    allow: Allow = Allow()
    signature: SignatureSettings = SignatureSettings()
    code: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A file or folder of this machine, and the folders one of which it must really be in."""

    path: Path
    roots: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class S3Place:
    """An object, or all below a prefix."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class HttpPlace:
    """One file of a web server."""

    url: str


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """Something that only the registry's own source understands."""

    uri: str


Place = LocalPlace | S3Place | HttpPlace | RegistryPlace


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's word on artifacts."""

    allow: Allow = Allow()
    code: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: ArtifactSettings) -> Policy:
        """The policy in a configuration."""
        return cls(settings.allow, settings.code, settings.signature.required)

    def place(self, version: Version, origin: Origin, *, own: bool = False) -> Place:
        """Where the artifact of a version is.

        Args:
            own: whether the registry gives access of its own to that URI.

        Raises:
            ArtifactRefused: it is nowhere that is allowed, or written as nobody honest writes it.
        """
        who, uri = f"{version.model} {version.version}", version.artifact
        if not uri or len(uri) > _LONGEST_URI or any(ord(char) < 0x20 or ord(char) == 0x7F for char in uri):  # noqa: PLR2004
            raise ArtifactRefused(f"{who}: its artifact {shown(uri)[:80]!r} is no URI")
        found = _SCHEME.match(uri)
        scheme = found[1].lower() if found else "file"
        match scheme:
            case "file":
                return self._local(who, uri, origin)
            case "s3":
                return self._s3(who, uri, origin)
            case "http" | "https":
                return self._http(who, uri, origin)
            case _ if own:
                return RegistryPlace(uri)
        raise ArtifactRefused(
            f"{who}: registry {version.registry!r} has no access to scheme {scheme!r} of {shown(uri)!r}",
            hint="file, s3 and https can be fetched from any registry",
        )

    def may_run_code(self, version: Version, kind: Code, origin: Origin) -> bool:
        """Whether a version may bring code: what is in a folder registry of this machine may bring source,
        and what Triton's backends run; pickle, and whatever others bring, only for models that the operator
        listed."""
        local = origin.type == "folder" and kind is not Code.PICKLE
        return local or any(fnmatchcase(version.model, glob) for glob in self.code)

    def check_code(self, version: Version, kind: Code, origin: Origin) -> None:
        """Raises ArtifactRefused where a version may not bring such code."""
        if not self.may_run_code(version, kind, origin):
            raise ArtifactRefused(
                f"{version.model} {version.version}: it brings {kind.value} code, which it may not",
                hint="add the model to artifacts.code if you trust whoever registers its versions",
            )

    def must_be_signed(self, version: Version) -> bool:
        """Whether a version without a good signature is refused."""
        return any(fnmatchcase(version.model, glob) for glob in self.signed)

    def hosts(self, origin: Origin) -> frozenset[str]:
        """Hosts that the operator wrote; they may be on private addresses."""
        own = _own_host(origin)
        listed = [*map(_host_entry, self.allow.hosts), *([own] if own is not None else [])]
        return frozenset(host for _, host, _ in listed)

    def host_allowed(self, scheme: str, host: str, port: int) -> bool:
        """Whether a web server is listed; also asked of each redirect."""
        return (scheme, host, port) in {_host_entry(entry) for entry in self.allow.hosts}

    def _local(self, who: str, uri: str, origin: Origin) -> LocalPlace:
        path = local_path(who, uri)
        roots = (*self.allow.files, *((origin.folder,) if origin.folder is not None else ()))
        if not any(path.is_relative_to(root) for root in roots):
            raise ArtifactRefused(
                f"{who}: artifact {shown(uri)!r} is a path of this machine that its registry may not name",
                hint="add its folder to artifacts.allow.files",
            )
        return LocalPlace(path, roots)

    def _s3(self, who: str, uri: str, origin: Origin) -> S3Place:
        place = parse_s3(who, uri)
        own = (f"{o.bucket}/{o.key}",) if (o := _own_bucket(origin)) is not None else ()
        if not any(_below(place, entry) for entry in (*self.allow.buckets, *own)):
            raise ArtifactRefused(
                f"{who}: artifact {shown(uri)!r} is in bucket {place.bucket!r}, which is not its registry's",
                hint=f"add {place.bucket!r}, or a prefix in it, to artifacts.allow.buckets",
            )
        return place

    def _http(self, who: str, uri: str, origin: Origin) -> HttpPlace:
        if not re.match(r"https?://", uri, re.IGNORECASE):
            raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} is no URL")
        try:
            scheme, host, port = _who_of(uri)
        except (BadHost, ValueError) as problem:
            raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} is refused: {problem}") from None
        own = (scheme, host, port) == _own_host(origin)
        if not own and not self.host_allowed(scheme, host, port):
            entry = (
                (f"http://{host}:{port}" if scheme == "http" else f"{host}:{port}")
                if port != _PORTS["https"]
                else host
            )
            raise ArtifactRefused(
                f"{who}: artifact {shown(uri)!r} is on host {host!r}, which is not allowed",
                hint=f"add {entry!r} to artifacts.allow.hosts",
            )
        return HttpPlace(uri)


def shown(uri: str) -> str:
    """A URI for people: not too long, and without what lets whoever reads it in: a user name and password, a
    query with a signature."""
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.lower() == "file":
        return uri[:200]
    place, *secret = re.split(r"[?#]", rest, maxsplit=1)
    authority, slash, path = place.partition("/")
    _, at, host = authority.rpartition("@")
    whom = f"***@{host}" if at else authority
    return f"{scheme}://{whom}{slash}{path}"[:200] + ("?***" if secret else "")


def local_path(who: str, uri: str) -> Path:
    """A plain path as it is, or that of a file URI.

    Raises:
        ArtifactRefused: it is relative, goes up by `..`, names another host, or has more than a path.
    """
    text = _path_of_file_uri(who, uri) if _SCHEME.match(uri) else uri
    if not text.startswith("/") or "\0" in text:
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} is no absolute path")
    if ".." in text.split("/"):
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} goes up by '..'")
    return Path(posixpath.normpath(text))


def _path_of_file_uri(who: str, uri: str) -> str:
    try:
        url = urlsplit(uri)
        text = unquote(url.path, errors="strict")
    except ValueError as problem:
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} is no URI: {problem}") from None
    if url.netloc not in ("", "localhost"):
        raise ArtifactRefused(
            f"{who}: artifact {shown(uri)!r} names another host", hint="write file:///path with three slashes"
        )
    if url.query or url.fragment:
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} has more than a path", hint="write ? as %3F")
    return text


def parse_s3(who: str, uri: str) -> S3Place:
    """Bucket and key of `s3://bucket/key`; the key is taken as it stands.

    Raises:
        ArtifactRefused: it has anything else in it.
    """
    rest = uri[len("s3://") :]
    bucket, _, key = rest.partition("/")
    if uri[: len("s3://")].lower() != "s3://" or not _BUCKET.fullmatch(bucket):
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} is no s3://bucket/key")
    parts = key.removesuffix("/").split("/")
    if key and any(part in ("", ".", "..") for part in parts):
        raise ArtifactRefused(f"{who}: artifact {shown(uri)!r} has an empty part, '.' or '..' in its key")
    return S3Place(bucket, key)


def _below(place: S3Place, entry: str) -> bool:
    bucket, _, prefix = entry.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    return place.bucket == bucket and (not prefix or f"{place.key.rstrip('/')}/".startswith(f"{prefix}/"))


def _own_bucket(origin: Origin) -> S3Place | None:
    if not origin.uri.lower().startswith("s3://"):
        return None
    return parse_s3("registry", origin.uri)


def _own_host(origin: Origin) -> tuple[str, str, int] | None:
    if not origin.uri.lower().startswith(("http://", "https://")):
        return None
    try:
        return _who_of(origin.uri)
    except ValueError:
        return None


def _who_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError."""
    if any(char <= " " or char > "~" or char == "\\" for char in url):
        raise ValueError("a URL has spaces, backslashes or characters that are not ASCII")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("a URL carries a user name or password")
    if ".." in unquote(parts.path).split("/"):
        raise ValueError("its path goes up by '..'")
    port = _PORTS[parts.scheme] if parts.port is None else parts.port
    return parts.scheme, canonical_host(parts.hostname or ""), port


def _host_entry(entry: str) -> tuple[str, str, int]:
    """An entry of `allow.hosts`. Raises ValueError."""
    scheme = "http" if entry.lower().startswith("http://") else "https"
    return _who_of(f"{scheme}://{entry.lower().removeprefix('https://').removeprefix('http://')}")


def check_host_entry(entry: str) -> None:
    """Raises ValueError, saying what is wrong, for what cannot be in `allow.hosts`."""
    scheme, _, rest = entry.rpartition("://")
    if scheme.lower() not in ("", "http", "https"):
        raise ValueError(f"{entry!r} is neither http nor https")
    if "/" in rest:
        raise ValueError(f"{entry!r} has a path; a host, or host:port, is enough")
    _host_entry(entry)


def check_bucket_entry(entry: str) -> None:
    """Raises ValueError, saying what is wrong, for what cannot be in `allow.buckets`."""
    try:
        parse_s3("", f"s3://{entry.removeprefix('s3://')}")
    except ArtifactRefused:
        raise ValueError(f"{entry!r} is neither a bucket nor bucket/prefix") from None
