"""Who gets which arm, and who stays where: keys, rules and sequences, with real clients and a real Triton."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import ROOT, UP, Gateway, start_gateway, wait_until

MODEL = "accumulate"
USERS = 200
RULE = '{when: {header: {x-team: risk}, parameter: {tier: "7"}}, arm: canary}'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`stagegate up` on two versions of a model that sums up the numbers of a sequence."""
    folder = tmp_path_factory.mktemp("assignment")
    for version in ("1", "2"):
        copied = folder / "models" / MODEL / version
        shutil.copytree(
            ROOT / "tests/e2e/models" / MODEL, copied / "files", ignore=shutil.ignore_patterns("__pycache__")
        )
        (copied / "version.yaml").write_text("format: python\nartifact: files\n")
    running = start_gateway(folder, "up", UP, folder / "models")
    yield running
    running.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    """A stock client on a connection of its own."""
    with gateway.client() as made:
        yield made


def split(gateway: Gateway, stable: float, canary: float, more: str = "") -> None:
    """Set the route, and wait until it is in force."""
    file = gateway.folder / "route.yaml"
    file.write_text(
        f"model: {MODEL}\narms:\n  - {{name: stable, version: '1', weight: {stable}}}\n"
        f"  - {{name: canary, version: '2', weight: {canary}}}\n{more}"
    )
    gateway.cli("route", "apply", str(file))
    wanted = {"stable": stable, "canary": canary}

    def in_force() -> bool:
        view = gateway.json("route", "get", MODEL)
        return {arm["name"]: arm["served_weight"] for arm in view["arms"]} == wanted

    wait_until("the split is in force", in_force)


def step(
    client: triton.InferenceServerClient, x: int, headers: Mapping[str, str] | None = None, **more: Any
) -> tuple[str, int]:
    """One number: the version that answered, and its sum."""
    tensor = triton.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[x]], np.int32))
    answer = client.infer(MODEL, [tensor], headers=headers, **more)
    return answer.get_response().model_version, int(answer.as_numpy("sum")[0, 0])


def one(client: triton.InferenceServerClient, **more: Any) -> str:
    """The version that answers a sequence of one request."""
    return step(client, 1, sequence_id=999, sequence_start=True, sequence_end=True, **more)[0]


def versions_of_users(client: triton.InferenceServerClient, users: Iterable[int]) -> list[str]:
    """The version that answers each user."""
    return [one(client, headers={"x-user-id": f"user-{number}"}) for number in users]


def test_users_keep_their_version_and_a_raised_weight_moves_the_fewest(
    gateway: Gateway, client: triton.InferenceServerClient
) -> None:
    """90/10, then 80/20, then back: nobody but the surplus moves, and all come home."""
    sticky = 'sticky: {by: "header:X-User-Id"}\n'
    split(gateway, 90, 10, sticky)
    before = versions_of_users(client, range(USERS))
    split(gateway, 80, 20, sticky)
    raised = versions_of_users(client, range(USERS))
    split(gateway, 90, 10, sticky)
    moved = [user for user in range(USERS) if before[user] != raised[user]]
    again = versions_of_users(client, moved)

    assert {raised[user] for user in moved} == {"2"}
    assert again == ["1"] * len(moved)
    # Four standard errors of the expected shares.
    assert abs(before.count("2") - 20) <= 17
    assert abs(raised.count("2") - 40) <= 23


def test_what_decides_is_told_before_anything_is_sent(
    gateway: Gateway, client: triton.InferenceServerClient
) -> None:
    """`resolve` and a request meet the same rule, the same bucket and the same forced arm."""
    split(gateway, 50, 50, f"match: [{RULE}]\nsticky: {{by: 'parameter:user'}}\narm_header: true\n")
    team = {"x-team": "risk"}

    rule = gateway.json("resolve", MODEL, "--header", "X-Team=risk", "--parameter", "tier=7")
    keys = [gateway.json("resolve", MODEL, "--parameter", f"user={number}") for number in range(2)]
    forced = gateway.json("resolve", MODEL, "--header", "stagegate-arm=canary")

    assert (rule["version"], rule["decided_by"], rule["rule"]) == ("2", "rule", 0)
    assert one(client, headers=team, parameters={"tier": 7}) == "2"
    for number, key in enumerate(keys):
        assert key["decided_by"] == "bucket"
        assert one(client, parameters={"user": number}) == key["version"]
        assert one(client, headers={"stagegate-key": str(number)}) == key["version"]
    assert (forced["version"], forced["decided_by"]) == ("2", "forced")
    assert one(client, headers={"stagegate-arm": "stable", **team}, parameters={"tier": 7}) == "1"
    with pytest.raises(InferenceServerException, match=r"has no arm 'blue'.*there are stable, canary"):
        one(client, headers={"stagegate-arm": "blue"})


def test_sequences_stay_on_their_version_while_the_weights_turn(
    gateway: Gateway, client: triton.InferenceServerClient
) -> None:
    """Unary from two connections and a stream; the sums prove that no step went elsewhere."""
    split(gateway, 100, 0)
    assert step(client, 1, sequence_id=7, sequence_start=True) == ("1", 1)
    split(gateway, 0, 100)

    with gateway.client() as other:
        assert step(other, 2, sequence_id=7) == ("1", 3)
        assert step(other, 100, sequence_id="7", sequence_start=True) == ("2", 100)
    assert streamed(client, [(3, {}), (4, {"sequence_end": True})], sequence_id=7) == [("1", 6), ("1", 10)]
    assert "stagegate_open_sequences" in gateway.http("/metrics")[1]
    assert step(client, 5, sequence_id="7", sequence_end=True) == ("2", 105)
    with pytest.raises(InferenceServerException, match=r"sequence 7 .* must specify the START flag"):
        step(client, 1, sequence_id=7)


def streamed(
    client: triton.InferenceServerClient, numbers: list[tuple[int, dict[str, bool]]], sequence_id: int
) -> list[tuple[str, int]]:
    """The same over one stream."""
    answers: list[Any] = []
    client.start_stream(callback=lambda result, error: answers.append(error or result))
    for x, more in numbers:
        tensor = triton.InferInput("x", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.array([[x]], np.int32))
        client.async_stream_infer(MODEL, [tensor], sequence_id=sequence_id, **more)
    client.stop_stream()
    return [(answer.get_response().model_version, int(answer.as_numpy("sum")[0, 0])) for answer in answers]
