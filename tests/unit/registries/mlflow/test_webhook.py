"""Notices of MLflow: signature, time, replay, and what they are about."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

import pytest

from router.errors import NotSupported, WebhookRefused
from router.ports import Capability, Hint
from router.registries.mlflow import TYPE, webhook
from router.registries.mlflow.names import Names
from router.registries.mlflow.webhook import Inbox

NOW = 1_800_000_000.0
LONG = "000001800000000" + "9" * 5_000
SECRET = "pässword"  # noqa: S105 - of these tests
NAMES = Names({"fraud": "team/fraud"}, ("digits", "team/*", "wine red"))


def notice(
    entity: str = "model_version_alias",
    *,
    name: object = "digits",
    delivery: str = "d1",
    at: str = "1800000000",
    secret: str = SECRET,
    **data: object,
) -> tuple[Mapping[str, str], bytes]:
    """What MLflow posts: headers and body."""
    body = json.dumps(
        {"entity": entity, "action": "created", "timestamp": "", "data": {"name": name, **data}}
    )
    signed = hmac.new(secret.encode(), f"{delivery}.{at}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "x-mlflow-signature": f"v1,{base64.b64encode(signed).decode()}",
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": at,
    }
    return headers, body.encode()


@pytest.fixture
def inbox() -> Inbox:
    """One that knows the secret."""
    return Inbox("prod", lambda: SECRET, NAMES)


def test_an_alias_is_a_hint_about_that_alias(inbox: Inbox) -> None:
    """Created or deleted."""
    assert inbox.take(*notice(alias="champion", version="3"), NOW) == [Hint("digits", "champion")]  # type: ignore[arg-type]


@pytest.mark.parametrize("entity", ["registered_model", "model_version", "model_version_tag"])
def test_anything_else_is_a_hint_about_its_model(inbox: Inbox, entity: str) -> None:
    """Whatever else its data hold."""
    assert inbox.take(*notice(entity, key="a", value="b"), NOW) == [Hint("digits")]  # type: ignore[arg-type]


def test_names_are_those_that_clients_use(inbox: Inbox) -> None:
    """And what is not served is nothing to read for."""
    assert inbox.take(*notice(name="team/fraud", delivery="a"), NOW)[0].model == "fraud"
    assert inbox.take(*notice(name="wine red", delivery="b"), NOW) == []
    assert inbox.take(*notice(name="iris", delivery="c"), NOW) == []


@pytest.mark.parametrize(
    "at",
    [
        "1799999699",
        "1800000301",
        "0",
        "-1800000000",
        "1.8e9",
        "18000000000000000000",
        f"000001800000000{'9' * 5_000}",
    ],
)
def test_an_old_or_future_notice_is_refused(inbox: Inbox, at: str) -> None:
    """More than five minutes."""
    with pytest.raises(WebhookRefused, match="its time is not within 300 s of ours"):
        inbox.take(*notice(at=at), NOW)


def test_a_notice_comes_once(inbox: Inbox) -> None:
    """As long as its time would let it in, and from our clock's past and future alike."""
    early = notice(at="1800000299")
    inbox.take(*early, NOW)
    with pytest.raises(WebhookRefused, match="it came before"):
        inbox.take(*early, NOW + 598)
    with pytest.raises(WebhookRefused, match="its time is not within"):
        inbox.take(*early, NOW + 600)


def test_memory_is_bounded(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and what is too old anyway."""
    monkeypatch.setattr(webhook, "_MOST_REMEMBERED", 3)
    for number in range(5):
        inbox.take(*notice(delivery=f"d{number}"), NOW)
    assert list(inbox._seen) == ["d2", "d3", "d4"]
    inbox.take(*notice(delivery="later", at="1800000400"), NOW + 400)
    assert list(inbox._seen) == ["later"]


def test_a_wrong_signature_is_refused_and_not_remembered(inbox: Inbox) -> None:
    """Whichever part of what is signed was changed."""
    headers, body = notice()
    wrong = [
        notice(secret="other"),  # noqa: S106 - of this test
        ({**headers, "x-mlflow-delivery-id": "d2"}, body),
        ({**headers, "x-mlflow-timestamp": "1800000001"}, body),
        (headers, body.replace(b"digits", b"wine")),
        ({**headers, "x-mlflow-signature": headers["x-mlflow-signature"].replace("v1,", "v2,")}, body),
        ({**headers, "x-mlflow-signature": "v1,ä"}, body),
    ]
    for changed_headers, changed_body in wrong:
        with pytest.raises(WebhookRefused, match="its signature is wrong"):
            inbox.take(changed_headers, changed_body, NOW)

    assert inbox.take(headers, body, NOW)


@pytest.mark.parametrize("missing", ["x-mlflow-signature", "x-mlflow-delivery-id", "x-mlflow-timestamp"])
def test_a_notice_without_signature_id_or_time_is_refused(inbox: Inbox, missing: str) -> None:
    """MLflow sends none of them for a webhook without a secret."""
    headers, body = notice()
    with pytest.raises(WebhookRefused, match="it is not signed"):
        inbox.take({name: value for name, value in headers.items() if name != missing}, body, NOW)


@pytest.mark.parametrize("name", [None, 7, ["digits"]])
def test_a_body_that_is_not_mlflows_is_refused(inbox: Inbox, name: object) -> None:
    """Though it is signed."""
    with pytest.raises(WebhookRefused, match="its body is not MLflow's"):
        inbox.take(*notice(name=name), NOW)


def test_without_a_secret_there_are_no_webhooks() -> None:
    """Nothing could tell MLflow from anybody else."""
    registry = TYPE.open("prod", {"uri": "http://127.0.0.1:1"})
    with_secret = TYPE.open("prod", {"uri": "http://127.0.0.1:1", "webhook_secret": lambda: SECRET})

    assert Capability.WEBHOOKS not in registry.capabilities
    assert Capability.WEBHOOKS in with_secret.capabilities
    with pytest.raises(NotSupported, match="webhook_secret"):
        registry.webhook(*notice(), NOW)
    assert with_secret.webhook(*notice(), NOW)
