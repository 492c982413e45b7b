"""From file and environment to a `GatewayConfig`, or to all mistakes at once.

The only reader of configuration files; the environment is passed in.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config import checks
from gateway.config.document import Document, Value, as_mapping, read_document, show_path
from gateway.config.document import Path as DocumentPath
from gateway.config.environment import Override, apply_override, read_overrides
from gateway.config.registries import Around, type_registries, unknown_key
from gateway.config.schema import BUILT_IN, GatewayConfig
from router.errors import ConfigInvalid, ConfigProblem

_BUILT_IN_TEXT = """\
registries: {local: {type: folder, path: ./models}}
default_registry: local
"""


def load_config(path: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Read a configuration file; paths in it are relative to it.

    Raises:
        ConfigInvalid: the file cannot be read, or it (or an override) holds mistakes; all are listed.
    """
    source = str(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = ConfigProblem("", 0, f"cannot be read: {error.strerror}")
        raise ConfigInvalid(source, [problem]) from None
    return parse_config(text, source, path.absolute().parent, environ)


def built_in_config(folder: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """What `stagegate up` uses without a file: registry `./models`, state below `./.stagegate`.

    Raises:
        ConfigInvalid: an override holds a mistake.
    """
    return parse_config(_BUILT_IN_TEXT, BUILT_IN, folder.absolute(), environ)


def parse_config(text: bytes | str, source: str, folder: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Check a configuration text.

    Args:
        text: YAML.
        source: its name in messages.
        folder: what its paths are relative to.
        environ: the environment, for overrides.

    Raises:
        ConfigInvalid: with every mistake, sorted by line.
    """
    document = read_document(text, source)
    if document.root is not None and not isinstance(document.root, dict):
        problem = ConfigProblem(
            "", document.line(()), "must be a mapping of keys such as listen and backends"
        )
        raise ConfigInvalid(source, [*document.problems, problem])
    config, problems = _Checker(document, folder).check(environ)
    if config is None or problems:
        raise ConfigInvalid(source, _in_order(problems))
    config._source = source
    return config


def changed_keys(old: GatewayConfig, new: GatewayConfig) -> tuple[str, ...]:
    """Keys whose value differs, one level deep: `limits.max_message`, `registries`, `backends`."""
    changed: list[str] = []
    for name in GatewayConfig.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, BaseModel) and name != "state":
            fields = type(before).model_fields
            changed += [f"{name}.{key}" for key in fields if getattr(before, key) != getattr(after, key)]
        else:
            changed.append(name)
    return tuple(changed)


def _in_order(problems: Iterable[ConfigProblem]) -> list[ConfigProblem]:
    """By line; what has none (the environment) comes last."""
    return sorted(
        dict.fromkeys(problems), key=lambda problem: (problem.line == 0, problem.line, problem.path)
    )


class _Checker:
    """Runs all checks over one document and keeps what they find."""

    def __init__(self, document: Document, folder: Path) -> None:
        self._document = document
        self._root: dict[str, Value] = dict(as_mapping(document.root))
        self._folder = folder
        self._overrides: dict[DocumentPath, Override] = {}
        self._problems = list(document.problems)

    def check(self, environ: Mapping[str, str]) -> tuple[GatewayConfig | None, list[ConfigProblem]]:
        """The configuration, unless it cannot be built, and all problems."""
        self._apply_environment(environ)
        sections = as_mapping(self._root.get("registries"))
        registries, wrong = type_registries(sections, Around(self._folder, environ))
        for path, message in (*wrong, *checks.cross_check(self._root, frozenset(sections))):
            self._add(path, message)
        root = self._with_defaults()
        if isinstance(root.get("registries"), dict):
            root["registries"] = registries
        try:
            context = {"folder": self._folder, "environ": environ}
            config = GatewayConfig.model_validate(root, context=context)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                self._add_error(error)
            return None, self._problems
        return config, self._problems

    def _apply_environment(self, environ: Mapping[str, str]) -> None:
        overrides, problems = read_overrides(self._root, environ)
        self._problems += problems
        for override in overrides:
            problem = apply_override(self._root, override)
            if problem is not None:
                self._problems.append(problem)
            else:
                self._overrides[override.path] = override

    def _with_defaults(self) -> dict[str, object]:
        """Defaults that depend on other keys, or whose paths do."""
        registries = as_mapping(self._root.get("registries"))
        root: dict[str, object] = dict(self._root)
        if "default_registry" not in root and len(registries) == 1:
            root["default_registry"] = next(iter(registries))
        root.setdefault("triton", {})
        return root

    def _add_error(self, error: ErrorDetails) -> None:
        path = tuple(part for part in error["loc"] if part != "[key]" and not _is_branch(part))
        self._add(path, _message(error, path))

    def _add(self, path: DocumentPath, message: str) -> None:
        variable = self._variable(path)
        if variable:
            self._problems.append(ConfigProblem(f"{variable} ({show_path(path)})", 0, message))
        else:
            self._problems.append(ConfigProblem(show_path(path), self._document.line(path), message))

    def _variable(self, path: DocumentPath) -> str:
        """The environment variable that brought the value at `path`, or ""."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._overrides:
                return self._overrides[path[:length]].variable
        if path in self._document.lines:
            return ""
        # A key that only an override below it made, such as a misspelt section.
        below = (o.variable for place, o in self._overrides.items() if place[: len(path)] == path)
        return next(below, "")


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the branch of a union into the location; no key of ours looks like that."""
    return isinstance(part, str) and part.startswith(("function-", "literal[", "constrained-"))


def _message(error: ErrorDetails, path: DocumentPath) -> str:
    kind, value = error["type"], error["input"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "is missing"
    return _wrong_shape(kind, value, path) or str(error["msg"])


def _wrong_shape(kind: str, value: object, path: DocumentPath) -> str:
    if value is None:
        return "has no value; give one or remove the key"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, not {_shape(value)}"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        return f"must be a mapping of keys{_keys_at(path)}, not {_shape(value)}"
    return ""


def _shape(value: object) -> str:
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else repr(value)


def _keys_at(path: DocumentPath) -> str:
    known = _known_keys(path)
    return f" ({', '.join(known)})" if known else ""


def _unknown_key(path: DocumentPath) -> str:
    return unknown_key(str(path[-1]), _known_keys(path[:-1]))


def _known_keys(path: DocumentPath) -> Sequence[str]:
    """The keys that the schema has at a path; () where it has no mapping of fixed keys."""
    here: object = GatewayConfig
    for part in path:
        section = _section(here)
        if section is not None and isinstance(part, str):
            field = section.model_fields.get(part)
            here = field.annotation if field is not None else None
        else:
            # The element of a tuple, or the value of a mapping: its last type argument but `...`.
            arguments = [argument for argument in typing.get_args(here) if argument is not ...]
            here = arguments[-1] if arguments else None
    section = _section(here)
    return tuple(section.model_fields) if section is not None else ()


def _section(annotation: object) -> type[BaseModel] | None:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return typing.cast("type[BaseModel]", annotation) if is_model else None


def describe_problems(error: ConfigInvalid) -> Iterator[str]:
    """One line for each problem: `FILE:LINE: path: message`."""
    for problem in error.problems:
        place = f"{error.source}:{problem.line}" if problem.line else error.source
        yield ": ".join(part for part in (place, problem.path, problem.message) if part)
