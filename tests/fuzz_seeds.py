"""`python -m tests.fuzz_seeds`: makes the seeds of `gateway/dataplane/fuzz/corpus` anew.

Messages are written by the stock Triton client's classes, connections by an HTTP/2 library.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from tritonclient.grpc import model_config_pb2, service_pb2

from tests.e2e.raw import INFER, STREAM, call_headers, frame

CORPUS = Path(__file__).parents[1] / "gateway/dataplane/fuzz/corpus"
TRITON = "digits.3.0a1b2c3d"

Act = Callable[[H2Connection], None]


def infer_request(model: str = "digits", version: str = "", size: int = 64) -> service_pb2.ModelInferRequest:
    """One image, as a client sends it."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version, id="id-1")
    request.inputs.add(name="image", datatype="FP32", shape=[1, size // 4])
    request.outputs.add(name="label")
    request.raw_input_contents.append(bytes(range(256))[:size] * (1 + size // 256))
    return request


def infer_response() -> service_pb2.ModelInferResponse:
    """What Triton answers."""
    answer = service_pb2.ModelInferResponse(model_name=TRITON, model_version="1", id="id-1")
    answer.outputs.add(name="label", datatype="INT64", shape=[1])
    answer.raw_output_contents.append(bytes(8))
    return answer


def messages() -> dict[str, bytes]:
    """Every kind of message that is read, and texts that stand in headers."""
    sequence = infer_request()
    sequence.parameters["sequence_id"].int64_param = 7
    sequence.parameters["sequence_start"].bool_param = True
    sequence.parameters["priority"].uint64_param = 1
    sequence.parameters["user"].string_param = "ü"
    typed = infer_request("digits@champion", "")
    typed.inputs[0].contents.fp32_contents.extend([0.5] * 8)
    metadata = service_pb2.ModelMetadataResponse(name=TRITON, versions=["1"], platform="python")
    metadata.inputs.add(name="image", datatype="FP32", shape=[-1, 64])
    config = model_config_pb2.ModelConfig(name=TRITON, backend="python", max_batch_size=8)
    config.ensemble_scheduling.step.add(model_name=TRITON, model_version=-1)
    config.parameters["a"].string_value = "b"
    statistics = service_pb2.ModelStatisticsResponse()
    stats = statistics.model_stats.add(name=TRITON, version="1", inference_count=3, execution_count=2)
    stats.inference_stats.success.count = 3
    stats.inference_stats.success.ns = 12345
    stats.batch_stats.add(batch_size=2).compute_infer.count = 1
    stream = service_pb2.ModelStreamInferResponse(infer_response=infer_response())
    broken = service_pb2.ModelStreamInferResponse(error_message=f"model '{TRITON}' broke")
    made: dict[str, Message] = {
        "request": infer_request(),
        "request-version": infer_request("digits", "3"),
        "request-large": infer_request(size=4096),
        "request-sequence": sequence,
        "request-typed": typed,
        "response": infer_response(),
        "metadata": metadata,
        "config": service_pb2.ModelConfigResponse(config=config),
        "statistics": statistics,
        "stream-answer": stream,
        "stream-error": broken,
        "index": service_pb2.RepositoryIndexRequest(repository_name="r", ready=True),
    }
    found = {name: message.SerializeToString() for name, message in made.items()}
    found["health"] = b"\x0a\x20inference.GRPCInferenceService\x00"
    found["reflection"] = b"\x0a\x04host\x22\x1einference.GRPCInferenceService"
    found["gzip"] = gzip.compress(found["request-large"], mtime=0)
    found["deflate"] = zlib.compress(found["request-large"])
    found["bomb"] = gzip.compress(bytes(1 << 20), mtime=0)
    found["text"] = f"expected 2 inputs for model '{TRITON}' at 50%25 %C3%A9".encode()
    found["timeout"] = b"29999m"
    found["empty"] = b""
    return found


def recorded(act: Act, window: int | None = None) -> bytes:
    """All bytes of a client that does this on a new connection."""
    h2 = H2Connection(
        H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    h2.initiate_connection()
    if window is not None:
        h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    h2.increment_flow_control_window(1 << 20)
    act(h2)
    return bytes(h2.data_to_send())


def call(
    path: str, body: bytes, *more: tuple[str, str], pieces: int = 1 << 14
) -> Callable[[H2Connection], None]:
    """A whole call."""

    def act(h2: H2Connection) -> None:
        stream = h2.get_next_available_stream_id()
        h2.send_headers(stream, call_headers(path, *more))
        for at in range(0, len(body), pieces):
            h2.send_data(stream, body[at : at + pieces])
        h2.end_stream(stream)

    return act


def connections() -> dict[str, bytes]:
    """What clients do, lawful most of it."""
    one = frame(infer_request().SerializeToString())
    large = frame(infer_request(size=40_000).SerializeToString())
    packed = frame(gzip.compress(infer_request().SerializeToString(), mtime=0), 1)
    both = service_pb2.ModelInferRequest(model_name="digits@@champion", id="2").SerializeToString()

    def several(h2: H2Connection) -> None:
        for path in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex", "LogSettings"):
            call(f"/inference.GRPCInferenceService/{path}", frame(b""))(h2)
        for path in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
            call(f"/inference.GRPCInferenceService/{path}", frame(b"\x0a\x06digits"))(h2)
        call("/grpc.health.v1.Health/Check", frame(b""))(h2)

    def controls(h2: H2Connection) -> None:
        h2.ping(b"12345678")
        h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1, SettingCodes.HEADER_TABLE_SIZE: 0})
        call(INFER, one)(h2)
        h2.prioritize(1, weight=16, depends_on=0, exclusive=False)
        h2.increment_flow_control_window(100, 1)
        h2.ping(b"87654321")
        h2.close_connection()

    def given_up(h2: H2Connection) -> None:
        for _ in range(5):
            stream = h2.get_next_available_stream_id()
            h2.send_headers(stream, call_headers(INFER, ("grpc-timeout", "10S")))
            h2.send_data(stream, one[:20], pad_length=7)
            h2.reset_stream(stream, 8)

    def with_trailers(h2: H2Connection) -> None:
        h2.send_headers(1, call_headers(INFER, ("x-bin", "AAE="), ("x-long", "v" * 9000)))
        h2.send_data(1, one)
        h2.send_headers(1, [(b"x-trailing", b"1")], end_stream=True)

    def not_grpc(h2: H2Connection) -> None:
        h2.send_headers(1, call_headers("/", content="text/html"), end_stream=True)

    return {
        "infer": recorded(call(INFER, one)),
        "infer-large": recorded(call(INFER, large)),
        "infer-split": recorded(call(INFER, one, pieces=3)),
        "infer-gzip": recorded(call(INFER, packed, ("grpc-encoding", "gzip"), ("grpc-timeout", "5S"))),
        "stream": recorded(call(STREAM, one + frame(both) + one, pieces=50)),
        "stream-small-window": recorded(call(STREAM, one * 4, ("triton_grpc_error", "true")), window=3),
        "others": recorded(several),
        "controls": recorded(controls),
        "given-up": recorded(given_up),
        "trailers": recorded(with_trailers),
        "not-grpc": recorded(
            lambda h2: h2.send_headers(1, call_headers("/", content="text/html"), end_stream=True)
        ),
        "http1": b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n",
    }


def main() -> int:
    """Write all seeds."""
    for kind, seeds in (("messages", messages()), ("frames", connections())):
        for name, content in seeds.items():
            (CORPUS / kind / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
