"""An MLflow that is down, slow, wrong or hostile: what was read goes on, and nobody is led elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from router.errors import RegistryUnavailable
from router.model import ModelName, VersionId
from router.ports import Hint, Unknown
from router.registries.mlflow import TYPE, MlflowRegistry, pages, reading, rest
from tests.fakes.mlflow import FakeMlflow
from tests.servers.between import Answer, Asked, Between, between

API = "/api/2.0/mlflow/"
DIGITS = ModelName("digits")
WRONG = {
    "500": Answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "database is locked"}'),
    "503 of a proxy": Answer(503, b"<html>no backend</html>"),
    "404 of a proxy": Answer(404, b"<html>no such host</html>"),
    "401": Answer(401, b"You are not authenticated."),
    "403": Answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'),
    "429": Answer(429, b""),
    "cut": Answer(200, b'{"registered_models": [', cut=True),
    "half a JSON": Answer(200, b'{"registered_models": [{"name": "dig'),
    "no JSON": Answer(200, b"<html>welcome</html>"),
    "no object": Answer(200, b"[]"),
    "another answer": Answer(200, b'{"experiments": []}'),
    "no list": Answer(200, b'{"registered_models": {"name": "digits"}, "model_versions": 7}'),
    "no name": Answer(200, b'{"registered_models": [{"name": 7}], "model_versions": [{"name": null}]}'),
    "nesting": Answer(200, b'{"registered_models": ' + b"[" * 200_000),
    "nothing": Answer(200, b"{}"),
    "redirect": Answer(302, b"", {"Location": "/elsewhere"}),
    "redirect to another host": Answer(307, b"", {"Location": "http://169.254.169.254/latest/meta-data"}),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("of", ["registered-models", "model-versions"])
async def test_a_wrong_answer_touches_nothing(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between, fault: str, of: str
) -> None:
    """RegistryUnavailable that names the registry; afterwards the very same view."""
    view = await registry.read()
    server.script = lambda asked: (
        WRONG[fault] if asked.path.startswith(f"{API}{of}/search") else fake.answer(asked)
    )
    with pytest.raises(RegistryUnavailable, match="'prod'") as problem:
        await registry.read()
    server.script = lambda asked: WRONG[fault] if asked.path.startswith(f"{API}{of}") else fake.answer(asked)
    with pytest.raises(RegistryUnavailable, match="'prod'"):
        await registry.read(Hint(DIGITS))
    server.script = fake.answer

    assert len(str(problem.value)) < 600
    assert await registry.read() is view


async def test_one_model_that_is_wrong_keeps_its_last_good_reading(
    registry: MlflowRegistry, fake: FakeMlflow
) -> None:
    """The others go on."""
    before = await registry.read()
    fake.models["digits"]["aliases"] = [{"alias": "champion", "version": "../1"}]
    fake.alias("wine", "champion", "1")
    view = await registry.read()

    assert view.models[DIGITS] is before.models[DIGITS]
    assert view.models[ModelName("wine")].aliases == {"champion": "1"}
    assert [problem.subject for problem in view.problems] == ["digits"]
    assert "its last good reading goes on" in view.problems[0].message


@pytest.mark.parametrize("where", ["nowhere", "silent", "dripping"])
async def test_a_server_that_hangs_is_given_up(where: str, fake: FakeMlflow) -> None:
    """In the time that a reading may take, even where a byte comes now and then."""
    never = threading.Event()
    with between() as server:
        server.script = lambda asked: Answer(body=b"{}", after=never)
        uri = server.uri
        if where == "dripping":
            server.script = lambda asked: Answer(body=b" " * 40, drip=0.05)
        if where == "nowhere":
            server.close()
        registry = TYPE.open("prod", {"uri": uri, "timeout": 0.3})
        with pytest.raises(RegistryUnavailable, match="'prod'"):
            await registry.read()
        never.set()


async def test_an_answer_that_does_not_end_is_given_up(
    registry: MlflowRegistry, server: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is in memory."""
    monkeypatch.setattr(rest, "LARGEST_ANSWER", 100_000)
    server.script = lambda _: Answer(body=b" " * 300_000)
    with pytest.raises(RegistryUnavailable, match="more than 100000 bytes"):
        await registry.read()


