"""Start, events, drain, stop, and what a forked process may not do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.bridge import DataPlane, Settings
from router.ports import ColdWanted
from tests.bridge.tables import digits, snapshot


def test_port_0_is_a_free_port(plane: DataPlane) -> None:
    """The bound port is told and takes connections."""
    with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5):
        pass


def test_a_taken_port_is_an_os_error_with_the_address(plane: DataPlane) -> None:
    """The number is the system's, the text names host and port."""
    port = plane.inference_port

    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        DataPlane(Settings(port=port))


def test_stop_is_idempotent_and_frees_the_port() -> None:
    """A second data plane can listen where the first one did."""
    first = DataPlane(Settings())
    port = first.inference_port
    first.stop()
    first.stop()

    second = DataPlane(Settings(port=port))

    assert second.inference_port == port
    second.stop()


def test_a_data_plane_that_is_not_stopped_does_not_keep_the_process() -> None:
    """The interpreter ends by itself and with exit code 0."""
    code = "from gateway.bridge import *; plane = DataPlane(Settings())"

    ended = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)

    assert ended.returncode == 0


def test_a_forked_process_cannot_use_it(plane: DataPlane) -> None:
    """RuntimeError in the child; the child can end, and the parent goes on."""
    plane.publish(snapshot(digits()))
    child = os.fork()
    if child == 0:
        # Nothing but _exit may leave the child: pytest runs in the parent.
        code = 1
        try:
            plane.explain("digits")
        except RuntimeError as error:
            code = 0 if "forked process" in str(error) else 2
        finally:
            del plane
            os._exit(code)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert plane.explain("digits").version == "3"


async def _ask(plane: DataPlane, model: str, version: str, timeout: float) -> grpc.StatusCode:
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.inference_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await stub.ModelInfer(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_request_for_a_cold_version_is_an_event(plane: DataPlane) -> None:
    """Several requests, one event; it names the model and the concrete version."""
    plane.publish(snapshot(digits()))
    asked = [asyncio.create_task(_ask(plane, "digits", "1", timeout=1.0)) for _ in range(3)]

    events = await asyncio.wait_for(plane.events(), timeout=10)

    assert list(events) == [ColdWanted(model="digits", version="1")]
    codes = await asyncio.gather(*asked)
    assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_waiting_for_events_can_be_cancelled_and_begun_again(plane: DataPlane) -> None:
    """No event is lost to a waiter that went away."""
    plane.publish(snapshot(digits()))
    waiter = asyncio.create_task(plane.events())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter

    asked = asyncio.create_task(_ask(plane, "digits", "1", timeout=1.0))
    events = await asyncio.wait_for(plane.events(), timeout=10)
    await asked

    assert list(events) == [ColdWanted(model="digits", version="1")]


async def test_requests_are_counted_by_version_and_unknown_ones_together(plane: DataPlane) -> None:
    """Nothing that a client sends becomes a label."""
    plane.publish(snapshot(digits()))

    unknown = [await _ask(plane, name, "", timeout=10) for name in ("nope", "nope2", "no such")]
    cold = await _ask(plane, "digits", "1", timeout=0.2)
    missing = await _ask(plane, "digits", "9", timeout=10)

    code = grpc.StatusCode
    assert unknown == [code.NOT_FOUND, code.NOT_FOUND, code.INVALID_ARGUMENT]
    assert (cold, missing) == (code.DEADLINE_EXCEEDED, code.NOT_FOUND)
    arms = {(arm.model, arm.version, arm.arm): sum(arm.codes) for arm in plane.counters().arms}
    assert arms["_unknown", "", ""] == 3
    assert arms["digits", "", ""] == 1
    (use,) = plane.usage()
    assert (use.model, use.version, use.requests) == ("digits", "1", 1)


async def test_a_drain_ends_when_the_last_client_is_gone(plane: DataPlane) -> None:
    """Without clients it ends at once, and nobody can connect any more."""
    port = plane.inference_port

    assert await plane.drain(timeout=5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_publishing_from_many_threads_keeps_the_table_whole(plane: DataPlane) -> None:
    """Every table that is seen is one that was published."""
    tables = [snapshot(digits(), revision=revision) for revision in range(1, 41)]
    threads = [threading.Thread(target=plane.publish, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()

    seen = [plane.explain("digits").code for _ in range(200)]

    for thread in threads:
        thread.join()
    assert set(seen) <= {0, grpc.StatusCode.NOT_FOUND.value[0]}
    assert plane.explain("digits").version == "3"
