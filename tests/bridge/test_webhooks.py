"""Notices of registries: from the HTTP port to an event, and an answer back."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator

import pytest

from gateway.bridge import DataPlane, Settings
from router.ports import WebhookArrived

BODY = b'{"entity": "model_version_alias"}'


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    """A data plane with the REST port."""
    plane = DataPlane(Settings(http_host="127.0.0.1"))
    yield plane
    plane.stop()


def post(plane: DataPlane, path: str) -> tuple[int, object]:
    """Status and body of the answer to a notice."""
    connection = http.client.HTTPConnection("127.0.0.1", plane.http_port, timeout=10)
    connection.request("POST", path, body=BODY, headers={"X-MLflow-Signature": "v1,abc"})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


async def arrived(plane: DataPlane) -> WebhookArrived:
    """The next event, which must be a notice."""
    (event,) = await asyncio.wait_for(plane.events(), timeout=10)
    assert isinstance(event, WebhookArrived)
    return event


async def test_a_notice_is_an_event_and_waits_for_its_answer(plane: DataPlane) -> None:
    """It has the name of the registry, the headers and the body as they were sent."""
    posted = asyncio.create_task(asyncio.to_thread(post, plane, "/webhooks/mlflow-1"))

    notice = await arrived(plane)

    assert notice.registry == "mlflow-1"
    assert notice.headers["x-mlflow-signature"] == "v1,abc"
    assert notice.body == BODY
    assert "abc" not in repr(notice)
    assert plane.answer_webhook(notice.id, 401, "who are you?")
    assert await posted == (401, {"error": "who are you?"})
    assert not plane.answer_webhook(notice.id, 200, "")


async def test_an_answer_without_a_text_is_an_empty_object(plane: DataPlane) -> None:
    """Senders read the status."""
    posted = asyncio.create_task(asyncio.to_thread(post, plane, "/webhooks/m"))

    notice = await arrived(plane)

    assert plane.answer_webhook(notice.id, 200, "")
    assert await posted == (200, {})


@pytest.mark.parametrize("status", [0, 100, 600, 999])
def test_an_answer_has_a_status_of_an_answer(plane: DataPlane, status: int) -> None:
    """Others are the caller's mistake."""
    with pytest.raises(ValueError, match=f"{status} is no status"):
        plane.answer_webhook(1, status, "")
