"""Routes as people write them (YAML, JSON, the CLI's short form) and back. Pure.

All mistakes of one document come in one `InvalidRoute`. Scalars may be typed (`90`) or text (`"90"`),
because YAML is read with every scalar as its own text.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from router.alias import parse_reference
from router.errors import InvalidName, InvalidReference, InvalidRoute
from router.model import (
    MOST_SHADOWS,
    WHOLE,
    Arm,
    BackendModel,
    Fallback,
    ModelName,
    Route,
    Shadow,
    Tolerance,
    format_weight,
    parse_model_name,
)
from router.traffic.assignment import ASSIGNMENT_KEYS, AssignmentReader, assignment_to_document

_ROUTE_KEYS = ("model", "registry", "arms", "deadline", "shadows", "fallback", *ASSIGNMENT_KEYS)
_ARM_KEYS = ("name", "version", "weight", "backend_model")
_SHADOW_KEYS = ("name", "version", "sample", "compare")
_COMPARE_KEYS = ("atol", "rtol")
_FALLBACK_KEYS = ("codes", "to")
_BACKEND_MODEL_KEYS = ("name", "version")
_NOT_SERVED = ("registry_model",)

_WEIGHT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")
_SAMPLE = re.compile(r"([01])(?:\.([0-9]{1,4}))?")
_TOLERANCE = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")
_DEADLINE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_MAX_DEADLINE_MS = 24 * _UNIT_MS["h"]
_SHORT_EXAMPLE = "stable=production:90"


def parse_weight(value: object) -> int:
    """A weight in percent, with at most two decimals, as whole hundredths: `"33.34"` is 3334.

    Raises:
        InvalidRoute: it is no number from 0 to 100, or has more decimals.
    """
    # repr() of a float is the shortest text that means it, so 33.34 from JSON stays 33.34.
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    found = _WEIGHT.fullmatch(text)
    if not found:
        raise InvalidRoute(f"weight {value!r} is not a number from 0 to 100 with at most two decimals")
    weight = int(found[1]) * 100 + int((found[2] or "").ljust(2, "0"))
    if weight > WHOLE:
        raise InvalidRoute(f"weight {value!r} is more than 100")
    return weight


def parse_sample(value: object) -> int:
    """A share from 0 to 1 with at most four decimals, as whole hundredths of a percent: `"0.25"` is 2500.

    Raises:
        InvalidRoute: it is no such number.
    """
    found = _SAMPLE.fullmatch(_number(value))
    sample = int(found[1]) * WHOLE + int((found[2] or "").ljust(4, "0")) if found else WHOLE + 1
    if sample > WHOLE:
        raise InvalidRoute(f"sample {value!r} is not a number from 0 to 1 with at most four decimals")
    return sample


def parse_tolerance(value: object) -> float:
    """A number from 0 on, such as `0.001` or `1e-3`.

    Raises:
        InvalidRoute: it is no such number.
    """
    text = _number(value)
    if not _TOLERANCE.fullmatch(text) or not math.isfinite(float(text)):
        raise InvalidRoute(f"{value!r} is not a number from 0 on, such as 0.001")
    return float(text)


def _number(value: object) -> str:
    """The text of a number, typed or not; "" for anything else."""
    return str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def parse_deadline(value: object) -> float:
    """A duration such as `2s`, `500ms`, `1.5m`, in seconds; whole milliseconds, up to 24 hours.

    Raises:
        InvalidRoute: it has no unit, is below a millisecond, or too long.
    """
    found = _DEADLINE.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found:
        raise InvalidRoute(f"deadline {value!r} is not a duration; write '2s', '500ms' or '1m'")
    milliseconds = Decimal(found[1]) * _UNIT_MS[found[2]]
    if milliseconds != int(milliseconds) or not 1 <= milliseconds <= _MAX_DEADLINE_MS:
        raise InvalidRoute(f"deadline {value!r} is not whole milliseconds between 1ms and 24h")
    return int(milliseconds) / 1_000


def format_deadline(seconds: float) -> str:
    """Seconds as `parse_deadline` reads them: 2.0 is `2s`, 0.5 is `500ms`."""
    milliseconds = round(seconds * 1_000)
    return f"{milliseconds}ms" if milliseconds % 1_000 else f"{milliseconds // 1_000}s"


def route_from_document(document: Mapping[str, object]) -> Route:
    """Read a route in the shape of the `route apply` YAML.

    Raises:
        InvalidRoute: names every problem, the path of each, and the nearest known key.
    """
    return _RouteReader().read(document)


def route_to_document(route: Route) -> dict[str, object]:
    """The document that `route_from_document` reads back to an equal route."""
    document: dict[str, object] = {"model": str(route.model)}
    if route.registry:
        document["registry"] = route.registry
    document["arms"] = [_arm_to_document(arm) for arm in route.arms]
    if route.deadline is not None:
        document["deadline"] = format_deadline(route.deadline)
    if route.shadows:
        document["shadows"] = [_shadow_to_document(shadow) for shadow in route.shadows]
    if route.fallback is not None:
        document["fallback"] = {"codes": list(route.fallback.codes), "to": route.fallback.to}
    return document | assignment_to_document(route)


def parse_short(
    model: str,
    arms: Sequence[str],
    *,
    registry: str = "",
    deadline: str = "",
    sticky: str = "",
    fallback: str = "",
    before: Route | None = None,
) -> Route:
    """Read the CLI's short form: `fraud`, `["stable=production:90", "canary=@challenger:10"]`.

    Args:
        fallback: codes with commas between them, and the arm that answers: `UNAVAILABLE,INTERNAL=stable`;
            without an arm it is stable.
        before: the route that is changed: what the short form does not name, such as rules and shadows,
            stays as it is there.

    Raises:
        InvalidRoute: names every problem.
    """
    problems: list[str] = []
    documents: list[dict[str, object]] = []
    for text in arms:
        name, equals, rest = text.partition("=")
        # From the right: an opaque version id may hold a colon, a weight cannot.
        reference, colon, weight = rest.rpartition(":")
        if not (equals and colon and name and reference and weight):
            problems.append(f"{text!r} is not NAME=REFERENCE:WEIGHT, such as {_SHORT_EXAMPLE!r}")
            continue
        documents.append({"name": name, "version": reference, "weight": weight})
    if problems:
        raise InvalidRoute(f"route of {model!r}: " + "; ".join(problems))
    document: dict[str, object] = {} if before is None else route_to_document(before)
    document |= {"model": model, "arms": documents}
    if registry:
        document["registry"] = registry
    if deadline:
        document["deadline"] = deadline
    if sticky:
        salt = before.sticky.salt if before and before.sticky else ""
        document["sticky"] = {"by": sticky} | ({"salt": salt} if salt else {})
    if fallback:
        codes, _, to = fallback.partition("=")
        document["fallback"] = {"codes": codes.split(","), "to": to or "stable"}
    return route_from_document(document)


def _shadow_to_document(shadow: Shadow) -> dict[str, object]:
    return {
        "name": shadow.name,
        "version": shadow.reference,
        "sample": shadow.sample / WHOLE if shadow.sample % WHOLE else shadow.sample // WHOLE,
        "compare": {"atol": shadow.tolerance.atol, "rtol": shadow.tolerance.rtol},
    }


def _arm_to_document(arm: Arm) -> dict[str, object]:
    document: dict[str, object] = {"name": arm.name}
    if arm.backend_model is None:
        document["version"] = arm.reference
    else:
        document["backend_model"] = {"name": arm.backend_model.name}
        if arm.backend_model.version:
            document["backend_model"] = {"name": arm.backend_model.name, "version": arm.backend_model.version}
    document["weight"] = arm.weight / 100 if arm.weight % 100 else arm.weight // 100
    return document


@dataclass(slots=True)
class _RouteReader:
    """Reads one document and collects what is wrong with it."""

    problems: list[str] = field(default_factory=list)

    def read(self, document: Mapping[str, object]) -> Route:
        self._unknown_keys("", document, _ROUTE_KEYS, _NOT_SERVED)
        model = self._model(document)
        registry = self._text("registry", document.get("registry", ""))
        arms = self._arms(document.get("arms"))
        deadline = self._deadline(document.get("deadline"))
        shadows = self._shadows(document.get("shadows"), arms)
        assignment = AssignmentReader(self.problems, self._unknown_keys)
        match = assignment.match(document.get("match"), arms)
        sticky = assignment.sticky(document.get("sticky"))
        arm_header = assignment.arm_header(document.get("arm_header"))
        fallback = self._fallback(document.get("fallback"), arms)
        if self.problems or model is None:
            raise InvalidRoute(f"route of {document.get('model', '?')!r}: " + "; ".join(self.problems))
        return Route(
            model=model,
            arms=arms,
            registry=registry,
            deadline=deadline,
            shadows=shadows,
            match=match,
            sticky=sticky,
            arm_header=arm_header,
            fallback=fallback,
        )

    def _model(self, document: Mapping[str, object]) -> ModelName | None:
        if "model" not in document:
            self.problems.append("model: is missing")
            return None
        text = self._text("model", document["model"])
        try:
            return parse_model_name(text) if text else None
        except InvalidName as error:
            self.problems.append(f"model: {error}")
            return None

    def _deadline(self, value: object) -> float | None:
        if value is None:
            return None
        try:
            return parse_deadline(value)
        except InvalidRoute as error:
            self.problems.append(f"deadline: {error}")
            return None

    def _fallback(self, value: object, arms: Sequence[Arm]) -> Fallback | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.problems.append(f"fallback: is not a mapping of {', '.join(_FALLBACK_KEYS)}")
            return None
        before = len(self.problems)
        self._unknown_keys("fallback.", value, _FALLBACK_KEYS)
        codes = value.get("codes", ())
        if not isinstance(codes, Sequence) or isinstance(codes, str):
            self.problems.append("fallback.codes: is not a list of gRPC status names, such as [UNAVAILABLE]")
            return None
        names = [self._text(f"fallback.codes[{index}]", code) for index, code in enumerate(codes)]
        to = self._text("fallback.to", value.get("to", "stable"))
        # Arms that could not be read are a complaint of their own.
        if arms and to not in (*(arm.name for arm in arms), "stable"):
            self.problems.append(f"fallback.to: {to!r} is none of the arms")
        if len(self.problems) != before:
            return None
        try:
            return Fallback(tuple(names), to)
        except InvalidRoute as error:
            self.problems.append(error.message)
            return None

    def _arms(self, value: object) -> tuple[Arm, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            self.problems.append("arms: a list of at least one {name, version, weight} is needed")
            return ()
        before = len(self.problems)
        arms = tuple(arm for index, item in enumerate(value) if (arm := self._arm(f"arms[{index}]", item)))
        self._duplicates(arms)
        total = sum(arm.weight for arm in arms)
        # A sum over arms that could not all be read would be a second, false complaint.
        if len(self.problems) == before and total != WHOLE:
            self.problems.append(f"arms: weights sum to {format_weight(total)}, not 100")
        return arms

    def _duplicates(self, arms: Sequence[Arm]) -> None:
        seen: set[str] = set()
        for arm in arms:
            if arm.name in seen:
                self.problems.append(f"arms: {arm.name!r} is given twice")
            seen.add(arm.name)

    def _arm(self, path: str, item: object) -> Arm | None:
        if not isinstance(item, Mapping):
            self.problems.append(f"{path}: is not a mapping of {', '.join(_ARM_KEYS)}")
            return None
        before = len(self.problems)
        self._unknown_keys(f"{path}.", item, _ARM_KEYS)
        for key in ("name", "weight"):
            if key not in item:
                self.problems.append(f"{path}.{key}: is missing")
        name = self._text(f"{path}.name", item["name"]) if "name" in item else ""
        weight = self._weight(f"{path}.weight", item["weight"]) if "weight" in item else 0
        reference = self._reference(f"{path}.version", item["version"]) if "version" in item else ""
        backend_model = (
            self._backend_model(f"{path}.backend_model", item["backend_model"])
            if "backend_model" in item
            else None
        )
        if len(self.problems) != before:
            return None
        try:
            return Arm(name=name, reference=reference, weight=weight, backend_model=backend_model)
        except InvalidRoute as error:
            self.problems.append(f"{path}: {error}")
            return None

    def _shadows(self, value: object, arms: Sequence[Arm]) -> tuple[Shadow, ...]:
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.problems.append(f"shadows: is not a list of {{{', '.join(_SHADOW_KEYS)}}}")
            return ()
        found = tuple(
            shadow for index, item in enumerate(value) if (shadow := self._shadow(f"shadows[{index}]", item))
        )
        names = [arm.name for arm in arms]
        for shadow in found:
            if shadow.name in names:
                self.problems.append(f"shadows: {shadow.name!r} has the name of an arm or of another shadow")
            names.append(shadow.name)
        if len(found) > MOST_SHADOWS:
            self.problems.append(f"shadows: {len(found)} of them, at most {MOST_SHADOWS}")
        return found

    def _shadow(self, path: str, item: object) -> Shadow | None:
        if not isinstance(item, Mapping):
            self.problems.append(f"{path}: is not a mapping of {', '.join(_SHADOW_KEYS)}")
            return None
        before = len(self.problems)
        self._unknown_keys(f"{path}.", item, _SHADOW_KEYS)
        for key in ("name", "version"):
            if key not in item:
                self.problems.append(f"{path}.{key}: is missing")
        name = self._text(f"{path}.name", item.get("name", ""))
        reference = self._reference(f"{path}.version", item["version"]) if "version" in item else ""
        sample = self._parsed(f"{path}.sample", parse_sample, item["sample"]) if "sample" in item else WHOLE
        tolerance = self._tolerance(f"{path}.compare", item.get("compare"))
        if len(self.problems) != before:
            return None
        try:
            return Shadow(name=name, reference=reference, sample=int(sample), tolerance=tolerance)
        except InvalidRoute as error:
            self.problems.append(f"{path}: {error}")
            return None

    def _tolerance(self, path: str, item: object) -> Tolerance:
        usual = Tolerance()
        if item is None:
            return usual
        if not isinstance(item, Mapping):
            self.problems.append(f"{path}: is not a mapping of {', '.join(_COMPARE_KEYS)}")
            return usual
        self._unknown_keys(f"{path}.", item, _COMPARE_KEYS)
        return Tolerance(
            atol=self._parsed(f"{path}.atol", parse_tolerance, item.get("atol", usual.atol)),
            rtol=self._parsed(f"{path}.rtol", parse_tolerance, item.get("rtol", usual.rtol)),
        )

    def _parsed(self, path: str, parse: Callable[[object], float], value: object) -> float:
        try:
            return parse(value)
        except InvalidRoute as error:
            self.problems.append(f"{path}: {error}")
            return 0

    def _weight(self, path: str, value: object) -> int:
        try:
            return parse_weight(value)
        except InvalidRoute as error:
            self.problems.append(f"{path}: {error}")
            return 0

    def _reference(self, path: str, value: object) -> str:
        text = self._text(path, value)
        try:
            parse_reference(text)
        except InvalidReference as error:
            self.problems.append(f"{path}: {error}")
        return text

    def _backend_model(self, path: str, value: object) -> BackendModel | None:
        if not isinstance(value, Mapping):
            self.problems.append(f"{path}: is not a mapping of name and version")
            return None
        self._unknown_keys(f"{path}.", value, _BACKEND_MODEL_KEYS)
        name = self._text(f"{path}.name", value.get("name", ""))
        version = self._text(f"{path}.version", value.get("version", ""))
        if not name:
            self.problems.append(f"{path}.name: is missing")
        return BackendModel(name=name, version=version)

    def _text(self, path: str, value: object) -> str:
        """Text, or a whole number, which is what JSON makes of a version such as 3."""
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        self.problems.append(f"{path}: {value!r} is not text")
        return ""

    def _unknown_keys(
        self, path: str, item: Mapping[str, object], known: Sequence[str], not_served: Sequence[str] = ()
    ) -> None:
        for key in item:
            if key in known:
                continue
            if key in not_served:
                self.problems.append(f"{path}{key}: this version does not serve {key!r} yet; remove it")
                continue
            near = difflib.get_close_matches(str(key), [*known, *not_served], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            self.problems.append(f"{path}{key}: unknown key; {hint}")
