"""Which Triton backend serves which format: a table like KServe's `supportedModelFormats`, and the choice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from router.errors import UnsupportedFormat

ASSUMED = frozenset({"python"})
"""Backends that a Triton is taken to have where nobody said which it has."""

SHAPED = ""
"""The backend of a format whose files say themselves what they run on."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One way to serve a format.

    Attributes:
        name: what the tag `triton.runtime` of a version asks for.
        format: the format that it serves.
        version: of that format, "" for any.
        backend: the folder in Triton's backend folder that must be there; `SHAPED` where the files decide.
        platform: Triton's word for the kind of file, where the backend knows several.
        template: the model.py that is generated, "" where none is.
        auto_select: whether it is taken without being asked for by name.
        priority: the highest one that can run is taken.
    """

    name: str
    format: str
    version: str = ""
    backend: str = SHAPED
    platform: str = ""
    template: str = ""
    auto_select: bool = True
    priority: int = 1


RUNTIMES = (
    Runtime("onnxruntime", "onnx", backend="onnxruntime", priority=2),
    Runtime("onnx-python", "onnx", backend="python", template="onnx_model.py"),
    Runtime("pytorch", "torchscript", backend="pytorch", platform="pytorch_libtorch"),
    Runtime("tensorrt", "tensorrt", backend="tensorrt", platform="tensorrt_plan"),
    Runtime("tensorflow", "savedmodel", backend="tensorflow", platform="tensorflow_savedmodel"),
    Runtime("sklearn-python", "sklearn", backend="python", template="sklearn_model.py"),
    Runtime("python", "python", backend="python"),
    Runtime("triton", "triton"),
    Runtime("ensemble", "ensemble"),
    Runtime("mlflow", "mlflow"),
)
"""What Stagegate knows to lay out."""


def formats(table: Sequence[Runtime] = RUNTIMES) -> tuple[str, ...]:
    """Names of all formats, in the table's order, each once."""
    return tuple(dict.fromkeys(runtime.format for runtime in table))


def choose(
    format_: str,
    backends: Collection[str] | None,
    *,
    name: str = "",
    table: Sequence[Runtime] = RUNTIMES,
) -> Runtime:
    """The runtime for a format.

    Args:
        format_: such as `onnx`, or `onnx:1` for one version of it.
        backends: those that the Triton has; None where that is not known.
        name: the runtime that was asked for, "" for Stagegate's choice.

    Raises:
        UnsupportedFormat: there is none, or the Triton lacks the backend of each.
    """
    kind, _, version = format_.partition(":")
    served = [one for one in table if one.format == kind]
    if not served:
        raise UnsupportedFormat(
            f"format {format_[:80]!r} cannot be served here", hint=f"formats: {', '.join(formats(table))}"
        )
    fitting = [one for one in served if one.version in ("", version) or not version]
    if name:
        fitting = [one for one in fitting if one.name == name]
    else:
        fitting = [one for one in fitting if one.auto_select]
    if not fitting:
        known = ", ".join(one.name for one in served)
        asked = f"runtime {name[:80]!r}" if name else "runtime that is chosen by itself"
        raise UnsupportedFormat(f"format {format_[:80]!r} has no {asked}", hint=f"runtimes: {known}")
    return _best(format_, fitting, backends)


def _best(format_: str, fitting: Sequence[Runtime], backends: Collection[str] | None) -> Runtime:
    ranked = sorted(fitting, key=lambda one: -one.priority)
    there = ASSUMED if backends is None else backends
    for runtime in ranked:
        if runtime.backend == SHAPED or runtime.backend in there:
            return runtime
    if backends is None:
        return ranked[0]  # Triton is asked, and says what it lacks
    raise missing_backend(f"format {format_[:80]!r}", [one.backend for one in ranked], backends)


def missing_backend(what: str, needed: Sequence[str], backends: Collection[str]) -> UnsupportedFormat:
    """The error that names what a Triton lacks, and what it has."""
    has = ", ".join(sorted(backends)) or "none"
    return UnsupportedFormat(
        f"{what} needs Triton's backend {' or '.join(map(repr, needed))}, which this Triton does not have",
        hint=f"backends that it has: {has}; NVIDIA's container has the others",
    )
