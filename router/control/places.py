"""Where versions are: under which name in Triton, on which backends, and why nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from router.control.catalog import Seat, brought_seat
from router.control.residents import Key, Residents
from router.model import RegisteredModel, TritonName, Version
from router.ports import Clock
from router.traffic.compile import VersionPlacement


class Places:
    """Answers from what is known of the backends."""

    def __init__(
        self, residents: Residents, clock: Clock, triton_name: Callable[[Version], TritonName]
    ) -> None:
        """`triton_name`: the name, unique to a version and its files, under which it is loaded."""
        self._residents = residents
        self._clock = clock
        self._triton_name = triton_name

    def seat(self, version: Version) -> Seat:
        """Triton's name and version for a version."""
        if not version.artifact:
            return brought_seat(version.model, version.version)
        name = self._triton_name(version)
        self._residents.seats[name] = (version.model, version.version)
        return Seat(name, "1")

    def names(self, versions: Iterable[Version]) -> set[TritonName]:
        """Triton's names for those of these versions that have files."""
        return {self._triton_name(version) for version in versions if version.artifact}

    def placement(self, model: RegisteredModel, version: Version) -> VersionPlacement:
        """Where a version of a logical model is, for the table."""
        key = (model.name, version.version)
        seat = self.seat(version)
        holders = self._residents.holders(seat)
        if holders:
            capacity = self._residents.capacity(seat, holders)
            return VersionPlacement("ready", tuple(map(str, holders)), seat.name, seat.version, "", capacity)
        reason = self._why_not(key, version)
        state = "failed" if reason else "cold"
        return VersionPlacement(state, (), seat.name, seat.version, reason)

    def _why_not(self, key: Key, version: Version) -> str:
        """Why a version that is nowhere ready cannot be loaded by asking; "" where it can."""
        if version.unusable:
            return version.unusable
        if not version.artifact:
            return f"no backend has model '{key[0]}' version '{key[1]}' ready"
        if not any(state.loads_for_us for state in self._residents.backends.values()):
            return "no backend here loads models; give one `control: explicit` and its `repository`"
        now = self._clock.now()
        failure = self._residents.failures.get(key)
        if key in self._residents.loading:
            return ""
        if failure is not None and now < failure.retry_at:
            return failure.reason
        answering = [b.name for b in self._residents.backends.values() if b.up and b.loads_for_us]
        return self._residents.faults.refusal(key, answering, now)