async def test_a_list_that_does_not_end_is_given_up(
    registry: MlflowRegistry, server: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may always tell of one more page."""
    monkeypatch.setattr("router.registries.mlflow.pages._MOST_PAGES", 3)
    server.script = lambda _: Answer(body=b'{"registered_models": [], "next_page_token": "more"}')
    with pytest.raises(RegistryUnavailable, match="does not end"):
        await registry.read()


async def test_what_is_away_is_asked_less_and_less_often(
    registry: MlflowRegistry, server: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again at once when it is back."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", note)
    server.script = lambda _: Answer(503)
    changes = registry.changes()
    for _ in range(3):
        await anext(changes)
        with pytest.raises(RegistryUnavailable):
            await registry.read()
    asking = [wait for wait in waits if wait > 0]

    assert asking[0] < asking[1] < asking[2]
    assert asking[2] > 15


async def test_secrets_are_sent_and_never_told(fake: FakeMlflow, server: Between) -> None:
    """Not even where the server repeats them."""
    asked: list[Asked] = []

    def telling(one: Asked) -> Answer:
        asked.append(one)
        said = json.dumps({"error_code": "X", "message": f"you said {one.headers['authorization']}"})
        return Answer(500, said.encode())

    server.script = telling
    options: list[tuple[dict[str, object], str]] = [
        ({"token": lambda: "hunter2"}, "Bearer hunter2"),
        ({"username": "ann", "password": lambda: "hunter2"}, "Basic YW5uOmh1bnRlcjI="),
    ]
    for secret, wanted in options:
        with pytest.raises(RegistryUnavailable) as problem:
            await TYPE.open("prod", {"uri": server.uri, **secret}).read()
        assert asked[-1].headers["authorization"] == wanted
        assert "hunter2" not in str(problem.value)
        assert wanted.split()[1] not in str(problem.value)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("ftp://mlflow", "not http or https"),
        ("http://user:secret@mlflow:5000", "user name or password"),
        ("mlflow:5000", "no host name"),
        ("http://2852039166/", "unusual form"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(uri: str, why: str) -> None:
    """By the check of the option, whose message has the reason."""
    check: Callable[[object], None] | None = TYPE.options[0].check
    assert check is not None
    with pytest.raises(ValueError, match=why):
        check(uri)


def _metric(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda run: run["data"].__setitem__("metrics", [{"key": "accuracy", "value": value}])


@pytest.mark.parametrize(
    "spoil",
    [
        _metric(10**400),
        _metric(float("nan")),
        _metric([]),
        lambda run: run["info"].__setitem__("status", []),
        lambda run: run["info"].__setitem__("status", {"a": 1}),
        lambda run: run["info"].__setitem__("artifact_uri", 10**400),
        lambda run: run["data"].__setitem__("metrics", [{"key": "x" * 1_000_000, "value": 1}]),
    ],
)
async def test_a_run_that_holds_anything_stops_no_reading(
    registry: MlflowRegistry, fake: FakeMlflow, spoil: Callable[[dict[str, Any]], None]
) -> None:
    """Numbers that are no float, lists where there is a word: people log what they like."""
    spoil(fake.runs["digits-1"])
    models = (await registry.read()).models

    assert set(models) == {"digits", "wine"}
    assert set(models[DIGITS].versions[VersionId("1")].metrics.values()) <= {0.51}
    assert models[DIGITS].versions[VersionId("2")].metrics == {"accuracy": 0.52}


async def test_half_a_character_is_told_as_one_that_nobody_knows(
    registry: MlflowRegistry, fake: FakeMlflow
) -> None:
    """JSON may hold half a surrogate pair; the table, the state and the answers of commands cannot."""
    half = "\ud83d"
    fake.versions[0] |= {"description": f"a{half}", "current_stage": half, "status_message": half}
    fake.versions[0]["tags"] = [{"key": half, "value": half}, {"key": "face", "value": "\U0001f600"}]
    fake.runs["digits-1"]["data"]["tags"] = [{"key": "mlflow.user", "value": half}]
    view = await registry.read()

    repr(view.models[DIGITS].versions).encode()
    "".join(view.models[DIGITS].stages).encode()
    version = view.models[DIGITS].versions[VersionId("1")]
    assert version.lineage["description"] == "a\ufffd"
    assert version.tags == {"\ufffd": "\ufffd", "face": "\U0001f600"}


async def test_an_answer_without_its_version_is_not_known(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between
) -> None:
    """`get` never raises."""
    await registry.read()
    server.script = lambda asked: (
        Answer(200, b"{}") if "model-versions/get" in asked.path else fake.answer(asked)
    )
    assert isinstance(await registry.get(DIGITS, VersionId("1")), Unknown)


async def test_pages_that_fill_the_memory_are_given_up(
    registry: MlflowRegistry, server: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page may be large; all of them together may not."""
    monkeypatch.setattr(pages, "_MOST_BYTES", 3 << 20)
    model = {"name": "digits", "description": "x" * (1 << 20)}
    page = json.dumps({"registered_models": [model], "next_page_token": "more"}).encode()
    server.script = lambda asked: Answer(200, page)
    with pytest.raises(RegistryUnavailable, match="does not end"):
        await registry.read()
    assert len(server.asked) == 3


async def test_versions_of_one_model_that_do_not_end_are_given_up(
    registry: MlflowRegistry, fake: FakeMlflow, server: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that leads back to where it came from."""
    monkeypatch.setattr(reading, "_MOST_PAGES", 9)
    await registry.read()
    server.asked.clear()
    again = Answer(200, b'{"model_versions": [], "next_page_token": "again"}')
    server.script = lambda asked: again if "model-versions/search" in asked.path else fake.answer(asked)
    with pytest.raises(RegistryUnavailable, match="does not end"):
        await registry.read(Hint(DIGITS))
    assert len(server.asked) == 10
