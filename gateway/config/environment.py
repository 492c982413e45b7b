"""Overrides by environment: `STAGEGATE_LISTEN__INFERENCE=0.0.0.0:8001`. The environment is passed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.document import Path, Value, read_document
from router.errors import ConfigInvalid, ConfigProblem

PREFIX = "STAGEGATE_"

RESERVED: Mapping[str, str] = {
    "STAGEGATE_SERVER": "admin address that the CLI speaks to",
    "STAGEGATE_CONFIG": "configuration file",
    "STAGEGATE_TRITON": "folder of a Triton that tests and `make run` use",
}
"""Variables of that prefix that are no overrides, and what they are."""

# Kubernetes sets these in every pod beside a Service called `stagegate...`.
_KUBERNETES = re.compile(
    r"STAGEGATE_([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)"
)


@dataclass(frozen=True, slots=True)
class Override:
    """One override: where it goes, what it is, and the variable that said so."""

    path: Path
    value: Value
    variable: str


def read_overrides(
    root: Mapping[str, Value], environ: Mapping[str, str]
) -> tuple[list[Override], list[ConfigProblem]]:
    """All overrides in `environ`, in the order of their names.

    Path parts are matched with the document's keys without regard to case, and with `_` for any other
    sign, since a variable cannot hold those.

    Args:
        root: the document's top mapping, for existing names.
        environ: the environment.
    """
    overrides: list[Override] = []
    problems: list[ConfigProblem] = []
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in RESERVED or _KUBERNETES.fullmatch(variable):
            continue
        try:
            value = _value(variable, environ[variable])
        except ConfigInvalid as error:
            problems.extend(ConfigProblem(variable, 0, problem.message) for problem in error.problems)
            continue
        overrides.append(Override(_path(root, variable), value, variable))
    return overrides, problems


def apply_override(root: dict[str, Value], override: Override) -> ConfigProblem | None:
    """Put one value into the document; a problem where its path cannot be walked."""
    here: Value = root
    for depth, part in enumerate(override.path):
        last = depth == len(override.path) - 1
        following: Value = [] if not last and isinstance(override.path[depth + 1], int) else {}
        fresh = override.value if last else following
        if isinstance(here, dict) and isinstance(part, str):
            if last or here.get(part) is None:
                here[part] = fresh
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part <= len(here):
            here[part : part + last] = [fresh] if last or part == len(here) else []
            here = here[part]
        else:
            return ConfigProblem(override.variable, 0, _cannot_walk(here, part))
    return None


def _cannot_walk(here: Value, part: str | int) -> str:
    if isinstance(here, list):
        if isinstance(part, int):
            return f"the list has {len(here)} entries, so {part} is too high; the next one is {len(here)}"
        return f"{part!r} is no index, and a list stands there"
    return f"there is no key {part!r} below a single value"


def _value(variable: str, text: str) -> Value:
    """A list or mapping in YAML's flow form, else the text as it is."""
    if text[:1] not in ("[", "{"):
        return text
    document = read_document(text, variable)
    if document.problems:
        raise ConfigInvalid(variable, document.problems)
    return document.root


def _path(root: Mapping[str, Value], variable: str) -> Path:
    path: list[str | int] = []
    here: Value = dict(root)
    for word in variable.removeprefix(PREFIX).split("__"):
        part: str | int
        if word.isascii() and word.isdigit() and not isinstance(here, dict) and path:
            part = int(word)
            here = here[part] if isinstance(here, list) and part < len(here) else None
        else:
            part = _matching_key(here, word)
            here = here.get(part) if isinstance(here, dict) else None
        path.append(part)
    return tuple(path)


def _matching_key(here: Value, word: str) -> str:
    for key in here if isinstance(here, dict) else ():
        if re.sub(r"[^A-Z0-9_]", "_", key.upper()) == word.upper():
            return key
    return word.lower()
