"""The REST protocol: calls straight to a Triton and through the gateway, and what only the gateway does."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as grpc_triton
import tritonclient.http as triton

from router.backends.process import TritonOptions, TritonProcess
from router.backends.wheel import find_triton
from tests.e2e.conftest import Gateway, start_gateway, wait_until

MODELS = Path(__file__).parent / "models"
VERSION = "7"
"""The logical version of every model here; Triton's is always 1."""


@dataclass(frozen=True)
class Told:
    """All that matters of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, or the part before binary tensors."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])


@dataclass(frozen=True)
class Call:
    """One request. In `path` and texts `{every}` and its like stand for the name of a model."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Side:
    """A REST endpoint, and what it calls the models."""

    def __init__(self, address: str, names: dict[str, str], version: str) -> None:
        self.address = address
        self.names = names
        self.version = version

    def connect(self) -> socket.socket:
        """A plain connection."""
        host, _, port = self.address.rpartition(":")
        connected = socket.create_connection((host, int(port)), timeout=20)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def call(self, call: Call) -> Told:
        """Make a call on a connection of its own."""
        with self.connect() as connected, connected.makefile("rb") as stream:
            connected.sendall(self.request(call))
            return read_answer(stream)

    def request(self, call: Call) -> bytes:
        """The bytes of a request."""
        path = call.path.format(**self.names, version=self.version)
        headers = [("Host", "test"), *call.headers]
        if call.method == "POST" and "Transfer-Encoding" not in dict(headers):
            headers.append(("Content-Length", str(len(call.body))))
        lines = [f"{call.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + call.body

    def neutral(self, told: Told) -> Any:
        """Status and body as they are on both sides alike."""
        body = told.body.decode("latin-1")
        for key, name in self.names.items():
            body = body.replace(name, f"<{key}>")
        body = body.replace(f'"model_version":"{self.version}"', '"model_version":"<version>"')
        body = body.replace(f'"versions":["{self.version}"]', '"versions":["<version>"]')
        return told.status, body


def read_answer(stream: Any) -> Told:
    """Read one answer, whichever way its end is told."""
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        return Told(status, headers, b"".join(read_chunks(stream)))
    length = headers.get("content-length")
    return Told(status, headers, stream.read(int(length)) if length is not None else stream.read())


def read_chunks(stream: Any) -> Iterator[bytes]:
    """The chunks of a body, as they come."""
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        assert stream.read(2) == b"\r\n"
    assert stream.readline() == b"\r\n"


@dataclass
class Rig:
    """A Triton with the models, and a gateway before it."""

    direct: Side
    through: Side
    gateway: Gateway

    def both(self, call: Call) -> tuple[Any, Any]:
        """What both sides say to the same call, without the names."""
        return self.direct.neutral(self.direct.call(call)), self.through.neutral(self.through.call(call))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TritonProcess]:
    """A Triton that the gateway loads models into."""
    folder = tmp_path_factory.mktemp("triton")
    options = TritonOptions(name="t0", repository=folder / "repository", work=folder / "work")
    async with TritonProcess(find_triton(), options) as running:
        yield running


