"""Time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time, injected so that tests need not wait."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def unix(self) -> float:
        """Unix seconds."""
        ...
