"""Files that a Triton backend of its own runs: TorchScript, TensorRT plans, TensorFlow SavedModels."""

from __future__ import annotations

import zipfile
from pathlib import Path

from router.artifacts.config_pbtxt import generated
from router.artifacts.formats.job import Job
from router.artifacts.policy import Code

_EXPORTED = ".pt2"
_TORCHSCRIPT_ENDINGS = (".pt", ".pth", ".ts", ".torchscript", _EXPORTED)
_PLAN_ENDINGS = (".plan", ".engine", ".trt")


def torchscript(job: Job) -> None:
    """One TorchScript file as `model.pt`. A pickled module is refused: Triton cannot run one."""
    file = torchscript_in(job)
    if job.version.contract is None:
        raise job.error(
            "inputs and outputs are not known", hint="a TorchScript file does not tell them; give a contract"
        )
    _lay_out(job, file, "model.pt")


def torchscript_in(job: Job) -> Path:
    """The one TorchScript file.

    Raises:
        ArtifactRefused: the policy does not allow it.
        UnsupportedFormat: it is none.
        ArtifactError: there are none or several.
    """
    job.check_code(Code.PICKLE)
    file = job.only_file(*_TORCHSCRIPT_ENDINGS)
    if problem := not_torchscript(file):
        hint = "save what torch.jit.script or torch.jit.trace makes of the module, by torch.jit.save"
        raise job.unsupported(f"{file.name} {problem}", hint)
    return file


def tensorrt(job: Job) -> None:
    """One serialized engine as `model.plan`."""
    file = job.only_file(*_PLAN_ENDINGS)
    if not file.stat().st_size:
        raise job.error(f"{file.name} is empty")
    _lay_out(job, file, "model.plan")


def savedmodel(job: Job) -> None:
    """The folder that holds `saved_model.pb`, as `model.savedmodel`.

    TensorFlow's own advice is to take one for a program: its graph may read and write any file.
    """
    job.check_code(Code.NATIVE)
    found = sorted(job.files.rglob("saved_model.pb"))
    if len(found) != 1:
        raise job.error(
            f"there are {len(found)} saved_model.pb, exactly one is needed",
            hint="a SavedModel is the folder with saved_model.pb and variables/",
        )
    (graph,) = found
    if not graph.stat().st_size:
        raise job.error("saved_model.pb is empty")
    _lay_out(job, graph.parent, "model.savedmodel")


def _lay_out(job: Job, file: Path, name: str) -> None:
    config = generated(
        job.version.contract,
        job.version.tags,
        name=job.name,
        backend=job.runtime.backend,
        platform=job.runtime.platform,
    )
    job.take_file(file, name)
    job.write_config(config)


def not_torchscript(file: Path) -> str:
    """Why a file is no TorchScript, or "".

    TorchScript is a zip archive with the code of the module below `*/code/` and `*/constants.pkl`; what
    `torch.save` makes of a module is a zip archive without them, or, before PyTorch 1.6, a bare pickle.
    """
    if file.suffix == _EXPORTED:
        return "is a program that torch.export wrote, and no TorchScript"
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError):
        return "is no archive as PyTorch writes it; it may be a pickled module"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return ""
    if "data.pkl" in names:
        return "is a pickled module or its weights, and no TorchScript"
    return "is no TorchScript"
