"""What to load and unload now, each with a sentence that says why. Pure.

Loaded is what the split wants or a waiting request asks for, once per version. Unloaded is what no stage,
alias, route or request has named for a while. What one of them named until a moment ago stays for the
rollback window, whatever else is idle: the way back must not begin with a load. A copy that is not ours is
never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.model import BackendId, ModelName, VersionId
from router.placement.backoff import Failure
from router.placement.filters import Candidate, choose

VersionKey = tuple[ModelName, VersionId]
"""One version of one logical model."""

IDLE_UNLOAD = 1_800.0
"""Default seconds without a request after which an unnamed version is unloaded."""

ROLLBACK_WINDOW = 600.0
"""Default seconds for which a version stays that a stage, alias or arm went away from."""


@dataclass(frozen=True, slots=True)
class BackendView:
    """A backend now.

    Attributes:
        up: whether it answers.
        explicit: whether we load and unload there.
        models: models ready there, other people's included.
    """

    name: BackendId
    up: bool
    explicit: bool
    models: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """One copy of ours that is ready on a backend that is up.

    Attributes:
        stale: it holds files that the registry no longer names (another digest, a version that is
            gone): it does not count as the version, and goes as soon as nothing is in flight.
        foreign: somebody else loaded it while we were there, such as another gateway, who unloads it.
    """

    key: VersionKey
    backend: BackendId
    stale: bool = False
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """When a version was named last, and by what: `stage production`, `alias champion`, `arm stable`."""

    at: float
    what: str

    def remains(self, now: float, window: float) -> float:
        """Seconds for which it still stays, with a rollback window of this length; 0 where that is over."""
        return max(0.0, self.at + window - now)


@dataclass(frozen=True, slots=True)
class ResidencyInput:
    """Everything that the plan looks at; times are monotonic seconds.

    Attributes:
        residents: copies that are ours; others must not be in here.
        wanted: versions to load unasked, in order (`Serving.wanted`).
        cold: versions that a request waits for, with the time of the first such request.
        named: versions that stay, with what names them (`stage production`, `arm canary`).
        left: versions that clients met by a stage, alias or arm until it went to another one.
        last_use: time of the last request, or when the copy was first seen if there was none; a
            version without an entry stays.
        inflight: requests in flight on a version.
        loading: loads under way, and where.
        unloading: unloads under way.
        failures: loads that failed by a fault of the version.
        held: where which version is not to be loaded now, after a load that failed by a fault of the backend.
        idle_unload: seconds; see `IDLE_UNLOAD`.
        rollback_window: seconds; see `ROLLBACK_WINDOW`.
    """

    now: float
    backends: tuple[BackendView, ...] = ()
    residents: tuple[Resident, ...] = ()
    wanted: tuple[VersionKey, ...] = ()
    cold: Mapping[VersionKey, float] = field(default_factory=dict)
    named: Mapping[VersionKey, str] = field(default_factory=dict)
    left: Mapping[VersionKey, Left] = field(default_factory=dict)
    last_use: Mapping[VersionKey, float] = field(default_factory=dict)
    inflight: Mapping[VersionKey, int] = field(default_factory=dict)
    loading: Mapping[VersionKey, BackendId] = field(default_factory=dict)
    unloading: frozenset[tuple[VersionKey, BackendId]] = frozenset()
    failures: Mapping[VersionKey, Failure] = field(default_factory=dict)
    held: frozenset[tuple[VersionKey, BackendId]] = frozenset()
    idle_unload: float = IDLE_UNLOAD
    rollback_window: float = ROLLBACK_WINDOW


@dataclass(frozen=True, slots=True)
class Load:
    """Load a version on a backend; `cause` is `request` or `route`, `why` a sentence for people."""

    key: VersionKey
    backend: BackendId
    cause: str
    why: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload a version from a backend; `cause` is `idle` or `stale`, `why` a sentence for people.

    The table must stop sending requests there first.
    """

    key: VersionKey
    backend: BackendId
    cause: str
    why: str


Action = Load | Unload


def plan(now: ResidencyInput) -> tuple[Action, ...]:
    """All loads, waiting requests first, then all unloads. Doing them leaves nothing to do."""
    return (*_loads(now), *_unloads(now))


def stays_for(now: ResidencyInput, key: VersionKey) -> str:
    """What keeps a version loaded though nobody asks for it; "" for nothing."""
    left = now.left.get(key)
    if key in now.named or left is None or not left.remains(now.now, now.rollback_window):
        return now.named.get(key, "")
    return f"rollback window of {left.what}"


def _loads(now: ResidencyInput) -> list[Load]:
    here = {resident.key for resident in now.residents if not resident.stale and not _leaving(now, resident)}
    planned: dict[BackendId, int] = {}
    loads: list[Load] = []
    for key, cause, reason in _asked(now):
        if key in here or key in now.loading:
            continue
        failure = now.failures.get(key)
        if failure is not None and now.now < failure.retry_at:
            continue
        choice = choose(_candidates(now, key, planned))
        if choice.backend is None:
            continue
        planned[choice.backend] = planned.get(choice.backend, 0) + 1
        loads.append(Load(key, choice.backend, cause, f"{reason}; {choice.why}"))
    return loads


def _asked(now: ResidencyInput) -> list[tuple[VersionKey, str, str]]:
    """Versions to load in order of need: who waits longest first, then what the routes want."""
    waiting = sorted(now.cold.items(), key=lambda item: (item[1], item[0]))
    asked = [(key, "request", "a request waits for it") for key, _ in waiting]
    names = {key: now.named.get(key, "a route") for key in dict.fromkeys(now.wanted) if key not in now.cold}
    return [*asked, *((key, "route", f"{name} wants it loaded") for key, name in names.items())]


def _candidates(now: ResidencyInput, key: VersionKey, planned: Mapping[BackendId, int]) -> list[Candidate]:
    loading = list(now.loading.values())
    return [
        Candidate(
            name=backend.name,
            up=backend.up,
            explicit=backend.explicit,
            models=backend.models + loading.count(backend.name) + planned.get(backend.name, 0),
            unloading=(key, backend.name) in now.unloading,
            held=(key, backend.name) in now.held,
        )
        for backend in now.backends
    ]


def _unloads(now: ResidencyInput) -> list[Unload]:
    ours = {backend.name for backend in now.backends if backend.explicit and backend.up}
    return [
        unload
        for resident in now.residents
        if resident.backend in ours and not _leaving(now, resident) and (unload := _unload(now, resident))
    ]


def _unload(now: ResidencyInput, resident: Resident) -> Unload | None:
    key = resident.key
    if resident.foreign or now.inflight.get(key, 0) > 0:
        return None
    if resident.stale:
        return Unload(key, resident.backend, "stale", "the registry no longer has these files")
    if stays_for(now, key) or key in now.wanted or key in now.cold or key in now.loading:
        return None
    idle = now.now - now.last_use.get(key, now.now)
    if idle < now.idle_unload:
        return None
    why = f"no stage, alias or route names it, and no request came for {idle:.0f} s"
    return Unload(key, resident.backend, "idle", why)


def _leaving(now: ResidencyInput, resident: Resident) -> bool:
    return (resident.key, resident.backend) in now.unloading
