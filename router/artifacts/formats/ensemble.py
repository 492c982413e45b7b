"""An ensemble with its parts, kept together under names that are the version's own.

Triton loads the parts of an ensemble with it, by name. Two versions of an ensemble must not share a part by
accident, so each has copies under `<name>.part-<part>`, and the steps say so.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelEnsembling

from router.artifacts.config_pbtxt import contract_of, read, rendered
from router.artifacts.formats.job import CONFIG, VERSION_FOLDER, Job, write_synced
from router.artifacts.formats.triton import backend_of, check_code, config_in, keep_one_version
from router.errors import ArtifactError
from router.model import part_name

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MOST_PARTS = 64


@dataclass(slots=True)
class _Ensemble:
    """The models of the artifact, and what was made of them so far."""

    job: Job
    models: Mapping[str, ModelConfig]
    names: dict[tuple[str, int], str] = field(default_factory=dict)

    def step_name(self, step: ModelEnsembling.Step) -> str:
        """The name that a step's model has from now on."""
        key = (step.model_name, step.model_version or -1)
        if step.model_name not in self.models:
            raise self.job.error(
                f"a step names model {step.model_name[:80]!r}, which is not in the folder",
                hint=f"there are {', '.join(sorted(self.models))}",
            )
        if key not in self.names:
            if len(self.names) >= _MOST_PARTS:
                raise self.job.error(f"it has more than {_MOST_PARTS} parts")
            self.names[key] = part_name(self.job.name, self._suffix(key))
        return self.names[key]

    def _suffix(self, key: tuple[str, int]) -> str:
        """The part's own name, where it can be one and is not taken; else made safe, with a mark."""
        name, version = key
        wanted = name if version < 0 else f"{name}-v{version}"
        taken = {part_name(self.job.name, wanted)} & set(self.names.values())
        if _SAFE.fullmatch(wanted) and not taken:
            return wanted
        mark = hashlib.sha256(f"{name}\0{version}".encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9_-]', '_', name)[:30]}-{mark}"


def lay_out(job: Job) -> None:
    """Each subfolder is a model; the one that no other names is the ensemble.

    Raises:
        ArtifactError: it is no such folder; UnsupportedFormat: the Triton lacks the backend of a part.
    """
    models = {folder.name: _read(folder, job) for folder in _folders(job)}
    _check_circles(job, models)
    root = _root(job, models)
    job.complete(models[root])
    work = _Ensemble(job, models)
    _make(work, root, -1, job.name)
    made = {(root, -1)}
    while left := [key for key in work.names if key not in made]:
        for name, version in left:
            _make(work, name, version, work.names[name, version])
            made.add((name, version))
    unused = sorted(models.keys() - {name for name, _ in made})
    if unused:
        raise job.error(
            f"no step names model {unused[0]!r}",
            hint="Triton would not load it; leave it out, or make it a version of its own",
        )


def _folders(job: Job) -> Iterator[Path]:
    inside = [path for path in sorted(job.files.iterdir()) if path.is_dir()]
    if len(inside) == 1 and not (inside[0] / CONFIG).is_file():
        inside = [path for path in sorted(inside[0].iterdir()) if path.is_dir()]
    if not inside:
        raise job.error("there are no model folders", hint="format ensemble is a folder of model folders")
    if len(inside) > _MOST_PARTS + 1:
        raise job.error(f"it has more than {_MOST_PARTS} parts")
    yield from inside


def _read(folder: Path, job: Job) -> ModelConfig:
    try:
        config = read(config_in(folder, job))
        contract_of(config)
    except ArtifactError as problem:
        raise job.error(f"{folder.name}: {problem.message}", problem.hint) from None
    check_code(job, folder, config)
    return config


def _root(job: Job, models: Mapping[str, ModelConfig]) -> str:
    """The ensemble that is not a step of another. Raises ArtifactError."""
    ensembles = {name for name, config in models.items() if config.HasField("ensemble_scheduling")}
    steps = {step.model_name for config in models.values() for step in config.ensemble_scheduling.step}
    roots = sorted(ensembles - steps)
    if len(roots) != 1:
        found = ", ".join(roots) or "none"
        raise job.error(
            f"exactly one ensemble that is no part of another is needed, and there is {found}",
            hint='an ensemble has platform: "ensemble" and ensemble_scheduling in its config.pbtxt',
        )
    return roots[0]


def _check_circles(job: Job, models: Mapping[str, ModelConfig]) -> None:
    """Raises ArtifactError where an ensemble is a part of itself: a Triton that loads one crashes."""
    parts = {name: {step.model_name for step in one.ensemble_scheduling.step} for name, one in models.items()}
    for name in sorted(parts):
        inside, new = set[str](), parts[name]
        while new:
            inside |= new
            new = {deeper for part in new for deeper in parts.get(part, ())} - inside
        if name in inside:
            raise job.error(
                f"ensemble {name[:80]!r} is a part of itself, by its own steps or those of its parts"
            )


def _make(work: _Ensemble, model: str, version: int, name: str) -> None:
    """Make one model folder under its new name, its steps under theirs."""
    job, source, target = work.job, _source(work.job, model), work.job.made / name
    config = ModelConfig()
    config.CopyFrom(work.models[model])
    config.name = name
    if config.HasField("ensemble_scheduling"):
        config.platform = "ensemble"  # Triton wants both, and each says the other
    for step in config.ensemble_scheduling.step:
        step.model_name, step.model_version = work.step_name(step), -1
    # Linked, not copied: weights may be large, and one part may serve in two versions.
    shutil.copytree(source, target, copy_function=os.link)
    if config.HasField("ensemble_scheduling"):
        (target / VERSION_FOLDER).mkdir(exist_ok=True)  # Triton wants one, and has nothing in it
    keep_one_version(target, job, config, version)
    (target / CONFIG).unlink()
    write_synced(target / CONFIG, rendered(config))
    if backend := backend_of(job, config, target / VERSION_FOLDER):
        job.needs(backend)


def _source(job: Job, model: str) -> Path:
    direct = job.files / model
    return direct if direct.is_dir() else next(job.files.iterdir()) / model
