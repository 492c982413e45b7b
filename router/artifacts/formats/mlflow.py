"""An MLflow model: the folder with `MLmodel`, by the flavor of it that can be served best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.artifacts.config_pbtxt import RUNTIME_TAG
from router.artifacts.formats import onnx, sklearn, triton, weights
from router.artifacts.formats.job import Job
from router.artifacts.mlmodel import FILE, MlModel, path_inside, read_mlmodel
from router.artifacts.runtimes import choose
from router.errors import ArtifactError, UnsupportedFormat
from router.model import Contract, TensorSpec

_Keys = Mapping[str, Any]

_WRITTEN = ("skops", "cloudpickle", "pickle")


def lay_out(job: Job) -> None:
    """Take the first flavor of `FLAVORS` that the model has and the Triton can run.

    Raises:
        UnsupportedFormat: there is none; why the best one cannot be served, where it has one.
        ArtifactError: what MLmodel says does not fit the files.
    """
    job = replace(job, files=_root(job))
    try:
        model = read_mlmodel(job.read(job.files / FILE))
    except ArtifactError as problem:
        raise job.error(problem.message, problem.hint) from None
    problems = []
    for flavor in (flavor for flavor in FLAVORS if flavor in model.flavors):
        try:
            # What cannot be served says so before it takes the files away.
            return FLAVORS[flavor](job, model, model.flavors[flavor])
        except UnsupportedFormat as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
    raise job.unsupported(
        f"of its MLflow flavors ({', '.join(sorted(model.flavors))[:200]}) none can be served here",
        hint=f"flavors: {', '.join(FLAVORS)}",
    )


def _root(job: Job) -> Path:
    """The folder of MLmodel; a registry may name the folder above it."""
    if (job.files / FILE).is_file():
        return job.files
    found = sorted(job.files.rglob(FILE))
    if len(found) != 1:
        raise job.error(f"there are {len(found)} files {FILE}, exactly one is needed")
    return found[0].parent


def _inside(job: Job, text: object, what: str) -> Path:
    try:
        return path_inside(job.files, text, what)
    except ArtifactError as problem:
        raise job.error(problem.message) from None


def _served_as(job: Job, format_: str, contract: Contract | None = None) -> Job:
    """The job as one of another format; the registry's contract goes before the model's own."""
    try:
        runtime = choose(format_, job.backends, name=job.version.tags.get(RUNTIME_TAG, ""))
    except UnsupportedFormat as problem:
        raise job.unsupported(problem.message, problem.hint) from None
    version = replace(job.version, contract=job.version.contract or contract)
    return replace(job, runtime=runtime, version=version)


def _onnx(job: Job, _: MlModel, keys: _Keys) -> None:
    """The contract is the registry's or the file's own: a signature often has no names for its tensors."""
    file = _inside(job, keys.get("data"), "flavors.onnx.data")
    if file.is_dir():
        inner = _served_as(replace(job, files=file), "onnx")
        file = inner.only_file(".onnx")
    else:
        inner = _served_as(job, "onnx")
    onnx.make(inner, file)


def _pytorch(job: Job, model: MlModel, keys: _Keys) -> None:
    data = _inside(job, keys.get("model_data"), "flavors.pytorch.model_data")
    inside = replace(job, files=data if data.is_dir() else data.parent)
    weights.torchscript_in(inside)  # no other Triton could serve what is no TorchScript
    contract = None if job.version.contract else model.contract("INPUT__", "OUTPUT__")
    weights.torchscript(_served_as(inside, "torchscript", contract))


def _sklearn(job: Job, model: MlModel, keys: _Keys) -> None:
    file = _inside(job, keys.get("pickled_model"), "flavors.sklearn.pickled_model")
    written = str(keys.get("serialization_format") or "pickle")
    if written not in _WRITTEN:
        raise job.error(
            f"MLmodel: serialization_format {written[:40]!r} is not known",
            hint=f"known: {', '.join(_WRITTEN)}",
        )
    method = str(model.flavors.get("python_function", {}).get("predict_fn") or "predict")
    if not method.isidentifier() or method.startswith("_"):
        raise job.error(f"MLmodel: predict_fn {method[:40]!r} is no method")
    code = keys.get("code") or ""
    if code:
        code = _inside(job, code, "flavors.sklearn.code").relative_to(job.files).as_posix()
    trusted = keys.get("skops_trusted_types")
    contract = job.version.contract or _of_estimator(job, model)
    sklearn.make(
        _served_as(job, "sklearn"),
        sklearn.Estimator(
            file=file,
            serialization=written,
            contract=contract,
            columns=_are_columns(contract, model),
            method=method,
            trusted=tuple(map(str, trusted)) if isinstance(trusted, list) else (),
            code=code,
        ),
    )


def _are_columns(contract: Contract | None, model: MlModel) -> bool:
    """Whether the inputs are the columns that the signature names; a contract may ask for one matrix."""
    try:
        columns = model.inputs if model.columns else None
    except ArtifactError:
        return False  # it is not needed where there is a contract, and unread
    if contract is None or columns is None:
        return False
    return {one.name for one in contract.inputs} == {one.name for one in columns}


def _of_estimator(job: Job, model: MlModel) -> Contract | None:
    """The signature, with one output by the name that clients of estimators know."""
    signed = model.contract("input-", "output-")
    if signed is None:
        return None
    if len(signed.outputs) != 1:
        raise job.error("MLmodel: the signature of an estimator has one output, this one has several")
    (output,) = signed.outputs
    shape = (-1,) if model.outputs_are_columns else output.shape
    return Contract(signed.inputs, (TensorSpec(sklearn.PREDICT, output.datatype, shape),))


def _triton(job: Job, _: MlModel, keys: _Keys) -> None:
    data = _inside(job, keys.get("data"), "flavors.triton.data")
    triton.lay_out(_served_as(replace(job, files=data), "triton"))


FLAVORS: Mapping[str, Callable[[Job, MlModel, _Keys], None]] = {
    "triton": _triton,
    "onnx": _onnx,
    "pytorch": _pytorch,
    "sklearn": _sklearn,
}
"""Flavors that can be served, the best first."""
