"""The control side of one Triton over gRPC: load, unload, index, readiness, metadata."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.backends import polled
from router.backends.blame import is_backends
from router.backends.capacity import capacity_of
from router.backends.told import contract_of
from router.errors import BackendUnable, BackendUnavailable, LoadFailed
from router.model import Backend, BackendTls, Capacity, Contract, IndexEntry, TritonName, whole_of
from router.ports import ServerInfo

_Answer = TypeVar("_Answer")

_READY_TIMEOUT = 2.0
_FIRST_LOOK = 0.02
_SLOWEST_LOOK = 0.25
_LONGEST_REASON = 2000

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC's own back-off grows to two minutes; a Triton that comes back is to be seen within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)

_FINISH = 600.0
"""How long calls may go on over a channel that was replaced."""

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class TritonServer:
    """Implements `router.ports.ModelServer` on one Triton, connected at the first call."""

    def __init__(
        self,
        backend: Backend,
        *,
        call_timeout: float = 10.0,
        tls: Callable[[], BackendTls | None] = lambda: None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            backend: which one.
            call_timeout: seconds for each call that is not a load or an unload.
            tls: gives how it is to be spoken to; None for plaintext. Asked before each call.
        """
        self._backend = backend
        self._timeout = call_timeout
        self._tls = tls
        self._made_with: BackendTls | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._channel: grpc.aio.Channel | None = None
        self._late: dict[TritonName, asyncio.Task[None]] = {}
        self._service: service_pb2_grpc.GRPCInferenceServiceStub | None = None

    @property
    def backend(self) -> Backend:
        """Which one."""
        return self._backend

    async def ready(self) -> bool:
        """Whether it answers and says ready, within 2 s. Never raises for a server that is away."""
        try:
            answer = await self._stub().ServerReady(service_pb2.ServerReadyRequest(), timeout=_READY_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def info(self) -> ServerInfo:
        """Name, version, extensions. Raises BackendUnavailable."""
        answer = await self._ask(
            self._stub().ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=self._timeout)
        )
        return ServerInfo(answer.name, answer.version, tuple(answer.extensions))

    async def index(self) -> tuple[IndexEntry, ...]:
        """All models it knows, with state and reason. Raises BackendUnavailable."""
        answer = await self._ask(
            self._stub().RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=self._timeout)
        )
        return tuple(
            IndexEntry(TritonName(entry.name), entry.version, entry.state, entry.reason)
            for entry in answer.models
        )

    async def load(self, name: TritonName, *, timeout: float) -> None:
        """Load and return when ready. A model that is loaded and has not changed is left as it is.

        Triton cannot give up a load. One that did not finish in time is unloaded once it has finished, so
        that it does not stay in memory unasked; a load that is asked for meanwhile comes after that.

        Raises:
            LoadFailed: with Triton's reason, or because it took longer than `timeout` seconds.
            BackendUnable: Triton's reason says nothing of the model.
            BackendUnavailable: it does not answer, or went away meanwhile.
        """
        left = await self._after_late_unload(name, timeout)
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        log_end = polled.end_of(self._backend.log)
        try:
            await self._stub().RepositoryModelLoad(request, timeout=left)
        except grpc.aio.AioRpcError as problem:
            error = await self._load_error(name, problem, timeout, log_end)
            if isinstance(error, LoadFailed | BackendUnable):
                await self._let_parts_go(name)
            raise error from None
        entries = [entry for entry in await self.index() if entry.name == name]
        if not any(entry.ready for entry in entries):
            reasons = "; ".join(said for entry in entries if (said := entry.reason or entry.state))
            if not reasons:
                raise BackendUnavailable(f"{self._named(name)} is not known there any more after its load")
            raise LoadFailed(f"{self._named(name)} is not ready after its load: {_short(reasons)}")
        if await self._tells_nothing(name):
            await self.unload(name, timeout=max(left, self._timeout))
            raise LoadFailed(
                f"{self._named(name)}: it is loaded, and takes and gives nothing",
                hint="name inputs and outputs in its config.pbtxt, or give the version a contract",
            )

    async def unload(self, name: TritonName, *, timeout: float) -> None:
        """Unload and return when it is gone from the ready index; not an error where it is not loaded.

        The parts of an ensemble, which Triton loads by itself and keeps, go after it.

        Raises:
            BackendUnavailable: it does not answer, or has not let go of it after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        call_timeout = None if math.isinf(timeout) else timeout
        await self._ask(self._stub().RepositoryModelUnload(request, timeout=call_timeout))
        for part in _parts(name, await self._until_gone(name, deadline, timeout)):
            await self.unload(part, timeout=max(deadline - time.monotonic(), _SLOWEST_LOOK))

    async def _until_gone(self, name: TritonName, deadline: float, timeout: float) -> tuple[IndexEntry, ...]:
        """Look until a model takes no memory; the index that told so."""
        pause = _FIRST_LOOK
        index = await self.index()
        while any(entry.name == name and _present(entry) for entry in index):
            if time.monotonic() + pause > deadline:
                raise BackendUnavailable(
                    f"{self._named(name)} is still there {timeout:g} s after it was told to go",
                    hint="it goes when its requests in flight are answered",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _SLOWEST_LOOK)
            index = await self.index()
        return index

    async def _let_parts_go(self, name: TritonName) -> None:
        """Triton keeps the parts of an ensemble that it could load although the ensemble failed."""
        with contextlib.suppress(BackendUnavailable):
            for part in _parts(name, await self.index()):
                await self.unload(part, timeout=self._timeout)

    async def metadata(self, name: TritonName, version: str = "") -> bytes:
        """A serialised `inference.ModelMetadataResponse`.

        Raises:
            LoadFailed: it has no such model ready.
            BackendUnavailable: it does not answer.
        """
        request = service_pb2.ModelMetadataRequest(name=name, version=version)
        try:
            answer = await self._stub().ModelMetadata(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as problem:
            if problem.code() is grpc.StatusCode.DEADLINE_EXCEEDED or await self._is_away(problem):
                raise self._away(problem) from None
            raise LoadFailed(f"{self._named(name)} cannot be described: {_details(problem)}") from None
        return bytes(answer.SerializeToString())

    async def _tells_nothing(self, name: TritonName) -> bool:
        """A Triton that does not complete configurations loads one without inputs and outputs as well."""
        told = service_pb2.ModelMetadataResponse.FromString(await self.metadata(name))
        return not told.inputs and not told.outputs

    async def contract(self, name: TritonName, version: str = "") -> Contract | None:
        """What a ready model takes and gives; None where it does not tell, or is not ready.

        Raises:
            BackendUnavailable: it does not answer.
        """
        try:
            return contract_of(await self.metadata(name, version))
        except LoadFailed:
            return None

    async def capacity(self, name: TritonName, version: str = "") -> Capacity:
        """What its copy of a ready model works on at once; unknown where it does not tell.

        Raises:
            BackendUnavailable: it does not answer.
        """
        request = service_pb2.ModelConfigRequest(name=name, version=version)
        answer = await self._told(self._stub().ModelConfig, request)
        return Capacity() if answer is None else capacity_of(answer.config)

    async def last_used(self, name: TritonName, version: str = "") -> float | None:
        """When a ready model got its last request from anybody, in unix seconds by the clock of its Triton.

        None where it got none, is not ready, or does not tell.

        Raises:
            BackendUnavailable: it does not answer.
        """
        request = service_pb2.ModelStatisticsRequest(name=name, version=version)
        answer = await self._told(self._stub().ModelStatistics, request)
        last = max((told.last_inference for told in answer.model_stats), default=0) if answer else 0
        return last / 1_000 or None

    async def _told(self, call: Callable[..., Awaitable[_Answer]], request: object) -> _Answer | None:
        """What a ready model tells of itself; None where it does not.

        Raises:
            BackendUnavailable: its Triton does not answer.
        """
        try:
            # gRPC gives None for an answer that is no message of that kind.
            return await call(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as problem:
            if await self._is_away(problem):
                raise self._away(problem) from None
            return None

    async def close(self) -> None:
        """Close its channel. A later call opens a new one."""
        late = [*self._late.values(), *self._closing]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        channel, self._channel, self._service = self._channel, None, None
        if channel is not None:
            await channel.close(None)

    def _stub(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        tls = self._tls()
        if self._channel is not None and tls != self._made_with:
            self._let_finish(self._channel)
            self._channel = None
        if self._channel is None or self._service is None:
            self._channel = _open_channel(self._backend.grpc, tls)
            self._made_with = tls
            self._service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._service

    def _let_finish(self, channel: grpc.aio.Channel) -> None:
        """Close a channel once its calls have ended."""
        task = asyncio.get_running_loop().create_task(channel.close(_FINISH))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _ask(self, call: Awaitable[_Answer]) -> _Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as problem:
            raise self._away(problem) from None

    async def _load_error(
        self, name: TritonName, problem: grpc.aio.AioRpcError, timeout: float, log_end: int
    ) -> LoadFailed | BackendUnavailable:
        if problem.code() is grpc.StatusCode.DEADLINE_EXCEEDED and await self._lives():
            self._unload_later(name)
            return LoadFailed(f"{self._named(name)} was not loaded within {timeout:g} s")
        if await self._is_away(problem):
            return self._away(problem)
        said = _details(problem)
        if polled.SAID in said:
            why = await asyncio.to_thread(polled.reason, self._backend.log, log_end, name)
            said = _short(f"Triton could not read its folder: {why}")
        error = BackendUnable if is_backends(problem.code(), said) else LoadFailed
        return error(f"{self._named(name)}: {said}")

    def _unload_later(self, name: TritonName) -> None:
        async def unload() -> None:
            # Triton lets it wait until the load has ended, however long that takes.
            with contextlib.suppress(BackendUnavailable):
                await self.unload(name, timeout=math.inf)

        task = asyncio.create_task(unload(), name=f"unload {name} when it is loaded")
        self._late[name] = task
        task.add_done_callback(lambda _: self._late.pop(name, None))

    async def _after_late_unload(self, name: TritonName, timeout: float) -> float:
        """Wait until an earlier load that took too long is out of the way; return the seconds left."""
        task = self._late.get(name)
        if task is None:
            return timeout
        began = time.monotonic()
        done, _ = await asyncio.wait({task}, timeout=timeout)
        left = timeout - (time.monotonic() - began)
        if not done or left <= 0:
            raise LoadFailed(
                f"{self._named(name)}: an earlier load that took too long has still not ended",
                hint="if it never does, only a restart of that Triton helps",
            )
        return left

    async def _is_away(self, problem: grpc.aio.AioRpcError) -> bool:
        """Triton answers UNAVAILABLE too, for a model or a mode; only its silence means that it is away."""
        return problem.code() in _GONE and not await self._lives()

    async def _lives(self) -> bool:
        try:
            await self._stub().ServerLive(service_pb2.ServerLiveRequest(), timeout=_READY_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return True

    def _away(self, problem: grpc.aio.AioRpcError) -> BackendUnavailable:
        code = problem.code().name
        return BackendUnavailable(
            f"Triton {self._backend.name} at {self._backend.grpc}: {code}: {_details(problem)}"
        )

    def _named(self, name: TritonName) -> str:
        return f"{name} on Triton {self._backend.name}"


def _open_channel(address: str, tls: BackendTls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key or None, tls.cert or None)
    name = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return grpc.aio.secure_channel(address, credentials, options=(*_CHANNEL_OPTIONS, *name))


def _present(entry: IndexEntry) -> bool:
    """Whether an index line takes memory; never-loaded and unloaded models have other states."""
    return entry.state in ("READY", "LOADING", "UNLOADING")


def _parts(name: TritonName, index: Sequence[IndexEntry]) -> tuple[TritonName, ...]:
    """The parts of an ensemble that take memory."""
    found = {entry.name for entry in index if whole_of(entry.name) == name and _present(entry)}
    return tuple(sorted(found))


def _details(problem: grpc.aio.AioRpcError) -> str:
    return _short(problem.details() or problem.code().name)


def _short(text: str) -> str:
    """Triton's texts hold whole Python tracebacks, with the reason in the first line."""
    lines = [line.strip() for line in text.partition("\n\nAt:\n")[0].splitlines()]
    return " ".join(line for line in lines if line).rstrip(";")[:_LONGEST_REASON]
