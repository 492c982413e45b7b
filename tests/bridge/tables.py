"""Small routing tables to test with."""

from __future__ import annotations

from dataclasses import replace

from router.traffic.table import (
    ArmSpec,
    BackendSpec,
    Delta,
    ModelSpec,
    PointerSpec,
    Snapshot,
    VersionSpec,
)

T0 = BackendSpec(name="t0", address="127.0.0.1:9")
T1 = BackendSpec(name="t1", address="127.0.0.1:10")


def version(model: str, number: str, *backends: str, state: str = "", reason: str = "") -> VersionSpec:
    """Ready where it has backends, else cold, unless `state` says otherwise."""
    return VersionSpec(
        version=number,
        state=state or ("ready" if backends else "cold"),
        backends=backends,
        backend_model=f"{model}.{number}.0a1b2c3d",
        backend_version="",
        reason=reason,
        metadata=b"",
    )


def digits(name: str = "digits") -> ModelSpec:
    """Three versions: 3 is production and stable at 90 %, 2 is the challenger, 1 is cold."""
    return ModelSpec(
        name=name,
        versions=(version(name, "1"), version(name, "2", "t0"), version(name, "3", "t0", "t1")),
        pointers=(
            PointerSpec(kind="alias", name="champion", version="3"),
            PointerSpec(kind="alias", name="challenger", version="2"),
            PointerSpec(kind="stage", name="production", version="3"),
            PointerSpec(kind="stage", name="staging", version="2"),
        ),
        arms=(
            ArmSpec(name="stable", version="3", weight=9_000),
            ArmSpec(name="canary", version="2", weight=1_000),
        ),
        split_reference="production",
        deadline_ms=0,
        unroutable="",
    )


def snapshot(*models: ModelSpec, revision: int = 1) -> Snapshot:
    """These models and the backends `t0` and `t1`."""
    return Snapshot(revision=revision, backends=(T0, T1), models=models)


def delta(base: int, *put: ModelSpec, drop: tuple[str, ...] = ()) -> Delta:
    """These models put and those dropped, on top of `base`."""
    return Delta(
        base_revision=base,
        revision=base + 1,
        put_backends=(),
        drop_backends=(),
        put_models=put,
        drop_models=drop,
    )


def with_arms(model: ModelSpec, *arms: tuple[str, str, int]) -> ModelSpec:
    """The model with this split: name, version and weight of each arm."""
    return replace(model, arms=tuple(ArmSpec(*arm) for arm in arms))
