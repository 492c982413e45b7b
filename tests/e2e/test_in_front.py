"""A gateway in front of Tritons that it did not start."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.artifacts.layout import TritonRepository
from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.model import ModelName, TritonName, Version, VersionId
from tests.e2e.conftest import start_gateway, wait_until
from tests.e2e.digits import inputs


@pytest.fixture
async def triton(tmp_path: Path) -> AsyncIterator[TritonProcess]:
    """Somebody's Triton, without a model."""
    options = TritonOptions(name="theirs", repository=tmp_path / "repository", work=tmp_path / "work")
    async with TritonProcess(find_triton(), options) as process:
        yield process


async def load_digits(triton: TritonProcess, trained: Path) -> None:
    """Somebody loads a model of their own, called `reader`."""
    version = Version(
        "", ModelName("reader"), VersionId("1"), "onnx", str(trained / "models/digits/2/model.onnx")
    )
    await TritonRepository(triton.options.repository).put(version, TritonName("reader"))
    server = TritonServer(triton.backend())
    await server.load(TritonName("reader"), timeout=60)
    await server.close()


async def test_five_lines_of_yaml_put_it_in_front_of_a_running_triton(
    triton: TritonProcess, trained: Path, tmp_path: Path
) -> None:
    """With `control: none` what is ready there is served under its own name, and follows what they do."""
    await load_digits(triton, trained)
    body = f'backends:\n  - {{name: mine, grpc: "{triton.grpc}", control: none}}\n'
    gateway = start_gateway(tmp_path, "gateway", body, tmp_path)
    try:
        client = gateway.client()
        metadata = client.get_model_metadata("reader")
        answer = client.infer("reader", inputs(metadata))
        assert (answer.get_response().model_name, answer.get_response().model_version) == ("reader", "1")
        assert client.infer("reader@1", inputs(metadata)).get_response().model_name == "reader"
        # An alias in front of it: a route whose arm names their model.
        route = tmp_path / "route.yaml"
        route.write_text(
            "model: front\narms:\n"
            "  - {name: stable, backend_model: {name: reader, version: '1'}, weight: 100}\n"
        )
        gateway.cli("route", "apply", str(route))
        assert client.infer("front", inputs(metadata)).get_response().model_name == "front"
        server = TritonServer(triton.backend())
        await server.unload(TritonName("reader"), timeout=30)
        await server.close()
        wait_until("the model is gone here too", lambda: not client.is_model_ready("reader"))
    finally:
        gateway.stop()


async def test_a_triton_of_ours_elsewhere_is_loaded_through_its_folder(
    triton: TritonProcess, trained: Path, tmp_path: Path
) -> None:
    """With `control: explicit` and its repository folder, registry versions are loaded on demand."""
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    body = (
        "registries:\n  local: {type: folder, path: ./models}\n"
        f'backends:\n  - {{name: mine, grpc: "{triton.grpc}", control: explicit, '
        f'repository: "{triton.options.repository}"}}\n'
    )
    gateway = start_gateway(tmp_path, "gateway", body, models)
    try:
        client = gateway.client()
        metadata = client.get_model_metadata("digits")
        assert client.infer("digits", inputs(metadata)).get_response().model_version == "2"
    finally:
        gateway.stop()
    # The next gateway finds what this one loaded; nothing is loaded twice.
    again = start_gateway(tmp_path, "gateway", body, models)
    try:
        wait_until("it is ready there", lambda: again.json("models")[1]["ready"] == ["2"], 10)
        assert 'result="success"' not in again.http("/metrics")[1]
    finally:
        again.stop()
