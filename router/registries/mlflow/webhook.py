"""Checks notices that MLflow posts, and says what they are about.

As of MLflow 3.3: `X-MLflow-Signature: v1,<base64 of HMAC-SHA256>` over `<delivery id>.<timestamp>.<body>`,
keyed by the secret as UTF-8, with `X-MLflow-Delivery-Id` and `X-MLflow-Timestamp` (unix seconds). MLflow
posts nothing about stages and about versions that are deleted, and drops what it could not deliver: a
notice is a hint.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.errors import InvalidName, NotSupported, WebhookRefused
from router.ports import Hint
from router.registries import told_json
from router.registries.mlflow.names import Names

MOST_AGE = 300.0
"""Seconds that a notice's own time may differ from ours."""

_MOST_REMEMBERED = 10_000
_LONGEST_ID = 200
_LONGEST_TIME = 15
_ALIAS = "model_version_alias"


class Inbox:
    """Remembers which deliveries came, for as long as their time would let them in again.

    Args:
        registry: its name, for messages.
        secret: that of the webhook in MLflow; None refuses all.
    """

    def __init__(self, registry: str, secret: Callable[[], str] | None, names: Names) -> None:
        self._registry = registry
        self._secret = secret
        self._names = names
        self._seen: dict[str, float] = {}

    def take(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """What a notice is about; nothing for what we do not serve.

        Raises:
            NotSupported: there is no secret to check it with.
            WebhookRefused: the signature, the time, or the body is wrong, or it came before.
            RegistryUnavailable: the secret cannot be read.
        """
        if self._secret is None:
            raise NotSupported(
                f"registry {self._registry!r} takes no webhooks", hint="give it a webhook_secret"
            )
        delivery = headers.get("x-mlflow-delivery-id", "")
        timestamp = headers.get("x-mlflow-timestamp", "")
        signed = headers.get("x-mlflow-signature", "")
        if not (delivery and timestamp and signed) or len(delivery) > _LONGEST_ID:
            raise self._refused("it is not signed")
        message = f"{delivery}.{timestamp}.".encode() + body
        wanted = base64.b64encode(hmac.new(self._secret().encode(), message, hashlib.sha256).digest())
        if not hmac.compare_digest(b"v1," + wanted, signed.encode()):
            raise self._refused("its signature is wrong")
        self._check_time(delivery, timestamp, now)
        return self._hints(body)

    def _check_time(self, delivery: str, timestamp: str, now: float) -> None:
        plain = timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONGEST_TIME
        if not plain or abs(int(timestamp) - now) > MOST_AGE:
            raise self._refused(f"its time is not within {MOST_AGE:.0f} s of ours")
        for old in [each for each, until in self._seen.items() if until < now]:
            del self._seen[old]
        if delivery in self._seen:
            raise self._refused("it came before")
        if len(self._seen) >= _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[delivery] = int(timestamp) + MOST_AGE

    def _hints(self, body: bytes) -> Sequence[Hint]:
        try:
            notice: Any = told_json.parse(body)
            entity, data = notice["entity"], notice["data"]
            name, alias = data["name"], data.get("alias")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._refused("its body is not MLflow's") from None
        if not isinstance(name, str) or not isinstance(alias, str | None):
            raise self._refused("its body is not MLflow's")
        try:
            model = self._names.logical(name)
        except InvalidName:
            return []
        if not self._names.takes(name):
            return []
        return [Hint(model, alias if entity == _ALIAS else None)]

    def _refused(self, why: str) -> WebhookRefused:
        return WebhookRefused(f"registry {self._registry!r}: a notice was refused: {why}")
