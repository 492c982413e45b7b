"""What a version is, told from its contract alone, for clients that ask about a cold one."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from router.model import TensorSpec, Version

PLATFORM = "python"
"""Every version that is laid out here runs on Triton's Python backend."""


def describe(version: Version) -> bytes:
    """A serialised `inference.ModelMetadataResponse` under the logical name, or b"" without a contract."""
    if version.contract is None:
        return b""
    answer = service_pb2.ModelMetadataResponse(
        name=version.model,
        versions=[version.version],
        platform=PLATFORM,
        inputs=[_tensor(spec) for spec in version.contract.inputs],
        outputs=[_tensor(spec) for spec in version.contract.outputs],
    )
    return bytes(answer.SerializeToString())


def _tensor(spec: TensorSpec) -> service_pb2.ModelMetadataResponse.TensorMetadata:
    return service_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
