"""Models that a registry lost so many of at once that it is not believed at first. Pure.

A folder that is not mounted, a bucket that is another one, a database that began anew: all answer well, and
say that there is nothing. What is served must not go by that, as it would not where nobody answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from router.model import ModelName, RegistryView

LOSS_WINDOW = 3_600.0
"""Default seconds for which models go on that a registry lost more than half of at once."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Loss:
    """What a registry lost, and is not believed yet.

    Attributes:
        since: when the first reading without them ended, in monotonic seconds.
        models: what it had and has no more, or not with any version.
        of: how many it had.
    """

    since: float
    models: tuple[ModelName, ...]
    of: int

    def told(self, now: float, window: float) -> str:
        """It, for people."""
        some = ", ".join(self.models[:_NAMED])
        more = f" and {len(self.models) - _NAMED} more" if len(self.models) > _NAMED else ""
        left = max(0.0, self.since + window - now)
        until = "only" if left == float("inf") else f"in {left:.0f} s, or at once"
        return (
            f"lost {len(self.models)} of {self.of} models at once ({some}{more}); they go on as they were; "
            f"believed {until} with `residency.loss_window: 0s` and a reload"
        )


def weigh(
    before: RegistryView | None, now: RegistryView, known: Loss | None, at: float, window: float
) -> tuple[RegistryView, Loss | None]:
    """What is to be believed of a reading, and what it lost that is not.

    More than half of the models must be gone: a few that were deleted, or all versions of one, are what
    somebody did. What it still tells, and tells anew, counts at once.

    Args:
        before: what was believed until now, with what was kept; None before the first reading.
        known: what was lost until now and is not believed.
        at: monotonic seconds.
        window: seconds for which a loss is not believed.
    """
    had = [name for name, model in before.models.items() if model.versions] if before else []
    gone = tuple(name for name in had if name not in now.models or not now.models[name].versions)
    if before is None or len(gone) * 2 <= len(had):
        return now, None
    loss = Loss(at if known is None else known.since, gone, len(had))
    if at - loss.since >= window:
        return now, None
    models = {**now.models, **{name: before.models[name] for name in gone}}
    return replace(now, models=models), loss
