"""The section `artifacts`: where the files of versions may come from, and what of them may run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, ValidationInfo

from gateway.config.fields import Duration, FilePath, Section, Size, Text
from gateway.config.secret import SecretReader, parse_secret
from router.artifacts.policy import (
    MIB,
    Allow,
    ArtifactSettings,
    CacheSettings,
    S3Settings,
    SignatureSettings,
    check_bucket_entry,
    check_host_entry,
)
from router.errors import ArtifactUnavailable

_DAY = 86_400.0
_MOST = 1 << 50


def _secret(value: object, info: ValidationInfo) -> SecretReader:
    context = info.context or {}
    secret = parse_secret(value, context["folder"])
    return SecretReader(secret, context["environ"], ArtifactUnavailable)


def _bucket(text: str) -> str:
    check_bucket_entry(text)
    return text


def _host(text: str) -> str:
    check_host_entry(text)
    return text


def _glob(text: str) -> str:
    if not text:
        raise ValueError("must not be empty; '*' is every model")
    return text


Globs = tuple[Annotated[str, Text(_glob)], ...]
SecretPlace = Annotated[SecretReader, PlainValidator(_secret)]


class ArtifactCacheConfig(Section):
    """The disk cache of artifacts."""

    path: FilePath | None = Field(default=None, description="folder of the disk cache; without it none")
    size: Annotated[int, Size(MIB, _MOST)] = Field(
        default=CacheSettings().size, description="bytes that it may hold"
    )


class ArtifactS3Config(Section):
    """Access to buckets for registries that bring none of their own."""

    endpoint: Annotated[str, Text(str)] = Field(
        default="",
        description="URL of the S3 server, for registries without access of their own; AWS without it",
    )
    region: Annotated[str, Text(str)] = Field(default="", description="by default what the environment says")
    access_key: SecretPlace | None = Field(
        default=None, description="{env: NAME} or {file: PATH}; by default what the environment gives"
    )
    secret_key: SecretPlace | None = Field(default=None, description="as access_key")


class ArtifactAllowConfig(Section):
    """Places that registries may name although they are not their own."""

    buckets: tuple[Annotated[str, Text(_bucket)], ...] = Field(
        default=(), description="buckets, or bucket/prefix, that are not the registry's own"
    )
    hosts: tuple[Annotated[str, Text(_host)], ...] = Field(
        default=(), description="host or host:port for https, http://host:port; also on private addresses"
    )
    files: tuple[FilePath, ...] = Field(
        default=(), description="folders of this machine that registries may name"
    )


class ArtifactSignatureConfig(Section):
    """Signatures of artifacts."""

    required: Globs = Field(default=(), description="globs of models whose artifacts must be signed")
    public_key: FilePath | None = Field(default=None, description="PEM file with the key that signs, or")
    certificates: tuple[FilePath, ...] = Field(
        default=(), description="PEM files with the certificates that a signer's must lead to"
    )


class ArtifactsConfig(Section):
    """How the files of versions are fetched."""

    cache: ArtifactCacheConfig = Field(default_factory=ArtifactCacheConfig)
    timeout: Annotated[float, Duration(1, 7 * _DAY)] = Field(
        default=ArtifactSettings().timeout, description="for the whole of one fetch"
    )
    stall: Annotated[float, Duration(1, _DAY)] = Field(
        default=ArtifactSettings().stall, description="after which a fetch slower than `slowest` is given up"
    )
    slowest: Annotated[int, Size(0, 1 << 40)] = Field(
        default=ArtifactSettings().slowest, description="bytes that must come each second"
    )
    reserve: Annotated[int, Size(0, _MOST)] = Field(
        default=ArtifactSettings().reserve, description="bytes of a disk that are left free"
    )
    s3: ArtifactS3Config = Field(default_factory=ArtifactS3Config)
    allow: ArtifactAllowConfig = Field(default_factory=ArtifactAllowConfig)
    signature: ArtifactSignatureConfig = Field(default_factory=ArtifactSignatureConfig)
    code: Globs = Field(
        default=(),
        description="globs of models that may bring code: pickle, TorchScript, Python from elsewhere",
    )

    def to_settings(self) -> ArtifactSettings:
        """As the rest of Stagegate knows it."""
        allow, s3, signature = self.allow, self.s3, self.signature
        return ArtifactSettings(
            cache=CacheSettings(self.cache.path, self.cache.size),
            timeout=self.timeout,
            stall=self.stall,
            slowest=self.slowest,
            reserve=self.reserve,
            s3=S3Settings(s3.endpoint, s3.region, s3.access_key, s3.secret_key),
            allow=Allow(allow.buckets, allow.hosts, allow.files),
            signature=SignatureSettings(signature.required, signature.public_key, signature.certificates),
            code=self.code,
        )
