"""A Triton that dies while it loads a version, with a request that waits for that version."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from router.backends.process import TritonOptions, TritonProcess
from router.backends.wheel import find_triton
from tests.e2e.conftest import Gateway, start_gateway, wait_until
from tests.fakes.triton_models import write_model
from tests.servers.ports import free_ports


def registered(models: Path, begun: Path) -> None:
    """A model whose first load never ends, and whose later ones do."""
    made = models / "m/1"
    made.mkdir(parents=True)
    first = f"import os, time; known = os.path.exists({str(begun)!r}); open({str(begun)!r}, 'w').close()"
    write_model(made, "files", f"{first}; time.sleep(0 if known else 600)")
    (made / "version.yaml").write_text("format: triton\nartifact: files\n")


def asked(gateway: Gateway) -> list[float]:
    """What a request gets that has long to wait."""
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    with gateway.client() as client:
        return [float(value) for value in client.infer("m", [tensor], client_timeout=120).as_numpy("y")]


async def test_who_waits_is_answered_by_the_triton_that_comes_after_it(tmp_path: Path) -> None:
    """It was no failure of the version: nobody is told of one, and the load is made again."""
    begun = tmp_path / "begun"
    registered(tmp_path / "models", begun)
    grpc, http, metrics = free_ports(3)
    options = TritonOptions("t0", tmp_path / "repository", tmp_path / "work", grpc, http, metrics)
    async with TritonProcess(find_triton(), options) as process:
        body = (
            "registries:\n  local: {type: folder, path: ./models}\n"
            f'backends:\n  - {{name: t0, grpc: "{process.grpc}", control: explicit, '
            f'repository: "{options.repository}"}}\n'
        )
        gateway = start_gateway(tmp_path, "gateway", body, tmp_path / "models")
        try:
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(asked, gateway)
                wait_until("its load has begun", begun.exists, 60)
                os.kill(process.pid, signal.SIGKILL)
                await process.exited()
                await process.start()
                assert answer.result() == [2.0]
            log = (tmp_path / "gateway.log").read_text()
        finally:
            gateway.stop()

    assert "the version is not to blame" in log
