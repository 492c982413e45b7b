"""The inference protocol as we write it down, against the classes of the official client."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

DESCRIPTORS = Path(__file__).parents[2] / "gateway/dataplane/core/descriptors.binpb"


@pytest.fixture(scope="module")
def ours() -> descriptor_pool.DescriptorPool:
    """Our descriptor set in a pool of its own: two sets of one name cannot live in the default one."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """What of a field goes over the wire, and its name for JSON and reflection."""
    kind = field.message_type.full_name if field.message_type else ""
    enum = field.enum_type.full_name if field.enum_type else ""
    oneof = field.containing_oneof.name if field.containing_oneof else ""
    return field.name, field.number, field.type, field.is_repeated, kind, enum, oneof


def fields(message: Descriptor) -> list[tuple[object, ...]]:
    """All fields of a message by number."""
    return sorted((shape(field) for field in message.fields), key=lambda f: f[1])  # type: ignore[return-value,arg-type]


@pytest.mark.parametrize("module", [service_pb2, model_config_pb2], ids=["service", "model_config"])
def test_every_message_has_the_published_fields(ours: descriptor_pool.DescriptorPool, module: object) -> None:
    """Names, numbers and types of every message, nested ones too, are those of tritonclient."""

    def compare(message: Descriptor) -> None:
        mine = ours.FindMessageTypeByName(message.full_name)
        assert fields(mine) == fields(message), message.full_name
        for enum in message.enum_types:
            assert enum.values_by_name.keys() == mine.enum_types_by_name[enum.name].values_by_name.keys()
        for nested in message.nested_types:
            compare(nested)

    descriptor = module.DESCRIPTOR  # type: ignore[attr-defined]
    assert descriptor.message_types_by_name
    for message in descriptor.message_types_by_name.values():
        compare(message)
    for name, enum in descriptor.enum_types_by_name.items():
        mine = ours.FindEnumTypeByName(enum.full_name)
        assert {v.name: v.number for v in mine.values} == {v.name: v.number for v in enum.values}, name


def test_every_call_has_the_published_shape(ours: descriptor_pool.DescriptorPool) -> None:
    """The service has the same calls, with the same messages and the same streaming sides."""
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    mine = ours.FindServiceByName("inference.GRPCInferenceService")
    expected = {
        m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming)
        for service in theirs.service
        for m in service.method
    }

    actual = {
        m.name: (
            f".{m.input_type.full_name}",
            f".{m.output_type.full_name}",
            m.client_streaming,
            m.server_streaming,
        )
        for m in mine.methods
    }

    if not expected:  # tritonclient keeps its service in a second file
        pytest.fail("tritonclient's descriptor has no service")
    assert actual == expected
