"""Files that a `config.pbtxt` names, beside those whose names Triton knows.

Triton joins each to a folder of the model without looking where that leads, and some of what it reads so it
gives to clients: the lines of a label file are answers of the classification extension, and an initial state
comes back as a state's output.
"""

from __future__ import annotations

from collections.abc import Iterator

from tritonclient.grpc.model_config_pb2 import ModelConfig


def file_that_leaves(config: ModelConfig) -> str:
    """The first field that names a file outside the model's own folder, with what it says; "" for none."""
    return next((f"{field} {text[:80]!r}" for field, text in _files(config) if leaves(text)), "")


def setting_that_leaves(config: ModelConfig) -> str:
    """The first parameter of the model, or of an accelerator, that names a path outside; "" for none.

    What a backend does with its parameters it alone knows: caches and engines are read and written so.
    """
    return next((f"{field} {text[:80]!r}" for field, text in _settings(config) if leaves(text)), "")


def leaves(text: str) -> bool:
    """Whether a path may lead out of the folder that it is joined to."""
    return text.startswith("/") or ".." in text.split("/") or "\0" in text


def _files(config: ModelConfig) -> Iterator[tuple[str, str]]:
    yield "default_model_filename", config.default_model_filename
    for text in config.cc_model_filenames.values():
        yield "cc_model_filenames", text
    for output in config.output:
        yield "label_filename", output.label_filename
    for warmup in config.model_warmup:
        for value in warmup.inputs.values():
            yield "input_data_file", value.input_data_file
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            yield "initial_state.data_file", initial.data_file


def _settings(config: ModelConfig) -> Iterator[tuple[str, str]]:
    for key, parameter in config.parameters.items():
        yield f"parameter {key[:40]!r}", parameter.string_value
    accelerators = config.optimization.execution_accelerators
    for one in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        for key, text in one.parameters.items():
            yield f"parameter {key[:40]!r} of accelerator {one.name[:40]!r}", text
