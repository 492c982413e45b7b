"""Two gateways on one real Triton: what clients of one use is not unloaded by the other."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from router.backends.process import TritonOptions, TritonProcess
from router.backends.wheel import find_triton
from router.errors import NotSupported
from tests.e2e.conftest import UP, Gateway, start_gateway, wait_until
from tests.e2e.load import SteadyLoad
from tests.e2e.test_registry_moves import forget_aliases, image_input

IDLE = "residency: {idle_unload: 2s, rollback_window: 0s}\n"


def state(gateway: Gateway, version: str) -> str:
    """Of a version of digits, as the gateway tells it."""
    rows = gateway.json("versions", "digits")["versions"]
    return str(next(row["state"] for row in rows if row["version"] == version))


async def test_what_clients_of_another_gateway_ask_for_stays(models: Path, tmp_path: Path) -> None:
    """Far longer than it is idle for the gateway that loaded it; when nobody asks any more it goes, once."""
    try:
        install = find_triton()
    except NotSupported as reason:
        pytest.skip(str(reason))
    forget_aliases(models, "digits")
    gateways: list[Gateway] = []
    async with TritonProcess(install, TritonOptions("t0", tmp_path / "shared", tmp_path / "work")) as process:
        place = f'grpc: "{process.backend().grpc}", control: explicit, repository: {tmp_path / "shared"}'
        try:
            for name in ("one", "other"):
                folder = tmp_path / name
                folder.mkdir()
                body = UP.replace("./models", str(models)) + IDLE + f"backends: [{{name: t0, {place}}}]\n"
                gateways.append(start_gateway(folder, "gateway", body, models))
            one, other = gateways
            name = image_input(one)
            with SteadyLoad(one.inference, name, "1", threads=1) as load:
                wait_until(
                    "the one has it loaded, and the other knows", lambda: state(other, "1") == "ready", 60
                )
            with SteadyLoad(other.inference, name, "1", threads=1) as load:
                await asyncio.sleep(6)
            wait_until("it goes", lambda: "digits 1: unloaded from t0" in one.said(), 60)
            said = [gateway.said() for gateway in gateways]
        finally:
            for gateway in gateways:
                gateway.stop(signal.SIGKILL)

    assert load.failures == []
    assert len(load.versions) > 100
    assert [text.count("digits 1: loading on t0") for text in said] == [1, 0]
    assert [text.count("digits 1: unloaded from t0") for text in said] == [1, 0]
    assert "others use it on t0" in said[0]
