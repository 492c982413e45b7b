"""How long to wait before a registry is asked again. Pure."""

from __future__ import annotations

MOST_PAUSE = 60.0
"""Seconds; a registry that is away is asked at least this often."""

_SPREAD = 0.1
_REST = 0.5
_DOUBLINGS = 16


def pause(poll: float, failures: int, chance: float, took: float = 0.0) -> float:
    """Seconds until the next question.

    Args:
        poll: seconds between questions where all is well.
        failures: how often in a row nobody answered; each doubles the pause, up to a minute.
        chance: from 0 to 1, anew each time: gateways that were started together do not ask together.
        took: seconds that the last answer took. Questions begin `poll` apart, however slow the answers are,
            but whoever answers has half as long to rest at least.
    """
    longest = max(poll, MOST_PAUSE)
    waited = min(poll * 2.0 ** min(failures, _DOUBLINGS), longest)
    spread = waited * (1 - _SPREAD + 2 * _SPREAD * chance)
    return spread if failures else max(spread - took, min(took * _REST, spread))
