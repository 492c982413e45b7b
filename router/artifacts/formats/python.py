"""A model for Triton's Python backend: `model.py` and what it needs."""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import ModelConfig

from router.artifacts.config_pbtxt import generated, on_cpu
from router.artifacts.formats.job import CONFIG, Job
from router.artifacts.formats.triton import check_config
from router.artifacts.policy import Code


def lay_out(job: Job) -> None:
    """`model.py` with all that lies beside it, and the contract or its own config.pbtxt."""
    job.check_code(Code.PYTHON)
    if not (job.files / "model.py").is_file():
        raise job.error("there is no model.py", hint="format python needs one")
    config = job.files / CONFIG
    text = job.read(config) if config.is_file() else None
    if text is None and job.version.contract is None:
        raise job.error(
            "inputs and outputs are not known",
            hint="give version.yaml a contract, or put a config.pbtxt beside model.py",
        )
    config.unlink(missing_ok=True)
    if text is not None:
        own = job.own_config(text)
        _check(job, own)
        job.take_files()
        job.keep_config(text, own)
        return
    job.take_files()
    made = generated(job.version.contract, job.version.tags, name=job.name, backend="python")
    on_cpu(made)
    job.write_config(made)


def _check(job: Job, config: ModelConfig) -> None:
    if config.backend not in ("", "python"):
        raise job.error(
            f"config.pbtxt: backend {config.backend[:80]!r} does not serve a model.py",
            hint="format python is for the Python backend",
        )
    config.backend = "python"
    check_config(job, config)
