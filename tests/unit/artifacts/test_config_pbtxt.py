"""config.pbtxt: made of a contract, or read and kept under another name."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import TYPE_BF16, TYPE_STRING, ModelConfig, ModelInstanceGroup

from router.artifacts.config_pbtxt import (
    contract_of,
    generated,
    on_cpu,
    quoted,
    read,
    renamed,
    rendered,
    settings,
)
from router.errors import ArtifactError
from router.model import Contract, TensorSpec, TritonName
from tests.unit.artifacts.shelf import CONTRACT

_DATATYPES = ("BOOL", "UINT8", "INT64", "FP16", "FP32", "BF16", "BYTES")
_specs = st.lists(
    st.builds(
        TensorSpec,
        st.text(min_size=1),
        st.sampled_from(_DATATYPES),
        st.lists(st.sampled_from([-1, 1, 7]), min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@given(st.text())
def test_any_string_survives_the_text_format(text: str) -> None:
    """Protobuf's own reader gets back what was quoted."""
    config = text_format.Parse(f"name: {quoted(text)}", ModelConfig())

    assert config.name == text


@given(st.builds(Contract, _specs, _specs))
def test_a_contract_comes_back_as_it_was(contract: Contract) -> None:
    """Written, read, and looked at as a client sees it; no batch dimension is hidden."""
    config = read(rendered(generated(contract, {}, name="m", backend="python")))

    assert config.max_batch_size == 0
    assert contract_of(config) == contract


@given(st.builds(Contract, _specs, _specs))
def test_a_batched_contract_comes_back_as_it_was(contract: Contract) -> None:
    """The batch dimension goes out of `dims`, and clients still see it."""
    batched = Contract(
        *(
            tuple(TensorSpec(spec.name, spec.datatype, (-1, *spec.shape)) for spec in side)
            for side in (contract.inputs, contract.outputs)
        )
    )
    config = generated(batched, {"triton.max_batch_size": "8"}, name="m")

    assert [list(tensor.dims) for tensor in config.input] == [list(spec.shape) for spec in contract.inputs]
    assert contract_of(read(rendered(config))) == batched


def test_datatypes_have_tritons_names() -> None:
    """BYTES is its TYPE_STRING."""
    contract = Contract((TensorSpec("a", "BYTES", (1,)),), (TensorSpec("b", "BF16", (1,)),))
    config = generated(contract, {}, name="m")

    assert (config.input[0].data_type, config.output[0].data_type) == (TYPE_STRING, TYPE_BF16)


def test_tags_set_fields() -> None:
    """As they would stand in the file."""
    tags = {
        "triton.max_batch_size": "16",
        "triton.instance_group": "[{ kind: KIND_GPU count: 2 }]",
        "triton.dynamic_batching": "{ max_queue_delay_microseconds: 100 }",
        "triton.runtime": "onnxruntime",
        "team": "risk",
    }
    contract = Contract((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 1)),))
    config = generated(contract, tags, name="m")
    on_cpu(config)

    assert config.max_batch_size == 16
    assert [(one.kind, one.count) for one in config.instance_group] == [(ModelInstanceGroup.KIND_GPU, 2)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"triton.backend": "python"}, "'triton.backend' sets nothing"),
        ({"triton.parameters": "{}"}, "'triton.parameters' sets nothing"),
        ({"triton.max_batch_size": "many"}, r"tag 'triton.max_batch_size': 1:17 : .*integer"),
        ({"triton.max_batch_size": "4 backend: 'x'"}, "sets more than max_batch_size"),
        ({"triton.dynamic_batching": "{}"}, "without triton.max_batch_size"),
        ({"triton.max_batch_size": "4"}, r"'label' of shape \[-1\] cannot be batched"),
    ],
)
def test_a_tag_that_sets_nothing_good_is_named(tags: dict[str, str], said: str) -> None:
    """And nothing that would have Triton run other code can be set at all."""
    with pytest.raises(ArtifactError, match=said):
        generated(CONTRACT, tags, name="m")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TensorSpec("x", "FLOAT", (1,)), "input 'x' has datatype 'FLOAT', which Triton does not have"),
        (TensorSpec("x", "INVALID", (1,)), "input 'x' has datatype 'INVALID'"),
        (TensorSpec("x", "FP32", ()), "input 'x' has no dimensions"),
    ],
)
def test_a_tensor_that_triton_cannot_have_is_named(spec: TensorSpec, said: str) -> None:
    """Before Triton is asked."""
    with pytest.raises(ArtifactError, match=said):
        generated(Contract((spec,), CONTRACT.outputs), {}, name="m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input [{ name: 'x' data_type: TYPE_FLOAT }]", "config.pbtxt: 1:31 : .*TYPE_FLOAT"),
        ('name: "m"\nbackend: {', "config.pbtxt: 2:"),
    ],
)
def test_text_that_is_no_configuration_is_named_with_its_place(text: str, said: str) -> None:
    """Line and column, as protobuf tells them."""
    with pytest.raises(ArtifactError, match=said):
        read(text)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("data_type: TYPE_FP32 dims: 1", "output '' lacks a name"),
        ("name: 'y' dims: 1", "output 'y' lacks a data_type"),
        ("name: 'y' data_type: TYPE_FP32", "output 'y' lacks dims"),
        ("name: 'y' data_type: TYPE_FP32 dims: 0", r"output 'y': dims \[0\] are not sizes"),
    ],
)
def test_a_tensor_that_lacks_something_is_named(output: str, said: str) -> None:
    """Triton's own words for it are harder to read."""
    with pytest.raises(ArtifactError, match=said):
        contract_of(read(f"output [{{ {output} }}]"))


def test_a_field_that_nobody_knows_is_named() -> None:
    """Triton refuses it too, and says no more than that it failed."""
    with pytest.raises(
        ArtifactError, match=r'config.pbtxt: 1:11 : .*no field named "something_new".*tritonclient'
    ):
        read("name: 'm' something_new { a: 1 }")
    assert contract_of(read("name: 'm'")) is None


def test_only_the_top_level_name_changes() -> None:
    """Names of inputs stay, and comments too."""
    text = (
        '# ours\nname: "theirs"  # a name\ninput [\n  {\n    name: "X"\n    data_type: TYPE_FP32\n'
        "    dims: 4\n  }\n]\n"
    )
    config = text_format.Parse(renamed(text, TritonName("n")), ModelConfig())

    assert (config.name, config.input[0].name) == ("n", "X")
    assert "# ours" in renamed(text, TritonName("n"))


def test_settings_of_no_tags_are_none() -> None:
    """Other tags are other people's."""
    assert settings({"team": "risk"}) == ModelConfig()
