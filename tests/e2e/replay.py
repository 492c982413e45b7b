"""One call, made twice: straight to a Triton and through the gateway, and what differs between the two."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from tests.e2e.raw import Client, call_headers, text_field

SERVICE = "/inference.GRPCInferenceService/"
PATIENCE = 20.0
ONE_FRAME = 16_000
OURS = ("stagegate-", ":")
"""Beginnings of header names that a client of Triton knows nothing of, or that are no metadata."""

REQUESTS: dict[str, type[Message]] = {
    "ModelInfer": pb.ModelInferRequest,
    "ModelStreamInfer": pb.ModelInferRequest,
    "ModelReady": pb.ModelReadyRequest,
    "ModelMetadata": pb.ModelMetadataRequest,
    "ModelConfig": pb.ModelConfigRequest,
    "ModelStatistics": pb.ModelStatisticsRequest,
}
ANSWERS: dict[str, type[Message]] = {
    "ModelInfer": pb.ModelInferResponse,
    "ModelStreamInfer": pb.ModelStreamInferResponse,
    "ModelReady": pb.ModelReadyResponse,
    "ModelMetadata": pb.ModelMetadataResponse,
    "ModelConfig": pb.ModelConfigResponse,
    "ModelStatistics": pb.ModelStatisticsResponse,
    "ServerLive": pb.ServerLiveResponse,
    "ServerReady": pb.ServerReadyResponse,
}


@dataclass(frozen=True)
class Named:
    """A model under the name and version that one of the two sides has for it."""

    model: str
    version: str


@dataclass(frozen=True)
class Call:
    """One call, whichever side it is made to.

    Attributes:
        method: of the inference service, or a whole path.
        messages: request messages; the names of the model are put in where `model` is set.
        model: key of the model, "" where the messages are sent as they are.
        version: the version field: "" or the text itself, `*` for the side's own version.
        metadata: what the client adds.
        encoding: `gzip` or `deflate` to compress the messages.
        cut: bytes in one DATA frame, 0 for as many as fit.
        names_last: whether the names stand behind everything else.
    """

    method: str
    messages: tuple[Message | bytes, ...] = ()
    model: str = ""
    version: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    encoding: str = ""
    cut: int = 0
    names_last: bool = False


@dataclass
class Told:
    """All that a client sees of an answer."""

    code: int
    text: str
    initial: list[tuple[str, str]]
    trailing: list[tuple[str, str]]
    messages: list[bytes] = field(default_factory=list)


def replay(call: Call, port: int, named: Named) -> Told:
    """Make the call on a connection of its own."""
    path = call.method if call.method.startswith("/") else SERVICE + call.method
    extra = [("grpc-encoding", call.encoding)] if call.encoding else []
    body = b"".join(_framed(_request(call, message, named), call.encoding) for message in call.messages)
    with Client(port) as client:
        stream = client.open(call_headers(path, *extra, *call.metadata))
        if call.cut:
            for at in range(0, len(body), call.cut):
                client.data(stream, body[at : at + call.cut])
            client.data(stream, b"", end=True)
        elif len(body) < ONE_FRAME:
            # The end comes with the last byte: a server that answers at once resets nothing.
            client.data(stream, body, end=True)
        else:
            client.stuff(stream, body)
        answer = client.answer(stream, PATIENCE)
    own = [pair for pair in answer.pairs if not pair[0].startswith(OURS)]
    begun = sum(not name.startswith(OURS) for name in answer.headers) if answer.trailers else 0
    trailing = [pair for pair in own[begun:] if pair[0] not in ("grpc-status", "grpc-message")]
    messages = split(bytes(answer.body))
    return Told(answer.code, unquote(answer.message), sorted(own[:begun]), sorted(trailing), messages)


def _request(call: Call, message: Message | bytes, named: Named) -> bytes:
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    if not call.model:
        return raw
    version = named.version if call.version == "*" else call.version
    names = text_field(1, named.model.encode()) + (text_field(2, version.encode()) if version else b"")
    return raw + names if call.names_last else names + raw


def _framed(message: bytes, encoding: str) -> bytes:
    if not encoding:
        return struct.pack(">BI", 0, len(message)) + message
    packed = gzip.compress(message) if encoding == "gzip" else zlib.compress(message)
    return struct.pack(">BI", 1, len(packed)) + packed


def split(body: bytes) -> list[bytes]:
    """The plain messages of a body."""
    messages = []
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        assert flag == 0, "a compressed answer was not asked for"
        messages.append(body[5 : 5 + size])
        body = body[5 + size :]
    return messages


def renamed(named: Named, method: str, message: bytes) -> bytes | None:
    """The very bytes that an answer of Triton's becomes; None where it is made anew."""
    names = text_field(1, named.model.encode()) + text_field(2, named.version.encode())
    if method == "ModelInfer":
        return message + names
    # One without outputs repeats the version of its request, which is not the same on the two sides.
    if method == "ModelStreamInfer" and parsed(method, message).infer_response.outputs:
        return message + text_field(2, names)
    return None


def under(there: Named, named: Named, method: str, message: bytes) -> Any:
    """An answer of Triton's as a client of the gateway should read it: under the logical names."""
    answer = parsed(method, message)
    match answer:
        case pb.ModelInferResponse():
            answer.model_name, answer.model_version = named.model, named.version
        case pb.ModelStreamInferResponse():
            answer.error_message = answer.error_message.replace(there.model, named.model)
            if answer.infer_response.model_name:
                answer.infer_response.model_name = named.model
                answer.infer_response.model_version = named.version
        case pb.ModelMetadataResponse():
            answer.name = named.model
            answer.versions[:] = [named.version]
        case pb.ModelConfigResponse():
            answer.config.name = named.model
        case pb.ModelStatisticsResponse():
            for entry in answer.model_stats:
                entry.name, entry.version = named.model, named.version
        case _:
            pass
    return answer


def parsed(method: str, message: bytes) -> Any:
    """A message as a client reads it; the bytes where nothing is known of them."""
    if method not in ANSWERS:
        return message
    answer = ANSWERS[method]()
    answer.ParseFromString(message)
    return answer
