"""Which registered models are taken, and under which logical name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

from router.errors import InvalidName
from router.model import ModelName, parse_model_name


@dataclass(frozen=True)
class Names:
    """Attributes:
    given: logical names that the operator gave, to registered ones.
    globs: patterns of the registered names that are taken; () for all.
    """

    given: Mapping[str, str]
    globs: tuple[str, ...] = ()

    def takes(self, registered: str) -> bool:
        """Whether a registered model is ours to serve."""
        return self._pattern is None or self._pattern.fullmatch(registered) is not None

    def logical(self, registered: str) -> ModelName:
        """What clients call a registered model. Raises InvalidName where it cannot be called anything."""
        given = self._by_registered.get(registered)
        if given is not None:
            return given
        name = parse_model_name(registered)
        if name in self.given:
            raise InvalidName(f"model name {name!r} was given to {self.given[name]!r}")
        return name

    def registered(self, logical: str) -> str:
        """The inverse of `logical`."""
        return self.given.get(logical, logical)

    @cached_property
    def _by_registered(self) -> dict[str, ModelName]:
        return {registered: parse_model_name(logical) for logical, registered in self.given.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(translate, self.globs))) if self.globs else None
