"""The real clock; tests inject their own."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `router.ports.Clock` on the machine's clocks."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def unix(self) -> float:
        """Unix seconds."""
        return time.time()
