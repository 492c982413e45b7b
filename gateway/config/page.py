"""The page of all settings, made from the schema: `python -m gateway.config.page`."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config.fields import Duration, Size
from gateway.config.schema import (
    BackendConfig,
    BackendTlsConfig,
    GatewayConfig,
    TlsConfig,
)
from gateway.config.units import Address, format_duration, format_size
from router.registries.options import Option, OptionKind
from router.registries.types import built_in_types, registry_type

_HEAD = """\
# Configuration

One YAML file, `stagegate gateway --config FILE`. Every key is optional but `backends` (which `stagegate up`
does not need). `stagegate check-config FILE` lists every mistake with its line, and what has no
effect. Paths are relative to the file. A key is overridden from the environment as `STAGEGATE_` and its path
with `__` between the parts:
`STAGEGATE_LISTEN__INFERENCE=0.0.0.0:8001`, `STAGEGATE_BACKENDS__0__GRPC=10.0.0.7:8001`. Sizes are written as
`64MiB`, durations as `30s`, `5m`, `500ms`. A value that begins with `@` must be quoted.

`stagegate reload` or SIGHUP takes changed registries, backends, `default_registry`, `residency`,
`artifacts`, `limits` (but `upstream_connections` and those of shadows), the files of `tls` and `log.level`
at once; other keys wait for the next start, and the answer names them. A file with a mistake is refused
whole. Certificates are also taken when their files change; a pair that does not match or has run out is
refused, and the old one stays.

This page is made from the schema by `make generate`.

| key | default | what it is |
|---|---|---|
"""

_REGISTRIES = """
## Registries

Each section of `registries` has a `type`, which decides what else it may hold. Secrets are named, not
written: `{env: NAME}` or `{file: PATH}`. Packages that offer more types describe theirs themselves.
"""

_WORDS = {"limits.connections_per_address": "off", "limits.max_connection_age": "never"}


def configuration_page() -> str:
    """The page as Markdown."""
    rows = "".join(f"| `{key}` | {default} | {what} |\n" for key, default, what in _rows(GatewayConfig, ""))
    return _HEAD + rows + _REGISTRIES + "".join(_registry_tables())


def _registry_tables() -> Iterator[str]:
    """One table for each type of ours; those of other packages are theirs to describe."""
    for kind in built_in_types():
        declared = registry_type(kind)
        about = f"{declared.about[:1].upper()}{declared.about[1:]}".rstrip(".")
        yield f"\n### `type: {kind}`\n\n{about}.\n\n| key | default | what it is |\n|---|---|---|\n"
        for option in declared.options:
            about = option.about.replace("|", "\\|")
            yield f"| `{option.name}` | {_option_default(option)} | {about} |\n"


def _option_default(option: Option) -> str:
    if option.required:
        return "required"
    value = option.default
    if value is None or value in ("", ()) or isinstance(value, Mapping):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if option.kind is OptionKind.DURATION and isinstance(value, (int, float)):
        return f"`{format_duration(value)}`"
    if option.kind is OptionKind.SIZE and isinstance(value, int):
        return f"`{format_size(value)}`"
    return f"`{', '.join(value)}`" if isinstance(value, tuple) else f"`{value}`"


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = _section_of(field)
        if key == "registries":
            yield "registries.NAME.type", "required", "where models come from; its keys stand below"
        elif inner is None:
            yield key, _default(key, field), (field.description or "").replace("|", "\\|")
        elif name == "backends":
            yield from _rows(inner, f"{key}[].")
        else:
            yield from _rows(inner, f"{key}.")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, once or many times; None for a plain value."""
    for candidate in (BackendConfig, BackendTlsConfig, TlsConfig):
        if candidate in _parts(field.annotation):
            return candidate
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation.model_fields:
        return None if annotation.__name__ == "StateConfig" else annotation
    return None


def _parts(annotation: object) -> set[object]:
    """A type and everything inside its brackets."""
    origin = typing.get_origin(annotation)
    inside = typing.get_args(annotation) if origin in (tuple, Mapping, typing.Union, types.UnionType) else ()
    found = {annotation}
    for one in typing.get_args(annotation) if origin is not None else inside:
        if isinstance(one, type) or typing.get_origin(one) is not None:
            found |= _parts(one)
    return found


def _default(key: str, field: FieldInfo) -> str:
    if key == "threads":
        return "number of cores"
    default = field.default
    if default is PydanticUndefined:
        return "required"
    if default is None or default in ("", ()):
        return f"`{_WORDS[key]}`" if key in _WORDS else ""
    if any(isinstance(kind, Size) for kind in field.metadata):
        return f"`{format_size(default)}`"
    if any(isinstance(kind, Duration) for kind in field.metadata):
        return f"`{format_duration(default)}`"
    return f"`{default}`" if isinstance(default, (str, int, float, Address)) else ""


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
