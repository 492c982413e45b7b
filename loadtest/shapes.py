"""How many users there are at which second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from locust import LoadTestShape


@dataclass(frozen=True, slots=True)
class Step:
    """So many users until `until` seconds after the start; they come and go at `rate` a second."""

    until: float
    users: int
    rate: float


PLANS: Mapping[str, tuple[Step, ...]] = {
    "steady": (Step(60, 20, 10),),
    "ramp": (Step(20, 10, 10), Step(40, 25, 10), Step(60, 50, 10), Step(80, 100, 20)),
    "spike": (Step(20, 10, 10), Step(30, 100, 100), Step(60, 10, 100)),
    "smoke": (Step(8, 5, 5),),
}


def users_at(plan: tuple[Step, ...], seconds: float) -> tuple[int, float] | None:
    """Users and their rate of change at that second; None when the plan is over."""
    for step in plan:
        if seconds < step.until:
            return step.users, step.rate
    return None


class PlannedLoad(LoadTestShape):
    """The plan that `--plan` names."""

    plans: ClassVar[Mapping[str, tuple[Step, ...]]] = PLANS

    def tick(self) -> tuple[int, float] | None:
        """What locust asks every second."""
        options = self.runner.environment.parsed_options if self.runner else None
        plan = options.plan if options else "steady"
        seconds: float = self.get_run_time()  # type: ignore[no-untyped-call]
        return users_at(self.plans[plan], seconds)
