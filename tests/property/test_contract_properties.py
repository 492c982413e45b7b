"""A contract without differences lets every client of the old version go on."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from router.model import Contract, TensorSpec
from router.traffic.contract import differences

Sent = Mapping[str, tuple[str, tuple[int, ...]]]

SIZES = (1, 2, 3)
_tensors = st.lists(
    st.builds(
        TensorSpec,
        st.sampled_from("abc"),
        st.sampled_from(["FP32", "INT64"]),
        st.lists(st.sampled_from([-1, 1, 2]), min_size=1, max_size=2).map(tuple),
    ),
    max_size=3,
    unique_by=lambda spec: spec.name,
).map(tuple)
_contracts = st.builds(Contract, _tensors, _tensors)


def fits(value: tuple[str, tuple[int, ...]], spec: TensorSpec) -> bool:
    """Whether Triton would take such a tensor for that input."""
    datatype, shape = value
    return (
        datatype == spec.datatype
        and len(shape) == len(spec.shape)
        and all(wanted in (-1, size) for size, wanted in zip(shape, spec.shape, strict=True))
    )


def taken(sent: Sent, contract: Contract) -> bool:
    """Whether Triton would take that request: all inputs, and no other."""
    inputs = {spec.name: spec for spec in contract.inputs}
    return sent.keys() == inputs.keys() and all(fits(sent[name], spec) for name, spec in inputs.items())


@st.composite
def _requests(draw: st.DrawFn, contract: Contract) -> Sent:
    return {
        spec.name: (
            spec.datatype,
            tuple(draw(st.sampled_from(SIZES)) if size == -1 else size for size in spec.shape),
        )
        for spec in contract.inputs
    }


@given(_contracts)
def test_a_contract_does_not_differ_from_itself(contract: Contract) -> None:
    """Whatever is in it."""
    assert differences(contract, contract) == ()


@given(st.data(), _contracts, _contracts)
def test_without_a_difference_every_old_request_is_taken(
    data: st.DataObject, old: Contract, new: Contract
) -> None:
    """And with one about inputs there is a request that is not."""
    sent = data.draw(_requests(old))
    said = [one for one in differences(old, new) if one.startswith("input")]
    if not said:
        assert taken(sent, new)
    # Three is a size that no fixed dimension here has: the request that finds every narrowed one.
    widest = {
        spec.name: (spec.datatype, tuple(3 if size == -1 else size for size in spec.shape))
        for spec in old.inputs
    }
    assert taken(widest, new) == (not said)


@given(_contracts, _contracts)
def test_without_a_difference_every_old_output_is_there_as_promised(old: Contract, new: Contract) -> None:
    """By name, datatype and rank; and a size that was promised stays, but for rows that follow the input."""
    if differences(old, new):
        return
    outputs = {spec.name: spec for spec in new.outputs}
    for spec in old.outputs:
        now = outputs[spec.name]
        assert (now.datatype, len(now.shape)) == (spec.datatype, len(spec.shape))
        assert all(was in (-1, size) for was, size in zip(spec.shape[1:], now.shape[1:], strict=True))
