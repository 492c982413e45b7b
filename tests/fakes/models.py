"""Short ways to write registry models and routes in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.alias import in_order
from router.model import Arm, ModelName, RegisteredModel, Route, Version, VersionId


def a_version(version: str, *, model: str = "digits", created: float | None = None) -> Version:
    """A version with files."""
    return Version(
        registry="local",
        model=ModelName(model),
        version=VersionId(version),
        format="onnx",
        artifact=f"/models/{model}/{version}/model.onnx",
        created=created,
    )


def a_model(
    versions: Iterable[str] = ("1", "2", "3"),
    *,
    stages: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    name: str = "digits",
) -> RegisteredModel:
    """A registered model; versions are put in order."""
    return RegisteredModel(
        registry="local",
        name=ModelName(name),
        versions=in_order(a_version(version, model=name) for version in versions),
        stages={stage: VersionId(to) for stage, to in (stages or {}).items()},
        aliases={alias: VersionId(to) for alias, to in (aliases or {}).items()},
    )


def a_route(*arms: tuple[str, str, float], model: str = "digits", deadline: float | None = None) -> Route:
    """A route of arms `(name, reference, percent)`."""
    return Route(
        model=ModelName(model),
        arms=tuple(Arm(name, reference, round(percent * 100)) for name, reference, percent in arms),
        deadline=deadline,
    )


def ids(*versions: str) -> frozenset[VersionId]:
    """A set of version ids."""
    return frozenset(VersionId(version) for version in versions)
