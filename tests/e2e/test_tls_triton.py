"""A real Triton that speaks TLS by its own flags, and demands a certificate of the gateway."""

from __future__ import annotations

import asyncio
import shutil
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
import tritonclient.grpc as triton

from router.backends.process import TritonOptions, TritonProcess
from router.backends.wheel import find_triton
from tests.e2e.conftest import start_gateway, wait_until
from tests.e2e.pki import Authority, Pair

MODELS = Path(__file__).parent / "models"


class _Tls(TritonProcess):
    """One that is asked over HTTP whether it is ready: its gRPC port takes nobody without a certificate."""

    async def _until_ready(self) -> None:
        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as answer:
                    return bool(answer.status == 200)
            except (OSError, urllib.error.HTTPError):
                return False

        await asyncio.to_thread(wait_until, "it is ready", is_ready, 60.0)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[_Tls, Authority, Path]]:
    """It, the authority of all certificates, and a folder."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder, "ours")
    server = authority.issue("server")
    options = TritonOptions(
        name="t0",
        repository=folder / "repository",
        work=folder / "work",
        arguments=(
            "--grpc-use-ssl=1",
            "--grpc-use-ssl-mutual=1",
            f"--grpc-server-cert={server.cert}",
            f"--grpc-server-key={server.key}",
            f"--grpc-root-cert={authority.cert}",
        ),
    )
    async with _Tls(find_triton(), options) as process:
        yield process, authority, folder


def _ask(client: triton.InferenceServerClient, size: int) -> npt.NDArray[np.float32]:
    data = np.arange(size, dtype=np.float32).reshape(1, size)
    tensor = triton.InferInput("in_FP32", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    answer = client.infer("every", [tensor]).as_numpy("out_FP32")
    assert (answer == data).all()
    return data


def test_models_are_loaded_and_asked_over_tls(behind: tuple[_Tls, Authority, Path]) -> None:
    """The control loop and the data plane have the same certificates; another pair is taken while it runs."""
    process, authority, folder = behind
    place = folder / "models/every/7"
    place.mkdir(parents=True)
    shutil.copytree(MODELS / "every", place / "model")
    (place / "version.yaml").write_text("format: python\nartifact: model\n")
    (place.parent / "model.yaml").write_text('stages: {production: "7"}\n')
    ours = Pair(folder / "gateway.pem", folder / "gateway.key")
    authority.issue("first").over(ours)
    tls = f"{{ca: {authority.cert}, cert: {ours.cert}, key: {ours.key}}}"
    gateway = start_gateway(
        folder,
        "gateway",
        "registries:\n  local: {type: folder, path: ./models}\n"
        f'backends: [{{name: t0, grpc: "{process.grpc}", control: explicit, '
        f'repository: "{process.options.repository}", tls: {tls}}}]\n',
        folder / "models",
    )
    try:
        client = gateway.client()
        _ask(client, 4)
        _ask(client, 500_000)
        authority.issue("second").over(ours)
        assert gateway.json("reload")["needs_restart"] == []
        _ask(client, 4)
        client.close()
    finally:
        assert gateway.stop() == 0
