"""Calls replayed straight to a Triton and through the gateway: status, text, metadata and bytes agree."""

from __future__ import annotations

import random
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import ROOT, UP, Gateway, start_gateway, wait_until
from tests.e2e.replay import Call, Named, parsed, renamed, replay, under

VERSION = "7"
"""The logical version of every model here; Triton's is always 1."""
MODELS = ("every", "repeat", "accumulate", "pair")

SIZES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}
TYPED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-1, 127]),
    "INT16": ("int_contents", [-1, 32767]),
    "INT32": ("int_contents", [-1, 2**31 - 1]),
    "INT64": ("int64_contents", [-1, 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [0.5, -1.5]),
    "FP64": ("fp64_contents", [0.5, -1.5]),
    "BYTES": ("bytes_contents", [b"", b"two\0"]),
}


def tensor(name: str, datatype: str, shape: list[int], **more: Any) -> Any:
    """What an input says of itself."""
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, **more)


def infer(*inputs: Any, raw: tuple[bytes, ...] = (), **more: Any) -> Any:
    """A request without names."""
    return pb.ModelInferRequest(inputs=inputs, raw_input_contents=raw, **more)


def parameters(**values: Any) -> dict[str, Any]:
    """Parameters of a request, each in the member that its Python type asks for."""
    members = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {key: pb.InferParameter(**{members[type(value)]: value}) for key, value in values.items()}


def every(datatype: str = "FP32", count: int = 2, **more: Any) -> Any:
    """One raw tensor for the identity model."""
    content = (
        struct.pack("<I", 3) + b"a\xffz" if datatype == "BYTES" else bytes(range(1, SIZES[datatype] + 1))
    )
    name = "in_STRING" if datatype == "BYTES" else f"in_{datatype}"
    return infer(tensor(name, datatype, [1, count]), raw=(content * count,), **more)


def typed(datatype: str) -> Any:
    """The same with typed contents."""
    member, values = TYPED[datatype]
    name = "in_STRING" if datatype == "BYTES" else f"in_{datatype}"
    contents = pb.InferTensorContents(**{member: values})
    return infer(tensor(name, datatype, [1, len(values)], contents=contents))


def pair(batch: int = 1, **more: Any) -> Any:
    """Both inputs of the model that adds."""
    inputs = [tensor(name, "INT32", [batch, 16]) for name in "ab"]
    raw = (struct.pack("<16i", *range(16)) * batch, struct.pack("<16i", *[5] * 16) * batch)
    return infer(*inputs, raw=raw, **more)


def wanted(name: str, **values: Any) -> Any:
    """An output that is asked for."""
    return pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=parameters(**values))


def repeat(count: int, **more: Any) -> Any:
    """Ask the decoupled model for so many answers."""
    return infer(tensor("count", "INT32", [1]), raw=(struct.pack("<i", count),), **more)


def step(number: int, **more: Any) -> Any:
    """One step of a sequence."""
    return infer(
        tensor("x", "INT32", [1, 1]), raw=(struct.pack("<i", number),), parameters=parameters(**more)
    )


def one(model: str, message: Message | bytes, **more: Any) -> Call:
    """A unary inference."""
    return Call("ModelInfer", (message,), model, **more)


def stream(model: str, *messages: Message | bytes, **more: Any) -> Call:
    """All messages on one stream."""
    return Call("ModelStreamInfer", messages, model, **more)


LARGE = tensor("in_FP32", "FP32", [1, 100_000])
NOISE = random.Random(1).randbytes(400_000)  # noqa: S311 -- only hard to compress
GRPC_ERROR = (("triton_grpc_error", "true"),)
FINAL: dict[str, Any] = {"parameters": parameters(triton_enable_empty_final_response=True)}

