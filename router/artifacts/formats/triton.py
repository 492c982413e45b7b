"""A model folder as Triton's repository has it, in one piece or as parts of an ensemble."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from router.artifacts.config_paths import file_that_leaves, setting_that_leaves
from router.artifacts.formats.job import CONFIG, VERSION_FOLDER, Job
from router.artifacts.policy import Code

_PLATFORMS = {
    "ensemble": "",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "onnxruntime_onnx": "onnxruntime",
}
"""Backends behind Triton's older word for them; an ensemble needs none."""

_FILES = {
    "model.py": "python",
    "model.onnx": "onnxruntime",
    "model.plan": "tensorrt",
    "model.pt": "pytorch",
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.xml": "openvino",
}
"""Backends that Triton takes by the file it finds, where the configuration names none."""

_OPAQUE = (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".so")
"""Files that run what nobody can read. Triton takes a backend's library from a model's folder too."""

_PICKLED = frozenset({"pytorch"})
"""Backends whose files run what nobody can read, whatever they are called."""

_GRAPHS = frozenset({"onnxruntime", "tensorrt", "openvino", "fil"})
"""Backends whose files only compute. Others load programs (`vllm`, `dali`), or have graphs that read and
write any file (`tensorflow`), or are not known."""

_BACKEND_NAME = re.compile(r"[A-Za-z0-9_-]+")


def lay_out(job: Job) -> None:
    """Its highest version becomes `1`, its name ours."""
    file = job.files / CONFIG
    text = job.read(file) if file.is_file() else ""
    config = job.own_config(text)
    if config.HasField("ensemble_scheduling"):
        raise job.error(
            "its steps name models that are not in it",
            hint="put the ensemble and all its parts into one folder, and give it format: ensemble",
        )
    keep_one_version(job.files, job, config)
    check_code(job, job.files, config)
    if backend := backend_of(job, config, job.files / VERSION_FOLDER):
        job.needs(backend)
    file.unlink(missing_ok=True)
    job.files.rename(job.folder)
    job.keep_config(text, config)


def keep_one_version(folder: Path, job: Job, config: ModelConfig, wanted: int = -1) -> None:
    """Leave one version folder and call it `1`: the wanted one, else the highest that Triton would serve.

    The policy of the configuration that chose it goes, as the versions that it names do.
    """
    versions = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise job.error(
            "there is no version folder such as 1/",
            hint="format triton is a model folder as Triton's repository has it",
        )
    served = (wanted,) if wanted >= 0 else tuple(config.version_policy.specific.versions)
    config.ClearField("version_policy")
    fitting = [path for path in versions if not served or int(path.name) in served]
    if not fitting:
        there = ", ".join(sorted(f"{path.name}/" for path in versions))
        raise job.error(
            f"there is no version folder {served[0]}/ in {folder.name}", hint=f"there are {there}"
        )
    kept = max(fitting, key=lambda path: int(path.name))
    for other in versions:
        if other != kept:
            shutil.rmtree(other)
    if kept.name != VERSION_FOLDER:
        kept.rename(folder / VERSION_FOLDER)


def backend_of(job: Job, config: ModelConfig, version_folder: Path) -> str:
    """The backend that a model needs, "" for an ensemble and where only Triton can tell.

    Raises:
        ArtifactError: nothing says it; Triton would take the end of our name for it for the name of one.
    """
    if config.HasField("ensemble_scheduling"):
        return ""
    if config.backend:
        return str(config.backend)
    if config.platform:
        return _PLATFORMS.get(config.platform, "")
    found = next((backend for file, backend in _FILES.items() if (version_folder / file).exists()), "")
    if not found:
        raise job.error(
            "nothing says which backend is to serve it",
            hint=f"write backend into config.pbtxt; these files say it themselves: {', '.join(_FILES)}",
        )
    return found


def check_code(job: Job, folder: Path, config: ModelConfig) -> None:
    """Ask leave for what of a Triton-shaped folder can run code.

    Raises:
        ArtifactRefused: the policy does not allow it.
        ArtifactError: it names a file, or a backend, outside the folder where that belongs.
    """
    check_config(job, config)
    backends = _backends(folder, config)
    if backends & _PICKLED:
        job.check_code(Code.PICKLE)
    if backends - _GRAPHS - {"python"}:
        job.check_code(Code.NATIVE)
    endings = {path.suffix for path in folder.rglob("*")}
    if endings.intersection(_OPAQUE):
        job.check_code(Code.PICKLE)
    python = "EXECUTION_ENV_PATH" in config.parameters or config.runtime
    if ".py" in endings or "python" in backends or python:
        job.check_code(Code.PYTHON)


def _backends(folder: Path, config: ModelConfig) -> frozenset[str]:
    """Backends that Triton may take for a folder; it looks for files where the configuration is silent."""
    if config.backend:
        return frozenset({config.backend})
    if config.platform:
        return frozenset({_PLATFORMS.get(config.platform, config.platform)}) - {""}
    return frozenset(_FILES[path.name] for path in folder.rglob("*") if path.name in _FILES)


def check_config(job: Job, config: ModelConfig) -> None:
    """Ask leave for what a configuration alone can make Triton run.

    Raises:
        ArtifactRefused: the policy does not allow it.
        ArtifactError: it names a file, or a backend, outside the folder where that belongs.
    """
    if outside := file_that_leaves(config):
        raise job.error(
            f"config.pbtxt: {outside} leads out of the model's folder", hint="put the file into that folder"
        )
    if setting_that_leaves(config):
        job.check_code(Code.NATIVE)
    if config.backend and not _BACKEND_NAME.fullmatch(config.backend):
        raise job.error(f"config.pbtxt: backend {config.backend[:80]!r} cannot be the name of one")
    if config.model_operations.op_library_filename or config.HasField("model_repository_agents"):
        job.check_code(Code.PICKLE)


def config_in(folder: Path, job: Job) -> str:
    """The text of a folder's config.pbtxt. Raises ArtifactError where there is none."""
    config = folder / CONFIG
    if not config.is_file():
        raise job.error(f"{folder.name} has no {CONFIG}")
    return job.read(config)
