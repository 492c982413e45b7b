"""The memory of failed loads: when to try again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failed load of a version.

    Attributes:
        reason: what the backend or the artifact said.
        attempts: failed loads in a row, this one included.
        retry_at: monotonic seconds before which no load is tried.
    """

    reason: str
    attempts: int
    retry_at: float


def after_failure(before: Failure | None, reason: str, now: float) -> Failure:
    """Remember one more failed load; the wait doubles from one second to sixty."""
    attempts = before.attempts + 1 if before else 1
    # Bounded before the power: a version that fails for weeks must not overflow a float.
    doublings = min(attempts - 1, 16)
    return Failure(reason, attempts, now + min(LONGEST_WAIT, FIRST_WAIT * 2.0**doublings))