CALLS: dict[str, Call] = {
    # what a tensor may be
    **{f"raw {kind}": one("every", every(kind)) for kind in (*SIZES, "BYTES")},
    **{f"typed {kind}": one("every", typed(kind)) for kind in TYPED},
    "no elements": one("every", every(count=0)),
    "no elements of BYTES": one("every", every("BYTES", count=0)),
    "no inputs at all": one("every", infer()),
    "a large tensor": one("every", every(count=200_000)),
    "id": one("every", every(id="an id \u00e9")),
    "version given": one("every", every(), version="*"),
    "parameters": one("every", every(parameters=parameters(a=1, b="two", c=True))),
    "priority": one("every", every(parameters={"priority": pb.InferParameter(uint64_param=1)})),
    "timeout": one("every", every(parameters=parameters(timeout=1_000_000))),
    "binary_data_output": one("every", every(parameters=parameters(binary_data_output=True))),
    "all outputs": one("pair", pair()),
    "one output": one("pair", pair(outputs=[wanted("difference")])),
    "outputs in the other order": one("pair", pair(outputs=[wanted("difference"), wanted("sum")])),
    "classification": one("pair", pair(outputs=[wanted("sum", classification=3)])),
    "a batch": one("pair", pair(4)),
    "a sequence step": one("accumulate", step(3, sequence_id=5, sequence_start=True, sequence_end=True)),
    "a sequence with a name": one(
        "accumulate", step(3, sequence_id="five", sequence_start=True, sequence_end=True)
    ),
    "names after the tensors": one("pair", pair(), names_last=True),
    "names twice": one("pair", pair(model_name="nope", model_version="9"), names_last=True, version="*"),
    # how it may travel
    "single bytes": one("pair", pair(), cut=1),
    "gzip": one("pair", pair(), encoding="gzip"),
    "deflate": one("pair", pair(), encoding="deflate"),
    "gzip in single bytes": one("pair", pair(), encoding="gzip", cut=1),
    "a large gzip": one("every", infer(LARGE, raw=(NOISE,)), encoding="gzip"),
    "gzip on a stream": stream("pair", pair(), pair(2), encoding="gzip"),
    "a stream in single bytes": stream("pair", pair(), pair(), cut=1),
    "metadata": one("pair", pair(), metadata=(("test", "1"), ("dummy", "2"), ("x-bin", "AAE"))),
    "answers may be compressed": one("pair", pair(), metadata=(("grpc-accept-encoding", "identity,gzip"),)),
    # what a client may do wrong
    "unknown model": Call("ModelInfer", (infer(model_name="nope"),)),
    "unknown version": one("pair", pair(), version="9"),
    "no inputs": one("pair", infer(id="abc")),
    "no id and no inputs": one("pair", infer()),
    "one input missing": one("pair", infer(tensor("a", "INT32", [1, 16]), raw=(b"\0" * 64,))),
    "an input that is none": one("pair", infer(tensor("c", "INT32", [1, 16]), raw=(b"\0" * 64,))),
    "wrong byte size": one(
        "pair", infer(*[tensor(name, "INT32", [1, 16]) for name in "ab"], raw=(b"\0" * 64, b"ab"), id="abc")
    ),
    "wrong shape": one(
        "pair", infer(*[tensor(name, "INT32", [1, 4]) for name in "ab"], raw=(b"\0" * 16, b"\0" * 16))
    ),
    "wrong datatype": one(
        "pair", infer(*[tensor(name, "FP32", [1, 16]) for name in "ab"], raw=(b"\0" * 64, b"\0" * 64))
    ),
    "a datatype that is none": one("pair", infer(tensor("a", "INT33", [1, 16]), raw=(b"\0" * 64,))),
    "batch too large": one("pair", pair(5)),
    "an output that is none": one("pair", pair(outputs=[wanted("nothing")])),
    "more raw than inputs": one("pair", infer(tensor("a", "INT32", [1, 16]), raw=(b"\0" * 64, b"\0" * 64))),
    "raw and typed": one(
        "pair",
        infer(
            tensor("a", "INT32", [1, 16], contents=pb.InferTensorContents(int_contents=[1] * 16)),
            tensor("b", "INT32", [1, 16]),
            raw=(b"\0" * 64,),
        ),
    ),
    "typed of another type": one(
        "pair",
        infer(
            tensor("a", "INT32", [1, 16], contents=pb.InferTensorContents(fp32_contents=[1] * 16)),
            tensor("b", "INT32", [1, 16], contents=pb.InferTensorContents(int_contents=[1] * 16)),
        ),
    ),
    "FP16 typed": one(
        "every",
        infer(tensor("in_FP16", "FP16", [1, 1], contents=pb.InferTensorContents(fp32_contents=[1]))),
    ),
    "reserved parameter": one("every", every(parameters=parameters(triton_mine=1))),
    "uint64 parameter": one("every", every(parameters={"a": pb.InferParameter(uint64_param=1)})),
    "double parameter": one("every", every(parameters=parameters(a=0.5))),
    "empty parameter": one("every", every(parameters={"a": pb.InferParameter()})),
    "classification of text": one("pair", pair(outputs=[wanted("sum", classification="a")])),
    "shared memory that is not there": one(
        "pair",
        infer(
            tensor("a", "INT32", [1, 16], parameters=parameters(shared_memory_region="r")),
            tensor("b", "INT32", [1, 16]),
            raw=(b"\0" * 64,),
        ),
    ),
    "a sequence without start": one("accumulate", step(1, sequence_id=77)),
    "a sequence without id": one("accumulate", step(1)),
    "decoupled in a unary call": one("repeat", repeat(1)),
    "the model fails": one("every", every(parameters=parameters(fail="no more \u00e9 100 %"))),
    **{
        f"the model fails as {code}": one("every", every(parameters=parameters(fail="no", code=code)))
        for code in (
            *("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG"),
            *("UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"),
        )
    },
    "the model raises": one("every", every(parameters=parameters(**{"raise": "broken\nin two"}))),
    "a deadline that holds": one("every", every(), metadata=(("grpc-timeout", "20S"),)),
    # streams
    "an empty stream": Call("ModelStreamInfer"),
    "a stream of one": stream("pair", pair(id="1")),
    "a stream of three": stream("pair", *[pair(id=str(number)) for number in range(3)]),
    "a stream by version": stream("pair", pair(), version="*"),
    "no answer": stream("repeat", repeat(0)),
    "one answer": stream("repeat", repeat(1, id="r")),
    "many answers": stream("repeat", repeat(20, id="r")),
    "no answer but the last": stream("repeat", repeat(0, **FINAL)),
    "many answers and the last": stream("repeat", repeat(3, id="r", **FINAL)),
    "a whole answer and the last": stream("pair", pair(**FINAL)),
    "answers that end badly": stream("repeat", repeat(2, parameters=parameters(fail="worn out"))),
    "a sequence": stream(
        "accumulate",
        step(1, sequence_id=6, sequence_start=True),
        step(2, sequence_id=6),
        step(3, sequence_id=6, sequence_end=True),
    ),
    "a stream error": stream("pair", infer(id="abc"), pair()),
    "a stream error as a status": stream("pair", infer(id="abc"), metadata=GRPC_ERROR),
    "a model's stream error as a status": stream(
        "repeat", repeat(1, parameters=parameters(fail="worn out")), metadata=GRPC_ERROR
    ),
    "an unknown model on a stream": Call("ModelStreamInfer", (infer(model_name="nope", id="x"),)),
    "an unknown model as a status": Call(
        "ModelStreamInfer", (infer(model_name="nope"),), metadata=GRPC_ERROR
    ),
    "an unknown version on a stream": stream("pair", pair(), version="9"),
    "a broken message on a stream": Call("ModelStreamInfer", (b"\x0a\x7f",)),
    # about models
    "ready": Call("ModelReady", (b"",), "pair"),
    "ready by version": Call("ModelReady", (b"",), "pair", "*"),
    "ready, unknown version": Call("ModelReady", (b"",), "pair", "9"),
    "ready, unknown model": Call("ModelReady", (pb.ModelReadyRequest(name="nope"),)),
    "metadata of a model": Call("ModelMetadata", (b"",), "pair"),
    "metadata by version": Call("ModelMetadata", (b"",), "every", "*"),
    "metadata, unknown version": Call("ModelMetadata", (b"",), "pair", "9"),
    "metadata, unknown model": Call("ModelMetadata", (pb.ModelMetadataRequest(name="nope"),)),
    "config": Call("ModelConfig", (b"",), "pair"),
    "config of a sequence model": Call("ModelConfig", (b"",), "accumulate", "*"),
    "config, unknown version": Call("ModelConfig", (b"",), "pair", "9"),
    "config, unknown model": Call("ModelConfig", (pb.ModelConfigRequest(name="nope"),)),
    "statistics": Call("ModelStatistics", (b"",), "pair"),
    "statistics by version": Call("ModelStatistics", (b"",), "repeat", "*"),
    "statistics, unknown version": Call("ModelStatistics", (b"",), "pair", "9"),
    "statistics, unknown model": Call("ModelStatistics", (pb.ModelStatisticsRequest(name="nope"),)),
    # about the server
    "live": Call("ServerLive", (b"",)),
    "server ready": Call("ServerReady", (b"",)),
    "an unknown method": Call("/inference.GRPCInferenceService/Nope", (b"",)),
    "an unknown service": Call("/a.B/C", (b"",)),
    "health": Call("/grpc.health.v1.Health/Check", (b"",)),
}

