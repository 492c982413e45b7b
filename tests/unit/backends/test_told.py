"""A contract out of what a Triton says of a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from router.backends.describe import describe
from router.backends.told import contract_of
from router.model import Contract, ModelName, TensorSpec, Version, VersionId

_specs = st.lists(
    st.builds(
        TensorSpec,
        st.text(min_size=1),
        st.sampled_from(["FP32", "BYTES"]),
        st.lists(st.integers(-1, 9), min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@given(st.builds(Contract, _specs, _specs))
def test_what_is_described_is_understood(contract: Contract) -> None:
    """A contract that was told as metadata is read back as it was."""
    version = Version("r", ModelName("m"), VersionId("1"), contract=contract)

    assert contract_of(describe(version)) == contract


def test_equal_contracts_are_one() -> None:
    """A thousand versions of a model hold one."""
    told = service_pb2.ModelMetadataResponse(
        outputs=[service_pb2.ModelMetadataResponse.TensorMetadata(name="y", datatype="FP32", shape=[-1])]
    ).SerializeToString()

    assert contract_of(told) is contract_of(told) is not None


def test_an_answer_without_outputs_tells_nothing() -> None:
    """Nor does one that is no message."""
    assert contract_of(service_pb2.ModelMetadataResponse(name="m").SerializeToString()) is None
    assert contract_of(b"\xff") is None
