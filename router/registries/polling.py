"""How long to wait before a registry is asked again. Pure."""

from __future__ import annotations

MOST_PAUSE = 60.0
"""Seconds; a registry that is away is asked at least this often."""

_SPREAD = 0.1
_DOUBLINGS = 16


def pause(poll: float, failures: int, chance: float) -> float:
    """Seconds until the next question.

    Args:
        poll: seconds between questions where all is well.
        failures: how often in a row nobody answered; each doubles the pause, up to a minute.
        chance: from 0 to 1, anew each time: gateways that were started together do not ask together.
    """
    longest = max(poll, MOST_PAUSE)
    waited = min(poll * 2.0 ** min(failures, _DOUBLINGS), longest)
    return waited * (1 - _SPREAD + 2 * _SPREAD * chance)
