"""Brings files into MLflow as a new version: a run, the files in its folder, and last the version itself.

Nobody sees the version before its files are there. Where something fails, the run stays and is marked as
failed; what was uploaded is MLflow's to clean up with its run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.artifacts.digest import files_of
from router.errors import ArtifactError, InvalidInput, NotSupported, RegistryUnavailable
from router.ports import NewVersion
from router.registries.mlflow.artifacts import ProxiedFiles, proxied_path
from router.registries.mlflow.names import Names
from router.registries.mlflow.reading import versions_of_model
from router.registries.mlflow.rest import Answered, Server, Session
from router.registries.mlflow.told import Malformed, ToldVersion, version_of
from router.registries.mlflow.versions import (
    CONTRACT_TAG,
    DIGEST_TAG,
    FORMAT_TAG,
    READY,
    contract_text,
)
from router.registries.mlflow.writing import refused

_SECONDS = 60.0
_LOOK = 0.2
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_FOLDER = "model"
_TAGS = {
    "commit": "mlflow.source.git.commit",
    "branch": "mlflow.source.git.branch",
    "repository": "mlflow.source.git.repoURL",
    "source": "mlflow.source.name",
    "user": "mlflow.user",
    "parent": "mlflow.parentRunId",
}
_METRICS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Registration:
    """Attributes:
    experiment: the name of the experiment in which runs are made.
    """

    server: Server
    names: Names
    experiment: str
    files: ProxiedFiles

    def register(self, new: NewVersion, progress: Callable[[str], None]) -> str:
        """Returns the version's number; raises as `Registry.register` says."""
        name = self.names.registered(new.model)
        try:
            with self._session() as session:
                there = self._versions(session, name, new)
                if (same := _same(there, new)) is not None:
                    return same
                _check_number(there, new)
                run, folder = self._run(session, new)
            with self._failing(run):
                self._upload(new, folder, progress)
                with self._session() as session:
                    return self._make(session, name, new, run)
        except Answered as refusal:
            raise refused(self.server.registry, new.model, refusal) from None
        except Malformed as problem:
            raise RegistryUnavailable(f"registry {self.server.registry!r}: {problem}") from None

    def _session(self) -> Session:
        return self.server.session(_SECONDS)

    def _versions(self, session: Session, name: str, new: NewVersion) -> list[ToldVersion]:
        """The versions that there are; the model is made where it is not there."""
        try:
            session.get("registered-models/get", name=name)
        except Answered as refusal:
            if not refusal.missing:
                raise
            if new.version not in ("", "1"):
                raise _not_next(new) from None
            try:
                session.send("POST", "registered-models/create", name=name)
            except Answered as other:
                if other.code != _EXISTS:
                    raise
        return versions_of_model(session, name)

    def _run(self, session: Session, new: NewVersion) -> tuple[str, str]:
        """A new run for the version's metrics, lineage and files: its id, and the folder for files."""
        tags = {_TAGS.get(key, f"stagegate.lineage.{key}"): value for key, value in new.lineage.items()}
        made = session.send(
            "POST",
            "runs/create",
            experiment_id=self._experiment(session),
            run_name=f"register {new.model}",
            start_time=int(time.time() * 1000),
            tags=_listed(tags),
        )
        try:
            info = made["run"]["info"]  # type: ignore[index]
            run, root = str(info["run_id"]), str(info["artifact_uri"])
        except (KeyError, TypeError):
            raise Malformed("runs/create told of no run") from None
        path = proxied_path(self.server, root)
        if path is None:
            _end(session, run, "FAILED")
            raise NotSupported(
                f"registry {self.server.registry!r}: this MLflow has its clients write to {root[:80]!r}",
                hint="start it with --serve-artifacts, or register by MLflow's own client",
            )
        at = int(time.time() * 1000)
        metrics = [{"key": key, "value": value, "timestamp": at} for key, value in new.metrics.items()]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            session.send(
                "POST", "runs/log-batch", run_id=run, metrics=metrics[start : start + _METRICS_AT_ONCE]
            )
        return run, root

    def _experiment(self, session: Session) -> str:
        try:
            found = session.get("experiments/get-by-name", experiment_name=self.experiment)
            return str(found["experiment"]["experiment_id"])  # type: ignore[index]
        except Answered as refusal:
            if not refusal.missing:
                raise
        except (KeyError, TypeError):
            raise Malformed("experiments/get-by-name told of no experiment") from None
        return str(session.send("POST", "experiments/create", name=self.experiment).get("experiment_id"))

    def _upload(self, new: NewVersion, root: str, progress: Callable[[str], None]) -> None:
        path = proxied_path(self.server, root)
        files = _files_of(new.files)
        for index, (inside, file) in enumerate(files, start=1):
            progress(f"uploading {inside} ({index} of {len(files)})")
            self.files.put(f"{path}/{_FOLDER}/{inside}", file)

    def _make(self, session: Session, name: str, new: NewVersion, run: str) -> str:
        tags = {**new.tags, DIGEST_TAG: new.digest, FORMAT_TAG: new.format}
        if new.contract is not None:
            tags[CONTRACT_TAG] = contract_text(new.contract)
        root = session.get("runs/get", run_id=run)
        source = f"{root['run']['info']['artifact_uri']}/{_FOLDER}"  # type: ignore[index]
        answer = session.send(
            "POST",
            "model-versions/create",
            name=name,
            source=source,
            run_id=run,
            tags=_listed(tags),
            description=new.description,
        )
        made = version_of(answer.get("model_version"))
        if new.version and made.version != new.version:
            session.send("DELETE", "model-versions/delete", name=name, version=made.version)
            raise _not_next(new)
        while made.status != READY:
            if session.left < 2 * _LOOK or made.status.startswith("FAILED"):
                text = f"version {made.version} of {new.model!r} is {made.status} {made.status_text}"
                raise RegistryUnavailable(f"registry {self.server.registry!r}: {text}"[:500])
            time.sleep(_LOOK)
            now = session.get("model-versions/get", name=name, version=made.version)
            made = version_of(now.get("model_version"))
        _end(session, run, "FINISHED")
        return made.version

    @contextlib.contextmanager
    def _failing(self, run: str) -> Iterator[None]:
        """Mark a run as failed where the block raises."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception), self._session() as session:
                _end(session, run, "FAILED")
            raise


def _files_of(root: Path) -> list[tuple[str, Path]]:
    """Files with their paths inside the artifact; a single one has its own name. Raises InvalidInput."""
    try:
        files = list(files_of(root))
    except ArtifactError as error:
        raise InvalidInput(f"{root} cannot be registered: {error.message}", hint=error.hint) from error
    if not files:
        raise InvalidInput(f"{root} holds no files")
    return files


def _end(session: Session, run: str, status: str) -> None:
    session.send("POST", "runs/update", run_id=run, status=status, end_time=int(time.time() * 1000))


def _same(there: list[ToldVersion], new: NewVersion) -> str | None:
    """The version that has these very files already: the one that is asked for, else the highest."""
    wanted = [one for one in there if one.version == new.version] if new.version else there
    last = max(wanted, key=lambda one: int(one.version), default=None)
    return last.version if last is not None and last.tags.get(DIGEST_TAG) == new.digest else None


def _check_number(there: list[ToldVersion], new: NewVersion) -> None:
    """Raises InvalidInput for a number that MLflow would not give."""
    if not new.version:
        return
    if any(one.version == new.version for one in there):
        raise InvalidInput(f"version {new.version!r} of model {new.model!r} has other files")
    if new.version != str(max((int(one.version) for one in there), default=0) + 1):
        raise _not_next(new)


def _not_next(new: NewVersion) -> InvalidInput:
    return InvalidInput(
        f"version {new.version[:40]!r} of model {new.model!r} cannot be registered: it is not the next one",
        hint="leave the version out; MLflow counts by itself, and gives no number twice",
    )


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]
