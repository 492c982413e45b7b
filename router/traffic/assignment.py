"""The keys of a route that say which arm a request gets (`match`, `sticky`, `arm_header`), and back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.errors import InvalidRoute
from router.model import HEADER, MOST_RULES, PARAMETER, Arm, Condition, MatchRule, Route, Sticky

ASSIGNMENT_KEYS = ("match", "sticky", "arm_header")

_RULE_KEYS = ("when", "arm")
_STICKY_KEYS = ("by", "salt")
_KINDS = (HEADER, PARAMETER)
_NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class AssignmentReader:
    """Reads those keys.

    Attributes:
        problems: what is wrong goes here, with its path.
        unknown_keys: complains about keys of a mapping: its path, the mapping, and the known ones.
    """

    problems: list[str]
    unknown_keys: Callable[[str, Mapping[str, object], Sequence[str]], None]

    def arm_header(self, value: object) -> bool:
        """Whether clients may name their arm; False where it is absent."""
        if value is None or value in (False, "false"):
            return False
        if value in (True, "true"):
            return True
        self.problems.append(f"arm_header: {value!r} is neither true nor false")
        return False

    def sticky(self, value: object) -> Sticky | None:
        """What keeps a caller on its arm; None where it is absent, or `none` without a salt."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.problems.append(f"sticky: is not a mapping of {', '.join(_STICKY_KEYS)}")
            return None
        self.unknown_keys("sticky.", value, _STICKY_KEYS)
        by = self._text("sticky.by", value.get("by", _NO_KEY))
        salt = self._text("sticky.salt", value.get("salt", ""))
        kind, colon, name = by.partition(":")
        if kind not in _KINDS and by != _NO_KEY:
            self.problems.append(f"sticky.by: {by!r} is not 'header:NAME', 'parameter:NAME' or 'none'")
            return None
        try:
            found = Sticky("" if by == _NO_KEY else kind + colon + _name(kind, name), salt)
        except InvalidRoute as error:
            self.problems.append(f"sticky.by: {error}")
            return None
        return None if found == Sticky() else found

    def match(self, value: object, arms: Sequence[Arm]) -> tuple[MatchRule, ...]:
        """The rules, in order."""
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.problems.append("match: is not a list of {when, arm}")
            return ()
        if len(value) > MOST_RULES:
            self.problems.append(f"match: {len(value)} rules, at most {MOST_RULES}")
        names = [arm.name for arm in arms]
        read = (self._rule(f"match[{index}]", item, names) for index, item in enumerate(value))
        return tuple(rule for rule in read if rule)

    def _rule(self, path: str, item: object, arms: Sequence[str]) -> MatchRule | None:
        if not isinstance(item, Mapping):
            self.problems.append(f"{path}: is not a mapping of {', '.join(_RULE_KEYS)}")
            return None
        before = len(self.problems)
        self.unknown_keys(f"{path}.", item, _RULE_KEYS)
        for key in _RULE_KEYS:
            if key not in item:
                self.problems.append(f"{path}.{key}: is missing")
        arm = self._text(f"{path}.arm", item.get("arm", ""))
        # Arms that could not be read are a mistake of their own.
        if arms and "arm" in item and arm not in arms:
            self.problems.append(f"{path}.arm: there is no arm {arm!r}; arms: {', '.join(arms)}")
        conditions = self._conditions(f"{path}.when", item.get("when", {}))
        if len(self.problems) != before:
            return None
        try:
            return MatchRule(conditions, arm)
        except InvalidRoute as error:
            self.problems.append(f"{path}.when: {error}")
            return None

    def _conditions(self, path: str, when: object) -> tuple[Condition, ...]:
        if not isinstance(when, Mapping):
            self.problems.append(f"{path}: is not a mapping of {', '.join(_KINDS)}")
            return ()
        self.unknown_keys(f"{path}.", when, _KINDS)
        found: list[Condition] = []
        for kind in _KINDS:
            said = when.get(kind, {})
            if not isinstance(said, Mapping):
                self.problems.append(f"{path}.{kind}: is not a mapping of names to values")
                continue
            for name, value in said.items():
                text = self._text(f"{path}.{kind}.{name}", value)
                try:
                    found.append(Condition(kind, _name(kind, str(name)), text))
                except InvalidRoute as error:
                    self.problems.append(f"{path}.{kind}: {error}")
        return tuple(found)

    def _text(self, path: str, value: object) -> str:
        """Text, or what JSON makes of a number or a truth."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (str, int)):
            return str(value)
        if isinstance(value, float):
            return repr(value).removesuffix(".0")
        self.problems.append(f"{path}: {value!r} is not text")
        return ""


def assignment_to_document(route: Route) -> dict[str, object]:
    """Those keys of a route as `AssignmentReader` reads them; what is usual is left out."""
    document: dict[str, object] = {}
    if route.match:
        document["match"] = [{"when": _when(rule), "arm": rule.arm} for rule in route.match]
    if route.sticky is not None:
        document["sticky"] = {"by": route.sticky.by or _NO_KEY}
        if route.sticky.salt:
            document["sticky"] = {"by": route.sticky.by or _NO_KEY, "salt": route.sticky.salt}
    if route.arm_header:
        document["arm_header"] = True
    return document


def _when(rule: MatchRule) -> dict[str, dict[str, str]]:
    when: dict[str, dict[str, str]] = {}
    for condition in rule.conditions:
        when.setdefault(condition.kind, {})[condition.name] = condition.value
    return when


def _name(kind: str, name: str) -> str:
    """Names of headers have no case."""
    return name.lower() if kind == HEADER else name
