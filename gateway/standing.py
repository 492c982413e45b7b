"""How a running gateway stands: its status, whether it is ready, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway import __version__
from gateway.bridge import Counters, DataPlane, EjectedCounters
from gateway.certificates import Certificates
from gateway.moving import Moving
from gateway.operations import (
    BackendStatus,
    Gauges,
    Problem,
    Readiness,
    RegistryGauge,
    RegistryStatus,
    RouteWeight,
    ShadowComparison,
    StatusReport,
    Totals,
    WebhookCount,
)
from gateway.waiting import sentences
from router.control.controller import Controller
from router.ports import Clock


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the process listens on, as bound, and where its configuration and state are."""

    inference: str
    metrics: str
    admin: str
    config: str
    state: str
    http: str = ""


class Standing:
    """Answers from what the control loop and the data plane hold now.

    Attributes:
        addresses: where it can be reached.
        draining: whether it is about to stop.
        synced: whether registries and backends were looked at once.
    """

    def __init__(
        self,
        *,
        controller: Controller,
        data_plane: DataPlane,
        clock: Clock,
        addresses: Addresses,
        registry_types: Mapping[str, str],
        moving: Moving,
        certificates: Certificates | None,
        comparisons: Callable[[], Sequence[ShadowComparison]],
    ) -> None:
        """`registry_types`: the type of each registry by name, kept true by its owner."""
        self.addresses = addresses
        self.draining = False
        self.synced = False
        self._controller = controller
        self._data_plane = data_plane
        self._clock = clock
        self._registry_types = registry_types
        self._moving = moving
        self._certificates = certificates
        self._comparisons = comparisons
        self._started = clock.unix()
        self._started_at = clock.now()

    def status(self) -> StatusReport:
        """Everything at a glance."""
        readiness = self.readiness()
        counters = self._data_plane.counters()
        now = self._clock.now()
        return StatusReport(
            version=__version__,
            started=self._started,
            uptime=now - self._started_at,
            ready=readiness.ready,
            reasons=readiness.reasons,
            config=self.addresses.config,
            state=self.addresses.state,
            revision=self._controller.store_revision,
            inference=self.addresses.inference,
            metrics=self.addresses.metrics,
            admin=self.addresses.admin,
            connections=counters.connections,
            requests=_finished(counters),
            totals=self._totals(),
            backends=self._backends(),
            registries=self._registries(now),
            problems=tuple(Problem(item.subject, item.reason) for item in self._controller.unservable)
            + self._moving.problems()
            + self._held()
            + tuple(_passed_over(one) for one in counters.ejected),
        )

    def _held(self) -> tuple[Problem, ...]:
        """What registries or routes want, and clients do not meet yet."""
        return tuple(
            Problem(f"model {name}", sentence)
            for name, entry in self._controller.models.items()
            for sentence in sentences(name, entry.serving.waiting)
        )

    def _totals(self) -> Totals:
        entries = self._controller.models.values()
        states = [spec.state for entry in entries for spec in entry.spec.versions]
        return Totals(
            models=len(self._controller.models),
            versions=len(states),
            ready=states.count("ready"),
            loading=len(self._controller.residents.loading),
            failed=len(self._controller.residents.failures),
            routes=len(self._controller.routes),
        )

    def _backends(self) -> tuple[BackendStatus, ...]:
        return tuple(
            BackendStatus(
                name=state.name,
                address=state.backend.grpc,
                control=state.backend.control.value,
                up=state.up,
                models=len(state.ready),
                reason=state.reason,
                server=f"{state.server_name} {state.server_version}".strip(),
            )
            for state in self._controller.residents.backends.values()
        )

    def _registries(self, now: float) -> tuple[RegistryStatus, ...]:
        return tuple(
            RegistryStatus(
                name=name,
                type=self._registry_types.get(name, ""),
                models=len(state.view.models) if state.view else 0,
                age=state.age(now),
                reason="; ".join(filter(None, (state.error, state.warning(now)))),
                problems=tuple(Problem(p.subject, p.message) for p in state.view.problems)
                if state.view
                else (),
            )
            for name, state in self._controller.registries.items()
        )

    def _gauge(self, status: RegistryStatus) -> RegistryGauge:
        readings = self._controller.registries[status.name].readings
        lost, unpointed = (len(loss.gone) if loss else 0 for loss in (readings.loss, readings.unpointed))
        return RegistryGauge(status.name, status.age, len(status.problems), lost, unpointed)

    def readiness(self) -> Readiness:
        """Whether this gateway should get traffic."""
        reasons = []
        if self.draining:
            reasons.append("draining: this gateway is about to stop")
        if not self.synced:
            reasons.append("starting: registries and backends have not all been read yet")
        backends = self._controller.residents.backends.values()
        if backends and not any(state.up for state in backends):
            reasons += [f"backend {state.name}: {state.reason}" for state in backends]
        if not backends:
            reasons.append("no backend is configured")
        return Readiness(not reasons, tuple(reasons))

    def gauges(self) -> Gauges:
        """Numbers for `/metrics`."""
        now = self._clock.now()
        return Gauges(
            revision=self._controller.store_revision,
            weights=tuple(
                RouteWeight(name, arm.name, arm.version, arm.weight)
                for name, entry in self._controller.models.items()
                for arm in entry.serving.arms
            ),
            backends={state.name: state.up for state in self._controller.residents.backends.values()},
            registries=tuple(map(self._gauge, self._registries(now))),
            certificates=self._certificates.expiry if self._certificates else {},
            certificates_refused=self._certificates.refused if self._certificates else 0,
            shadows=tuple(self._comparisons()),
            writes=self._moving.counts(),
            webhooks=tuple(
                WebhookCount(*key, count) for key, count in self._controller.webhooks.results.items()
            ),
            writes_pending=self._moving.pending(),
        )


def _finished(counters: Counters) -> int:
    """Requests of clients that ended; copies for shadows are none."""
    shadows = {(one.model, one.version, one.shadow) for one in counters.shadows}
    return sum(sum(arm.codes) for arm in counters.arms if (arm.model, arm.version, arm.arm) not in shadows)


def _passed_over(ejected: EjectedCounters) -> Problem:
    """A backend that the data plane asks nothing for one version, with what it did and when that ends."""
    retry = f"tried again in {ejected.retry_ms / 1000:.1f} s" if ejected.retry_ms else "being tried again"
    return Problem(
        f"{ejected.model}/{ejected.version} on {ejected.backend}",
        f"passed over for {ejected.since_ms / 1000:.1f} s, {retry}: {ejected.reason}",
    )