OWN_WORDS = {
    "an unknown model as a status": "Triton makes statuses of the models' own errors only",
    "an unknown version on a stream": "the answer says which versions there are",
    "a broken message on a stream": "Triton ends the stream with OK and says nothing",
    "an unknown method": "the answer names the method",
    "an unknown service": "the answer names the method",
}
"""Calls that are answered otherwise than by Triton, and why; the codes agree where there is one."""


@dataclass(frozen=True)
class Sides:
    """The two that every call is made to, and what the models are called there."""

    gateway: Gateway
    triton: str
    names: dict[str, str]

    def there(self, model: str) -> Named:
        """A model as Triton has it."""
        return Named(self.names.get(model, model), "1")

    def here(self, model: str) -> Named:
        """A model as clients of the gateway have it."""
        return Named(model, VERSION)


def port_of(address: str) -> int:
    """The port of `host:port`."""
    return int(address.rpartition(":")[2])


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """`stagegate up` on the models of this folder, all loaded."""
    folder = tmp_path_factory.mktemp("replay")
    for name in MODELS:
        model = ROOT / "tests/e2e/models" / name
        copied = Path(shutil.copytree(model, folder / "models" / name / VERSION / "files"))
        (copied.parent / "version.yaml").write_text("format: python\nartifact: files\n")
        stages = f'stages: {{production: "{VERSION}"}}\n'
        (folder / "models" / name / "model.yaml").write_text(stages)
    gateway = start_gateway(folder, "up", UP, folder / "models")
    try:
        address = gateway.json("status")["backends"][0]["address"]
        client = gateway.client()
        for name in MODELS:
            client.get_model_config(name)
        index = triton.InferenceServerClient(address).get_model_repository_index()
        yield Sides(gateway, address, {m.name.partition(".")[0]: m.name for m in index.models})
    finally:
        gateway.stop()


