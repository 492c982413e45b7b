"""Model folders as Triton wants them, in the repository folder that one Triton was started on."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from router.artifacts.config_pbtxt import config_pbtxt, quoted
from router.artifacts.digest import files_of
from router.artifacts.fetch import Fetcher
from router.artifacts.folders import sync_folder
from router.artifacts.onnx_contract import contract_of_onnx
from router.artifacts.telling import Progress
from router.errors import ArtifactError, UnsupportedFormat
from router.model import TritonName, Version

_TEMPORARY = ".stagegate-"
_VERSION_FOLDER = "1"
_NAME_LINE = re.compile(
    r"(?m)^[ \t]*name[ \t]*:[ \t]*(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')[ \t]*(?:#.*)?$"
)


class TritonRepository:
    """Implements `router.ports.ModelFolders` on one folder.

    Everything is made in a temporary folder on the same disk and put in place by one rename, so Triton
    never sees half a model. What a stopped process left half made is removed at the next start.
    """

    def __init__(self, folder: Path, fetcher: Fetcher | None = None) -> None:
        """Make the folder if it is not there; `fetcher` brings the files, None for those of this machine.

        Raises:
            ArtifactError: the folder cannot be used.
        """
        self._folder = folder
        self._fetcher = fetcher or Fetcher()
        # A lock lives for as long as somebody holds it or waits for it.
        self._busy: WeakValueDictionary[TritonName, asyncio.Lock] = WeakValueDictionary()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ArtifactError(
                f"repository {folder} cannot be used: {problem.strerror}",
                hint="name a folder that this process may write to and that Triton was started on",
            ) from None
        for left in folder.glob(f"{_TEMPORARY}*"):
            if not _is_alive(left.name):
                shutil.rmtree(left, ignore_errors=True)

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

    def present(self) -> frozenset[TritonName]:
        """Names of complete folders."""
        return frozenset(
            TritonName(entry.name)
            for entry in self._folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )

    def _temporary(self) -> Path:
        return self._folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"

    def _make(
        self, version: Version, name: TritonName, progress: Progress | None, cancel: threading.Event
    ) -> None:
        lay_out = LAYOUTS.get(version.format)
        if lay_out is None:
            raise UnsupportedFormat(
                f"{version.model} {version.version}: format {version.format!r} cannot be served here",
                hint=f"formats: {', '.join(sorted(LAYOUTS))}",
            )
        work = self._temporary()
        try:
            fetched, made = work / "fetched", work / "made"
            fetched.mkdir(parents=True)
            self._fetcher.fetch(version, fetched, progress, cancel)
            lay_out(version, name, fetched, made)
            for folder in (path for path in made.rglob("*") if path.is_dir()):
                sync_folder(folder)
            sync_folder(made)
            self._remove(name)
            made.rename(self._folder / name)
            sync_folder(self._folder)
        except OSError as problem:
            raise ArtifactError(
                f"{version.model} {version.version}: cannot be put into {self._folder}: {problem}"
            ) from problem
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _remove(self, name: TritonName) -> None:
        away = self._temporary()
        try:
            (self._folder / name).rename(away)
        except FileNotFoundError:
            return
        shutil.rmtree(away, ignore_errors=True)


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


def _is_alive(name: str) -> bool:
    """Whether the process that made a temporary folder still runs."""
    pid = name.removeprefix(_TEMPORARY).partition("-")[0]
    return pid.isdecimal() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _only_file(version: Version, fetched: Path, suffix: str) -> Path:
    found = [path for _, path in files_of(fetched) if path.suffix == suffix]
    if len(found) != 1:
        raise ArtifactError(
            f"{version.model} {version.version}: {len(found)} files end in {suffix}, exactly one is needed",
            hint=f"name the file itself in `artifact`, or leave one {suffix} in the folder",
        )
    return found[0]


def _lay_out_onnx(version: Version, name: TritonName, fetched: Path, made: Path) -> None:
    """ONNX runs on the Python backend through one generated model.py on onnxruntime."""
    onnx = _only_file(version, fetched, ".onnx")
    contract = version.contract or contract_of_onnx(onnx)
    inside = onnx.relative_to(fetched)
    fetched.rename(_version_folder(made))
    parameters = {"onnx_file": inside.as_posix()}
    _write(made / "config.pbtxt", config_pbtxt(name, contract, parameters))
    template = Path(__file__).with_name("onnx_model.py").read_text()
    _write(made / _VERSION_FOLDER / "model.py", template)


def _lay_out_python(version: Version, name: TritonName, fetched: Path, made: Path) -> None:
    """A Python backend model: `model.py`, with the contract or with its own config.pbtxt."""
    if not (fetched / "model.py").is_file():
        raise ArtifactError(
            f"{version.model} {version.version}: there is no model.py", hint="format python needs one"
        )
    config = fetched / "config.pbtxt"
    if config.is_file():
        text = _renamed(config.read_text(), name)
        config.unlink()
    elif version.contract is not None:
        text = config_pbtxt(name, version.contract, {})
    else:
        raise ArtifactError(
            f"{version.model} {version.version}: inputs and outputs are not known",
            hint="give version.yaml a contract, or put a config.pbtxt beside model.py",
        )
    fetched.rename(_version_folder(made))
    _write(made / "config.pbtxt", text)


def _lay_out_triton(version: Version, name: TritonName, fetched: Path, made: Path) -> None:
    """A folder that is Triton-shaped already: its highest version becomes `1`, its name ours."""
    versions = [path for path in fetched.iterdir() if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise ArtifactError(
            f"{version.model} {version.version}: there is no version folder such as 1/",
            hint="format triton is a model folder as Triton's repository has it",
        )
    newest = max(versions, key=lambda path: int(path.name))
    for other in versions:
        if other != newest:
            shutil.rmtree(other)
    if newest.name != _VERSION_FOLDER:
        newest.rename(fetched / _VERSION_FOLDER)
    config = fetched / "config.pbtxt"
    text = config.read_text() if config.is_file() else ""
    config.unlink(missing_ok=True)
    _write(config, _renamed(text, name))
    fetched.rename(made)


LAYOUTS: Mapping[str, Callable[[Version, TritonName, Path, Path], None]] = {
    "onnx": _lay_out_onnx,
    "python": _lay_out_python,
    "triton": _lay_out_triton,
}
"""How files of a format become a Triton model folder: (version, name, fetched files, folder to make)."""


def _version_folder(made: Path) -> Path:
    made.mkdir()
    return made / _VERSION_FOLDER


def _renamed(config: str, name: TritonName) -> str:
    """A config.pbtxt under another model name; only the top-level name is a line of its own at depth 0."""
    depth, kept = 0, []
    for line in config.splitlines():
        if not (depth == 0 and _NAME_LINE.match(line)):
            kept.append(line)
        code = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|#.*", "", line)
        depth += code.count("{") + code.count("[") - code.count("}") - code.count("]")
    return "\n".join([f"name: {quoted(name)}", *kept]) + "\n"


def _write(path: Path, text: str) -> None:
    with path.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
