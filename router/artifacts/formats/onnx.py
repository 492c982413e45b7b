"""ONNX: on Triton's own backend where there is one, else by a generated model.py on onnxruntime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from router.artifacts.config_pbtxt import generated, on_cpu
from router.artifacts.formats.job import VERSION_FOLDER, Job
from router.artifacts.onnx_contract import contract_of_onnx
from router.model import Contract


def lay_out(job: Job) -> None:
    """The file with all that lies around it: a large model has its weights in files beside it."""
    make(job, job.only_file(".onnx"))


def make(job: Job, onnx: Path) -> None:
    """Lay one ONNX file out, which is somewhere below the job's files."""
    inside = onnx.relative_to(job.files).as_posix()
    fields = {"name": job.name, "backend": job.runtime.backend}
    if not job.runtime.template and inside != "model.onnx":
        fields["default_model_filename"] = inside
    config = generated(_contract(job, onnx), job.version.tags, **fields)
    if job.runtime.template:
        config.parameters["onnx_file"].string_value = inside
        on_cpu(config)
    job.take_files()
    job.write_config(config)
    if job.runtime.template:
        job.write(f"{VERSION_FOLDER}/model.py", job.template())


def _contract(job: Job, onnx: Path) -> Contract | None:
    if job.version.contract is not None:
        return job.version.contract
    if not job.runtime.template and find_spec("onnxruntime") is None:
        return None  # Triton's own backend finds inputs and outputs in the file
    return contract_of_onnx(onnx)