@pytest.mark.parametrize("name", [name for name in CALLS if name not in OWN_WORDS])
def test_the_answer_is_the_same(sides: Sides, name: str) -> None:
    """Status, text, initial and trailing metadata, and every byte of the messages but the names."""
    call = CALLS[name]
    there, here = sides.there(call.model), sides.here(call.model)

    direct = replay(call, port_of(sides.triton), there)
    through = replay(call, port_of(sides.gateway.inference), here)

    text = direct.text.replace(there.model, here.model) if call.model else direct.text
    # What is near an unknown name follows Triton's own words.
    assert through.text == text or (through.code == 5 and through.text.startswith(f"{text}; "))
    assert (through.code, through.initial, through.trailing) == (
        direct.code,
        direct.initial,
        direct.trailing,
    )
    expected = [under(there, here, call.method, message) for message in direct.messages]
    assert [parsed(call.method, message) for message in through.messages] == expected
    for ours, theirs in zip(through.messages, direct.messages, strict=True):
        assert renamed(here, call.method, theirs) in (None, ours)


@pytest.mark.parametrize("name", OWN_WORDS)
def test_where_the_gateway_says_more_it_says_it_with_a_status(sides: Sides, name: str) -> None:
    """Both refuse; the gateway never says less than Triton does."""
    call = CALLS[name]

    direct = replay(call, port_of(sides.triton), sides.there(call.model))
    through = replay(call, port_of(sides.gateway.inference), sides.here(call.model))

    assert direct.code in (through.code, 0)
    errors = [parsed("ModelStreamInfer", m).error_message for m in through.messages if "stream" in name]
    assert through.text or all(errors)
    assert len(through.text) >= len(direct.text)


def test_16_mib_pass_both_ways(sides: Sides) -> None:
    """A large tensor comes back as it went."""
    tensor_in = triton.InferInput("in_FP32", [1, 4 << 20], "FP32")
    values = np.arange(4 << 20, dtype=np.float32).reshape(1, -1)
    tensor_in.set_data_from_numpy(values)

    answer = sides.gateway.client().infer("every", [tensor_in])

    assert np.array_equal(answer.as_numpy("out_FP32"), values)


