"""The contract of a version, as the Triton that has it loaded tells it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from router.model import Contract, TensorSpec

_HELD = 4096
"""Contracts that are kept as one object: most versions of a model have the one of the version before."""

_Tensors = Iterable[service_pb2.ModelMetadataResponse.TensorMetadata]


def contract_of(metadata: bytes) -> Contract | None:
    """Inputs and outputs of a serialised `inference.ModelMetadataResponse`; None where it tells of none.

    Where a model batches (`max_batch_size` above 0), Triton puts the batch dimension, -1, before the
    dimensions of its configuration, so shapes here are always those that clients send.
    """
    try:
        answer = service_pb2.ModelMetadataResponse.FromString(metadata)
    except DecodeError:
        return None
    if not answer.outputs:
        return None
    return _shared(Contract(_specs(answer.inputs), _specs(answer.outputs)))


@lru_cache(maxsize=_HELD)
def _shared(contract: Contract) -> Contract:
    return contract


def _specs(tensors: _Tensors) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
