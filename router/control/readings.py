"""What is known of a registry, put together from readings that may overtake each other. Pure.

A reading of everything may take seconds. Meanwhile a notice says that one model changed, and a reading for
that model alone begins later and ends sooner. Neither may undo what the other knows better: for each model
the reading that *began* last holds.
"""

from __future__ import annotations

from dataclasses import replace

from router.control.losses import LOSS_WINDOW, Loss, weigh, weigh_pointers
from router.model import ModelName, RegistryView
from router.ports import Hint

AGE_ALLOWED = 30.0
"""Seconds that a last good reading may be old at least before people are told."""

POLLS_ALLOWED = 3
"""Polls that may fail before people are told."""


def age_allowed(poll: float | None) -> float:
    """Seconds from which on a last good reading is old; `poll` is how often it is read, if that is set."""
    return max(AGE_ALLOWED, POLLS_ALLOWED * (poll or 0.0))


class Readings:
    """Readings of one registry, in the order of their beginnings.

    Args:
        view: what an adapter before this one read last.

    Attributes:
        view: what is believed; None before the first reading.
        loss: models that the last reading lost and `view` still has, because so many are missing.
        unpointed: the same of stages and aliases.
    """

    def __init__(self, view: RegistryView | None = None) -> None:
        self.view = view
        self.loss: Loss | None = None
        self.unpointed: Loss | None = None
        self._certain = view is not None
        self._begun = 0
        self._whole = 0
        self._each: dict[ModelName, int] = {}

    @property
    def losses(self) -> tuple[Loss, ...]:
        """All that is not believed now."""
        return tuple(loss for loss in (self.loss, self.unpointed) if loss is not None)

    @property
    def whole(self) -> bool:
        """Whether everything was read at least once."""
        return self._whole > 0

    def recall(self, view: RegistryView) -> bool:
        """Take what was kept from an earlier process, where nothing is known; whether it is taken.

        It is not held against the first reading: who starts anew gets what is there.
        """
        if self.view is None:
            self.view = view
            return True
        return False

    def begin(self) -> int:
        """A reading begins; gives what is to be told when it ends well."""
        self._begun += 1
        return self._begun

    def take(
        self, begun: int, hint: Hint, view: RegistryView, at: float = 0.0, window: float = LOSS_WINDOW
    ) -> bool:
        """Take what a reading found; whether anything is known now that was not before.

        Args:
            begun: what `begin` gave.
            hint: what it was about.
            view: what it found, whole; where it was about one model, only that is looked at.
            at: when it ended, in monotonic seconds.
            window: seconds for which a loss of most models is not believed.
        """
        before = self.view
        if hint.model is None or before is None:
            if begun > self._whole:
                told = self._but_newer(begun, view)
                known = before if self._certain else None
                view, self.loss = weigh(known, told, self.loss, at, window)
                self.view, self.unpointed = weigh_pointers(known, view, self.unpointed, at, window)
                self._certain = True
                self._whole = begun
        elif begun > max(self._whole, self._each.get(hint.model, 0)):
            self._each[hint.model] = begun
            self.view = _with_hinted(before, view, hint.model, hint.alias)
        if self.view != before:
            return True
        self.view = before  # of equal ones the first is kept: what follows from it is then the very same
        return False

    def _but_newer(self, begun: int, view: RegistryView) -> RegistryView:
        """A reading of everything, but for models of which a reading that began later told."""
        self._each = {model: number for model, number in self._each.items() if number > begun}
        for model in self._each:
            if self.view is not None:
                view = _with_model(view, self.view, model)
        return view


def _with_model(into: RegistryView, of: RegistryView, model: ModelName) -> RegistryView:
    """A view with one model, and what is wrong with it, as another view has it."""
    here, there = into.models.get(model), of.models.get(model)
    ours = tuple(problem for problem in into.problems if _is_about(problem.subject, model))
    theirs = tuple(problem for problem in of.problems if _is_about(problem.subject, model))
    if here == there and ours == theirs:
        return into
    models = dict(into.models)
    if there is None:
        models.pop(model, None)
    else:
        models[model] = there
    kept = tuple(problem for problem in into.problems if problem not in ours)
    return replace(into, models=models, problems=(*kept, *theirs))


def _with_hinted(into: RegistryView, of: RegistryView, model: ModelName, alias: str | None) -> RegistryView:
    """A view with what another tells of a model, or only of one alias of it.

    What was not asked for is what the adapter knew before: that may be older than what is known here.
    """
    here, there = into.models.get(model), of.models.get(model)
    if alias is None or here is None or there is None:
        return _with_model(into, of, model)
    aliases = {name: to for name, to in here.aliases.items() if name != alias}
    target = there.aliases.get(alias)
    if target is not None:
        aliases[alias] = target
    known = target is None or target in here.versions or target not in there.versions
    versions = here.versions if known else there.versions
    if aliases == here.aliases and versions is here.versions:
        return into
    models = dict(into.models)
    models[model] = replace(here, aliases=aliases, versions=versions)
    return replace(into, models=models)


def _is_about(subject: str, model: ModelName) -> bool:
    """Whether a problem is one of this model: its name, or `MODEL/VERSION`."""
    return subject == model or subject.startswith(f"{model}/")
