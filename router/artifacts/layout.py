"""Model folders as Triton wants them, in the repository folder that one Triton was started on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from router.artifacts.config_pbtxt import RUNTIME_TAG
from router.artifacts.fetch import Fetcher
from router.artifacts.folders import sync_folder, sync_tree
from router.artifacts.formats import ensemble, mlflow, onnx, python, sklearn, triton, weights
from router.artifacts.formats.job import Job
from router.artifacts.runtimes import Runtime, choose
from router.artifacts.space import of_disk
from router.artifacts.telling import Progress
from router.artifacts.temporary import aside, sweep, temporary
from router.errors import ArtifactError, UnsupportedFormat
from router.model import TritonName, Version, whole_of

LAYOUTS: Mapping[str, Callable[[Job], None]] = {
    "onnx": onnx.lay_out,
    "torchscript": weights.torchscript,
    "tensorrt": weights.tensorrt,
    "savedmodel": weights.savedmodel,
    "sklearn": sklearn.lay_out,
    "python": python.lay_out,
    "triton": triton.lay_out,
    "ensemble": ensemble.lay_out,
    "mlflow": mlflow.lay_out,
}
"""How files of a format become Triton model folders."""


class TritonRepository:
    """Implements `router.ports.ModelFolders` on one folder.

    Everything is made in a temporary folder on the same disk and put in place by one rename, so Triton
    never sees half a model. What a stopped process left half made is removed at the next start.
    """

    def __init__(
        self, folder: Path, fetcher: Fetcher | None = None, *, backends: frozenset[str] | None = None
    ) -> None:
        """Make the folder if it is not there.

        Args:
            folder: the one that a Triton was started on.
            fetcher: brings the files; None for those of this machine.
            backends: those that this Triton has; None where that is not known.

        Raises:
            ArtifactError: the folder cannot be used.
        """
        self._folder = folder
        self._fetcher = fetcher or Fetcher()
        self._backends = backends
        # A lock lives for as long as somebody holds it or waits for it.
        self._busy: WeakValueDictionary[TritonName, asyncio.Lock] = WeakValueDictionary()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ArtifactError(
                f"repository {folder} cannot be used: {problem.strerror}",
                hint="name a folder that this process may write to and that Triton was started on",
            ) from None
        sweep(folder)

    async def put(
        self, version: Version, name: TritonName, progress: Callable[[str], None] | None = None
    ) -> Path:
        """Fetch, verify and lay out one version; return its folder.

        A folder that is there is kept where a digest proves that its files are the same; without a digest
        it is made anew, since its files may have been replaced.
        """
        async with self._busy.setdefault(name, asyncio.Lock()):
            target = self._folder / name
            if not (version.digest and target.is_dir()):
                await _to_its_end(partial(self._make, version, name, progress))
            return target

    async def remove(self, name: TritonName) -> None:
        """Delete the folder of a version, if it is there; out of Triton's sight first."""
        async with self._busy.setdefault(name, asyncio.Lock()):
            await asyncio.to_thread(self._remove, name)

    def _make(
        self, version: Version, name: TritonName, progress: Progress | None, cancel: threading.Event
    ) -> None:
        runtime = self._runtime(version)
        try:
            with temporary(self._folder) as work:
                fetched, made = work / "fetched", work / "made"
                fetched.mkdir()
                made.mkdir()
                self._fetcher.fetch(version, fetched, progress, cancel)
                check_code = partial(self._fetcher.check_code, version)
                _lay_out(Job(version, name, fetched, made, runtime, self._backends, check_code))
                sync_tree(made)
                self._put_in_place(made, name)
        except OSError as problem:
            what = f"{version.model} {version.version}: cannot be put into {self._folder}"
            raise of_disk(what, problem) from problem
        except (ValueError, RecursionError) as problem:
            # Numbers beyond 64 bits, text that is no Unicode, nesting without end: whoever wrote the files
            # or the registry's words about them decides what comes here.
            raise ArtifactError(
                f"{version.model} {version.version}: cannot be laid out: {str(problem)[:200]}"
            ) from problem

    def _runtime(self, version: Version) -> Runtime:
        """How a version is to be served: before its files are fetched, which may take long."""
        # What an MLflow model is served by is known when its flavors are.
        wanted = "" if version.format == "mlflow" else version.tags.get(RUNTIME_TAG, "")
        try:
            return choose(version.format, self._backends, name=wanted)
        except UnsupportedFormat as problem:
            who = f"{version.model} {version.version}"
            raise UnsupportedFormat(f"{who}: {problem.message}", hint=problem.hint) from None

    def _put_in_place(self, made: Path, name: TritonName) -> None:
        """Rename what was made to where Triton looks: parts first, so that an ensemble is never without."""
        self._remove(name)
        try:
            for part in made.iterdir():
                if part.name != name:
                    part.rename(self._folder / part.name)
            (made / name).rename(self._folder / name)
            sync_folder(self._folder)
        except OSError:
            self._remove(name)
            raise

    def _remove(self, name: TritonName) -> None:
        parts = [entry.name for entry in self._folder.iterdir() if whole_of(TritonName(entry.name)) == name]
        for folder in (name, *parts):
            with contextlib.suppress(FileNotFoundError):
                aside(self._folder / folder)


def _lay_out(job: Job) -> None:
    """Make the folders. Every error names the version, wherever it comes from."""
    try:
        LAYOUTS[job.runtime.format](job)
    except ArtifactError as problem:
        if problem.message.startswith(f"{job.who}: "):
            raise
        raise type(problem)(f"{job.who}: {problem.message}", hint=problem.hint) from problem


async def _to_its_end(work: Callable[[threading.Event], None]) -> None:
    """Do work in a thread; where the caller goes away, tell it so and wait until it has cleaned up."""
    cancel = threading.Event()
    doing = asyncio.create_task(asyncio.to_thread(work, cancel))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([doing])
        raise