@pytest.fixture(scope="module")
def rig(process: TritonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The gateway, once all models are loaded."""
    folder = tmp_path_factory.mktemp("gateway")
    names = ("every", "talk", "accumulate")
    for name in names:
        place = folder / "models" / name / VERSION
        place.mkdir(parents=True)
        shutil.copytree(MODELS / name, place / "model")
        (place / "version.yaml").write_text("format: python\nartifact: model\n")
        (place.parent / "model.yaml").write_text(
            f'stages: {{production: "{VERSION}"}}\naliases: {{champion: "{VERSION}"}}\n'
        )
    body = (
        "registries:\n  local: {type: folder, path: ./models}\n"
        "limits: {max_message: 4MiB}\n"
        f'backends:\n  - {{name: t0, grpc: "{process.grpc}", http: "{process.http}", control: explicit, '
        f'repository: "{process.options.repository}"}}\n'
    )
    gateway = start_gateway(folder, "gateway", body, folder / "models")
    try:
        client = triton.InferenceServerClient(gateway.rest)
        for name in names:
            # A cold version has to be loaded for its configuration.
            assert client.get_model_config(name)["name"] == name
        with triton.InferenceServerClient(process.http) as there:
            index = there.get_model_repository_index()
        triton_names = {entry["name"].split(".")[0]: entry["name"] for entry in index}
        direct = Side(process.http, {name: triton_names[name] for name in names}, "1")
        yield Rig(direct, Side(gateway.rest, {name: name for name in names}, VERSION), gateway)
    finally:
        gateway.stop()


SIZES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
}
INFER = "/v2/models/{every}/infer"


def as_json(value: Any) -> bytes:
    """A JSON text."""
    return json.dumps(value).encode()


def post(path: str, body: Any, *headers: tuple[str, str]) -> Call:
    """A POST of bytes or of JSON."""
    return Call("POST", path, body if isinstance(body, bytes) else as_json(body), headers)


def get(path: str) -> Call:
    """A GET."""
    return Call("GET", path)


def plain(**more: Any) -> Any:
    """A small request in JSON alone."""
    entry = {"name": "in_FP32", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.5]}
    return {"inputs": [entry], **more}


def binary(datatype: str, count: int = 2, wanted: bool = True) -> Call:
    """The same tensor in and out, in binary."""
    content = (
        struct.pack("<I", 3) + b"a\xffz" if datatype == "BYTES" else bytes(range(1, SIZES[datatype] + 1))
    )
    end = "STRING" if datatype == "BYTES" else datatype
    content *= count
    asked = {
        "inputs": [
            {
                "name": f"in_{end}",
                "shape": [1, count],
                "datatype": datatype,
                "parameters": {"binary_data_size": len(content)},
            }
        ],
        "outputs": [{"name": f"out_{end}", "parameters": {"binary_data": wanted}}],
    }
    head = as_json(asked)
    return post(INFER, head + content, ("Inference-Header-Content-Length", str(len(head))))


def talk(text: str = "hi", **more: int) -> Any:
    """A request to the text model."""
    return {"text_input": text, **more}


CALLS: dict[str, Call] = {
    **{f"binary {kind}": binary(kind) for kind in (*SIZES, "BYTES")},
    **{f"binary in, JSON out {kind}": binary(kind, wanted=False) for kind in ("INT64", "FP32", "BOOL")},
    "a large tensor": binary("FP32", 300_000),
    "a large tensor in JSON": binary("INT64", 50_000, wanted=False),
    "no elements": binary("FP32", 0),
    "JSON": post(INFER, plain()),
    "by version": post("/v2/models/{every}/versions/{version}/infer", plain()),
    "an id": post(INFER, plain(id='an "id" \u00e9')),
    "binary_data_output": post(INFER, plain(parameters={"binary_data_output": True})),
    "gzip": post(INFER, gzip.compress(as_json(plain())), ("Content-Encoding", "gzip")),
    "deflate": post(INFER, zlib.compress(as_json(plain())), ("Content-Encoding", "deflate")),
    "identity": post(INFER, plain(), ("Content-Encoding", "identity")),
    "an unknown encoding": post(INFER, plain(), ("Content-Encoding", "br")),
    "no JSON": post(INFER, b"{bad"),
    "empty JSON": post(INFER, {}),
    "no inputs": post(INFER, {"inputs": []}),
    "an unknown input": post(INFER, {"inputs": [{**plain()["inputs"][0], "name": "nope"}]}),
    "an unknown output": post(INFER, plain(outputs=[{"name": "nope"}])),
    "a wrong size": post(INFER, {"inputs": [{**plain()["inputs"][0], "shape": [1, 3]}]}),
    "a wrong datatype": post(INFER, {"inputs": [{**plain()["inputs"][0], "datatype": "INT8"}]}),
    "a reserved parameter": post(INFER, plain(parameters={"triton_x": 1})),
    "the model fails": post(INFER, plain(parameters={"fail": 'no "more" \u00e9'})),
    "the model is unavailable": post(INFER, plain(parameters={"fail": "no", "code": "UNAVAILABLE"})),
    "the model raises": post(INFER, plain(parameters={"raise": "broken\nin two"})),
    "a head that is too long": post(INFER, plain(), ("Inference-Header-Content-Length", "9999")),
    "a sequence without start": post(
        "/v2/models/{accumulate}/infer",
        {
            "inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [1]}],
            "parameters": {"sequence_id": 77},
        },
    ),
    "a sequence step": post(
        "/v2/models/{accumulate}/infer",
        {
            "inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [1]}],
            "parameters": {"sequence_id": 5, "sequence_start": True, "sequence_end": True},
        },
    ),
    "decoupled in infer": post(
        "/v2/models/{talk}/infer",
        {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
    ),
    "generate": post("/v2/models/{talk}/generate", talk(), ("X-Mine", "1")),
    "generate with an id": post("/v2/models/{talk}/generate", {**talk(), "id": "5"}),
    "generate of many": post("/v2/models/{talk}/generate", talk(words=2)),
    "generate without input": post("/v2/models/{talk}/generate", {"a": 1}),
    "generate of no JSON": post("/v2/models/{talk}/generate", b"{"),
    "generate that fails": post("/v2/models/{talk}/generate", talk(words=0)),
    "stream": post("/v2/models/{talk}/generate_stream", talk(words=3)),
    "stream by version": post("/v2/models/{talk}/versions/{version}/generate_stream", talk(words=1)),
    "a stream of none": post("/v2/models/{talk}/generate_stream", talk(words=0)),
    "a stream that ends badly": post("/v2/models/{talk}/generate_stream", talk(words=-2)),
    "a stream of no JSON": post("/v2/models/{talk}/generate_stream", b"{"),
    "metadata": get("/v2/models/{every}"),
    "metadata by version": get("/v2/models/{every}/versions/{version}"),
    "config": get("/v2/models/{every}/config"),
    "config by version": get("/v2/models/{accumulate}/versions/{version}/config"),
    "a query": get("/v2/models/{every}?x=1"),
    "an unknown model is not ready": get("/v2/models/nope/ready"),
    "an unknown version is not ready": get("/v2/models/{every}/versions/9/ready"),
    "statistics of an unknown model": get("/v2/models/nope/stats"),
    "another method": get(INFER),
    "yet another method": Call("DELETE", "/v2/models/{every}"),
    "no such path": get("/v2/nope"),
    "no model": get("/v2/models"),
    "a slash too many": get("/v2/models/{every}/"),
    "two slashes": get("//v2/models/{every}"),
    "a path of others": post("/invocations", b""),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_triton_says_the_gateway_says(rig: Rig, name: str) -> None:
    """Status and body agree but for the names."""
    direct, through = rig.both(CALLS[name])

    assert through == direct


# what only the gateway does


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/every/versions/production/infer",
        "/v2/models/every/versions/%40champion/infer",
        "/v2/models/every%40champion/infer",
        "/v2/models/every@PRODUCTION/infer",
        "/v2/models/every/versions/7/infer",
    ],
)
def test_a_reference_may_stand_wherever_grpc_takes_one(rig: Rig, path: str) -> None:
    """A version, a stage or an alias, in the name or as the version, escaped or not."""
    told = rig.through.call(post(path, plain()))

    assert told.status == 200, told.body
    assert (told.json()["model_name"], told.json()["model_version"]) == ("every", VERSION)
    assert told.headers["stagegate-version"] == VERSION
    assert told.headers["stagegate-arm"] in ("stable", "pinned")
    assert len(told.headers["stagegate-request"]) == 16


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (post("/v2/models/nope/infer", plain()), 404, "Request for unknown model: 'nope' is not found"),
        (
            post("/v2/models/every/versions/abc/infer", plain()),
            404,
            "Request for unknown model: 'every' version abc is not found",
        ),
        (post("/v2/models/every%00/infer", plain()), 400, "model_name 'every\\u{0}' is not allowed"),
        (post("/v2/models/a%2fb/infer", plain()), 404, "Not Found"),
        (post("/v2/models/../repository/index", b""), 404, "Not Found"),
        (post("/v2/models/%2e%2e/infer", b""), 404, "Not Found"),
        (post("/v2/repository/models/every/load", b""), 501, "'RepositoryModelLoad' to protocol.allow"),
        (get("/v2/systemsharedmemory/status"), 501, "'shared_memory'"),
        (post("/v2/cudasharedmemory/region/r/register", b"{}"), 501, "protocol.allow"),
        (get("/v2/trace/setting"), 501, "'trace'"),
        (post("/v2/logging", b"{}"), 501, "'log'"),
        (post("/v2/repository/index", b"junk"), 500, "failed to parse the request JSON buffer"),
        (post(INFER, b"x" * (4 << 20) + b"x"), 413, "limits.max_message"),
        (post(INFER, gzip.compress(bytes(64 << 20)), ("Content-Encoding", "gzip")), 413, "inflate"),
        (post(INFER, b"no gzip at all", ("Content-Encoding", "gzip")), 400, "Content-Encoding"),
    ],
)
def test_a_refusal_is_told_in_tritons_shape(rig: Rig, call: Call, status: int, text: str) -> None:
    """An object with `error`, and a status that says whose fault it is."""
    told = rig.through.call(call)

    assert told.status == status
    assert told.headers["content-type"] == "application/json"
    assert text in told.json()["error"]


def test_health_is_told_in_json_too(rig: Rig) -> None:
    """Triton's clients look at the status only, KServe's at the body."""
    assert rig.through.call(get("/v2/health/live")).json() == {"live": True}
    assert rig.through.call(get("/v2/health/ready")).json() == {"ready": True}
    assert rig.through.call(get("/v2/models/every/ready")).json() == {"name": "every", "ready": True}


@pytest.fixture
def client(rig: Rig) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client."""
    with triton.InferenceServerClient(rig.through.address) as connected:
        yield connected


def test_tritons_client_sees_a_triton(client: triton.InferenceServerClient) -> None:
    """All that it asks for beside inferences."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("every")
    assert client.is_model_ready("every", "production")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "triton"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("every@champion")
    assert (metadata["name"], metadata["versions"]) == ("every", [VERSION])
    assert client.get_model_config("every", VERSION)["instance_group"][0]["name"] == "every_0"
    assert {"name": "talk", "version": VERSION, "state": "READY"} in client.get_model_repository_index()


# BF16 is among the replayed calls; numpy has none.
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-1, 32767]], np.int16),
    "INT32": np.array([[-1, 2**31 - 1]], np.int32),
    "INT64": np.array([[-1, 2**63 - 1]], np.int64),
    "FP16": np.array([[0.5, -1.5]], np.float16),
    "FP32": np.array([[0.5, -1.5]], np.float32),
    "FP64": np.array([[0.5, -1.5]]),
    "BYTES": np.array([[b"", b"two"]], object),
}


@pytest.mark.parametrize("datatype", ARRAYS)
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_tritons_client_gets_its_tensors_back(
    client: triton.InferenceServerClient, datatype: str, packed: str | None
) -> None:
    """In binary, and in JSON where the datatype has a form there; compressed as the client likes."""
    end, array = "STRING" if datatype == "BYTES" else datatype, ARRAYS[datatype]
    for as_binary in (True, False):
        if not as_binary and datatype == "FP16":
            continue
        tensor = triton.InferInput(f"in_{end}", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=as_binary)
        answer = client.infer(
            "every",
            [tensor],
            outputs=[triton.InferRequestedOutput(f"out_{end}", binary_data=as_binary)],
            request_id="five",
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
        head = answer.get_response()
        assert (head["model_name"], head["model_version"], head["id"]) == ("every", VERSION, "five")
        back = answer.as_numpy(f"out_{end}")
        if datatype == "BYTES" and not as_binary:
            back = np.array([[text.encode() for text in row] for row in back], object)
        np.testing.assert_array_equal(back, array)


def test_a_raw_tensor_needs_no_json(rig: Rig) -> None:
    """With a JSON part of no bytes the body is the tensor; Triton knows the only input's name."""
    call = post(
        "/v2/models/{accumulate}/infer", struct.pack("<i", 4), ("Inference-Header-Content-Length", "0")
    )

    direct, through = rig.both(call)
    assert through == direct


def test_statistics_are_of_logical_names(client: triton.InferenceServerClient, rig: Rig) -> None:
    """Of one model or of all, and they count what Triton counted."""
    count = client.get_inference_statistics("every")["model_stats"][0]["inference_count"]
    rig.through.call(post(INFER, plain()))
    one = client.get_inference_statistics("every", VERSION)["model_stats"]
    everything = client.get_inference_statistics()["model_stats"]

    assert [(entry["name"], entry["version"]) for entry in one] == [("every", VERSION)]
    assert one[0]["inference_count"] == count + 1
    assert {entry["name"] for entry in everything} == set(rig.through.names)


def test_events_come_as_they_are_made(rig: Rig) -> None:
    """Each answer of a stream reaches the client before the next is made."""
    call = post("/v2/models/talk/generate_stream", talk(words=4, pause=300))
    with rig.through.connect() as connected, connected.makefile("rb") as stream:
        connected.sendall(rig.through.request(call))
        began = time.monotonic()
        while stream.readline().strip():
            pass
        times = [time.monotonic() - began for _ in read_chunks(stream)]

    assert len(times) == 4
    assert times[-1] - times[0] > 0.6


def test_a_client_that_goes_away_ends_its_request(rig: Rig) -> None:
    """Its stream counts as cancelled, and nothing of it is in flight."""
    call = post("/v2/models/talk/generate_stream", talk(words=12, pause=50))
    with rig.through.connect() as connected:
        connected.sendall(rig.through.request(call))
        assert connected.recv(1)

    def counted() -> bool:
        text = rig.gateway.http("/metrics")[1]
        cancelled = 'stagegate_requests_total{arm="stable",code="CANCELLED",model="talk",version="7"} 1.0'
        idle = 'stagegate_inflight_requests{model="talk",version="7"} 0.0'
        return cancelled in text and idle in text

    wait_until("it is counted as cancelled", counted, 10)


def test_many_requests_share_a_connection(rig: Rig) -> None:
    """One after the other, and sent ahead of their answers."""
    calls = [
        post(INFER, plain(id="1")),
        get("/v2/nope"),
        binary("FP32", 20_000),
        post("/v2/models/talk/generate", talk()),
        post(INFER, plain(id="5")),
    ]
    with rig.through.connect() as connected, connected.makefile("rb") as stream:
        connected.sendall(b"".join(rig.through.request(call) for call in calls))
        told = [read_answer(stream) for _ in calls]

    assert [one.status for one in told] == [200, 404, 200, 200, 200]
    assert (told[0].json()["id"], told[4].json()["id"]) == ("1", "5")


def test_a_chunked_body_is_taken(rig: Rig) -> None:
    """Whatever its chunks; Triton gets it in larger ones."""
    body = as_json(plain())
    for size in (1, 7, len(body)):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        told = rig.through.call(post(INFER, chunks, ("Transfer-Encoding", "chunked")))
        assert told.status == 200, told.body
        assert told.json()["model_name"] == "every"


def test_a_sequence_is_one_whatever_speaks_it(rig: Rig) -> None:
    """It begins by REST, goes on by gRPC and ends by REST: one state, in one place."""

    def by_rest(number: int, **more: Any) -> int:
        entry = {"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [number]}
        asked = {"inputs": [entry], "parameters": {"sequence_id": 4_711, **more}}
        told = rig.through.call(post("/v2/models/accumulate/infer", asked))
        assert told.status == 200, told.body
        return int(told.json()["outputs"][0]["data"][0])

    tensor = grpc_triton.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[20]], np.int32))

    assert by_rest(1, sequence_start=True) == 1
    answer = rig.gateway.client().infer("accumulate", [tensor], sequence_id=4_711)
    assert answer.as_numpy("sum").item() == 21
    assert by_rest(300, sequence_end=True) == 321
    # The sequence is over: Triton knows no such one.
    entry = {"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [1]}
    told = rig.through.call(
        post("/v2/models/accumulate/infer", {"inputs": [entry], "parameters": {"sequence_id": 4_711}})
    )
    assert told.status == 400
