"""What a version is, told from its contract alone, for clients that ask about a cold one."""

from __future__ import annotations

from functools import lru_cache

from tritonclient.grpc import service_pb2

from router.model import Contract, TensorSpec, Version

PLATFORM = "python"
"""What a Triton says of a model on its Python backend."""

_PLATFORMS = {
    "ensemble": "ensemble",
    "savedmodel": "tensorflow_savedmodel",
    "tensorrt": "tensorrt_plan",
    "torchscript": "pytorch_libtorch",
}
"""What it says of formats that have a backend of their own."""

_HELD = 4096
"""Contracts whose description is kept: most versions of a model have the one of the version before."""


def describe(version: Version) -> bytes:
    """A serialised `inference.ModelMetadataResponse`, or b"" without a contract.

    It names neither model nor version: the data plane does, so that versions of one contract share it.
    """
    if version.contract is None:
        return b""
    return _contract(version.contract, _PLATFORMS.get(version.format, PLATFORM))


@lru_cache(maxsize=_HELD)
def _contract(contract: Contract, platform: str) -> bytes:
    answer = service_pb2.ModelMetadataResponse(
        platform=platform,
        inputs=[_tensor(spec) for spec in contract.inputs],
        outputs=[_tensor(spec) for spec in contract.outputs],
    )
    return bytes(answer.SerializeToString())


def _tensor(spec: TensorSpec) -> service_pb2.ModelMetadataResponse.TensorMetadata:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
