"""Notices that registries post: checked by the adapter, answered, and what they are about is read at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from router.control.reader import RegistryReader
from router.errors import NotSupported, Unavailable, WebhookRefused
from router.ports import Clock, WebhookArrived

LOG = logging.getLogger("stagegate.control")

UNKNOWN = "_unknown"
"""Under which notices for registries that there are not are counted; nothing that is sent becomes a name."""

TAKEN = "taken"
REFUSED = "refused"
UNSUPPORTED = "unsupported"
FAILED = "failed"

TELL_SECONDS = 60.0
"""How often refused notices of one registry are told in the log; the counter has all of them."""

_OK, _UNAUTHORIZED, _NOT_FOUND, _BROKEN, _LATER = 200, 401, 404, 500, 503


class Answer(Protocol):
    """Answers a notice by its number."""

    def __call__(self, notice: int, status: int, text: str) -> bool:
        """Whether its sender still waited."""
        ...


class Webhooks:
    """Takes notices for the registries that are followed now."""

    def __init__(
        self, readers: Callable[[], Mapping[str, RegistryReader]], clock: Clock, answer: Answer
    ) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        """How many notices came, by registry and what came of them."""
        self._readers = readers
        self._clock = clock
        self._answer = answer
        self._told: dict[str, float] = {}

    def take(self, notice: WebhookArrived) -> None:
        """Check a notice, begin to read what it is about, and answer it."""
        reader = self._readers().get(notice.registry)
        if reader is None:
            self._end(notice, UNKNOWN, UNSUPPORTED, _NOT_FOUND, "no registry of that name takes notices")
            return
        name = reader.state.registry.name
        try:
            hints = reader.state.registry.webhook(notice.headers, notice.body, self._clock.unix())
        except NotSupported as problem:
            self._end(notice, name, UNSUPPORTED, _NOT_FOUND, problem.message)
        except WebhookRefused as problem:
            self._tell(name, problem.message)
            self._end(notice, name, REFUSED, _UNAUTHORIZED, problem.message)
        except Unavailable as problem:  # such as a secret that cannot be read now
            self._tell(name, str(problem))
            self._end(notice, name, FAILED, _LATER, "notices cannot be checked now")
        except Exception:  # a broken adapter must not take the others down
            LOG.exception("registry %s: a notice could not be checked", name)
            self._end(notice, name, FAILED, _BROKEN, "internal error")
        else:
            for hint in dict.fromkeys(hints):
                reader.notice(hint)
            self._end(notice, name, TAKEN, _OK, "")

    def _end(self, notice: WebhookArrived, registry: str, result: str, status: int, text: str) -> None:
        self.results[registry, result] += 1
        self._answer(notice.id, status, text)

    def _tell(self, registry: str, why: str) -> None:
        now = self._clock.now()
        if now - self._told.get(registry, float("-inf")) >= TELL_SECONDS:
            self._told[registry] = now
            LOG.warning("registry %s: a notice is refused: %s", registry, why)