def test_statistics_of_all_models_are_those_of_each(sides: Sides) -> None:
    """Under logical names, and with the numbers that Triton has."""
    replay(one("pair", pair()), port_of(sides.gateway.inference), sides.here("pair"))
    everything = Call("ModelStatistics", (b"",))

    def ask(port: int) -> bytes:
        (answer,) = replay(everything, port, Named("", "")).messages
        return bytes(answer)

    # Triton counts a request a moment after it was answered: asked until it says the same before and after.
    for _ in range(50):
        before = ask(port_of(sides.triton))
        through, direct = ask(port_of(sides.gateway.inference)), ask(port_of(sides.triton))
        if before == direct:
            break
        time.sleep(0.1)

    expected = parsed("ModelStatistics", direct)
    logical = {triton_name: name for name, triton_name in sides.names.items()}
    for entry in expected.model_stats:
        entry.name, entry.version = logical[entry.name], VERSION
    ours = parsed("ModelStatistics", through).model_stats
    assert sorted(ours, key=lambda entry: entry.name) == sorted(
        expected.model_stats, key=lambda entry: entry.name
    )
    assert next(entry for entry in ours if entry.name == "pair").inference_count > 0


def test_the_index_is_the_same_but_for_the_names(sides: Sides) -> None:
    """What is loaded is READY in both."""
    direct = triton.InferenceServerClient(sides.triton).get_model_repository_index().models
    through = sides.gateway.client().get_model_repository_index().models

    logical = {triton_name: name for name, triton_name in sides.names.items()}
    told = sorted((logical[entry.name], VERSION, entry.state, entry.reason) for entry in direct)
    assert sorted((e.name, e.version, e.state, e.reason) for e in through) == told


def test_a_deadline_passes_on_both_sides_alike(sides: Sides) -> None:
    """A stock client sees one code and one text."""
    seen = []
    for address, model in ((sides.triton, sides.names["every"]), (sides.gateway.inference, "every")):
        tensor_in = triton.InferInput("in_FP32", [1, 1], "FP32")
        tensor_in.set_data_from_numpy(np.zeros((1, 1), np.float32))
        with pytest.raises(InferenceServerException) as caught:
            triton.InferenceServerClient(address).infer(
                model, [tensor_in], client_timeout=0.05, parameters={"sleep": 300}
            )
        seen.append((caught.value.status(), caught.value.message()))

    assert seen[0] == seen[1] == ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded")


def test_streams_are_counted_and_timed_by_version(sides: Sides) -> None:
    """Requests, answers and errors of a decoupled model; each request has one first answer."""
    fresh = sum_of(sides.gateway, "repeat")
    calls = [
        stream("repeat", repeat(5, id="a"), repeat(0, id="b"), repeat(3, id="c")),
        stream("repeat", repeat(2, id="d", parameters=parameters(fail="worn out"))),
    ]
    for call in calls:
        replay(call, port_of(sides.gateway.inference), sides.here("repeat"))

    def counted_since() -> dict[str, float]:
        now = sum_of(sides.gateway, "repeat")
        return {name: now.get(name, 0) - fresh.get(name, 0) for name in now}

    # A stream is counted at its end, which its client may see a moment before.
    wait_until("both are counted", lambda: counted_since().get("stagegate_requests_total") == 2)
    counted = counted_since()
    assert counted["stagegate_stream_requests_total"] == 4
    assert counted["stagegate_stream_responses_total success"] == 5 + 3 + 2
    assert counted["stagegate_stream_responses_total error"] == 1
    assert counted["stagegate_stream_first_response_seconds_count"] == 3
    assert counted["stagegate_stream_inter_response_seconds_count"] == 4 + 2 + 2


def sum_of(gateway: Gateway, model: str) -> dict[str, float]:
    """Metrics of a model by name (and result), over all other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(gateway.http("/metrics")[1]):
        for sample in family.samples:
            if sample.labels.get("model") == model and "le" not in sample.labels:
                name = f"{sample.name} {sample.labels.get('result', '')}".strip()
                found[name] = found.get(name, 0) + sample.value
    return found
