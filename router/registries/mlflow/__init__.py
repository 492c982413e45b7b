"""The MLflow registry: stages, aliases, tags, runs, and files behind the artifact proxy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from router.errors import InvalidInput
from router.model import parse_model_name
from router.registries.mlflow.names import Names
from router.registries.mlflow.registry import MlflowRegistry, Settings
from router.registries.mlflow.rest import Secret, Server
from router.registries.options import Option, OptionKind, RegistryType
from router.remote.net import Refused, origin_of

__all__ = ["TYPE", "MlflowRegistry"]


def _open(name: str, options: Mapping[str, object]) -> MlflowRegistry:
    server = Server(
        registry=name,
        uri=str(options["uri"]),
        token=cast("Secret | None", options.get("token")),
        username=str(options.get("username") or ""),
        password=cast("Secret | None", options.get("password")),
        ca=cast("Path | None", options.get("ca")),
    )
    if server.token is not None and server.username:
        raise InvalidInput(f"registry {name!r}: both token and username are given", hint="keep one of them")
    given = cast(Mapping[str, str], options.get("names") or {})
    for logical in given:
        parse_model_name(logical)
    settings = Settings(
        poll=cast(float, options.get("poll") or Settings.poll),
        timeout=cast(float, options.get("timeout") or Settings.timeout),
        names=Names(given, cast("tuple[str, ...]", options.get("models") or ())),
        webhook_secret=cast("Secret | None", options.get("webhook_secret")),
        experiment=str(options.get("experiment") or Settings.experiment),
    )
    return MlflowRegistry(server, settings)


def _check_uri(value: object) -> None:
    try:
        origin_of(str(value))
    except Refused as problem:
        raise ValueError(f"{problem}; write such as http://mlflow:5000") from None


TYPE = RegistryType(
    about="an MLflow server",
    options=(
        Option("uri", OptionKind.TEXT, "its address, such as http://mlflow:5000", True, None, _check_uri),
        Option("poll", OptionKind.DURATION, "time between two readings of everything", default=5.0),
        Option("timeout", OptionKind.DURATION, "time that one reading may take", default=30.0),
        Option("token", OptionKind.SECRET, "a bearer token"),
        Option("username", OptionKind.TEXT, "a user name, for basic authentication"),
        Option("password", OptionKind.SECRET, "the password of username"),
        Option("ca", OptionKind.PATH, "certificates in PEM that its own leads to; the system's by default"),
        Option("webhook_secret", OptionKind.SECRET, "the secret of the webhook in MLflow"),
        Option(
            "models", OptionKind.TEXTS, "patterns of the registered models that are taken; all by default"
        ),
        Option("names", OptionKind.NAMES, "logical names for registered models that clients cannot name"),
        Option("experiment", OptionKind.TEXT, "where runs of versions registered from here are made"),
    ),
    open=_open,
)
"""`type: mlflow`."""
