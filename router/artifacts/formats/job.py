"""One version on its way to a Triton model folder, and what every format needs for that."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from router.artifacts.config_pbtxt import complete, contract_of, read, renamed, rendered
from router.artifacts.digest import files_of
from router.artifacts.policy import Code
from router.artifacts.runtimes import Runtime, missing_backend
from router.errors import ArtifactError, UnsupportedFormat
from router.model import Contract, TritonName, Version
from router.traffic.contract import differences

VERSION_FOLDER = "1"
CONFIG = "config.pbtxt"
_LARGEST_TEXT = 4 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be laid out, and where.

    Attributes:
        version: as the registry has it.
        name: Triton's name for it; the folder to make.
        files: the folder of its files, which may be moved away and changed.
        made: a folder in which model folders are made: `name`, and for an ensemble its parts.
        runtime: how it is to be served.
        backends: those that the Triton has; None where that is not known.
        check_code: raises ArtifactRefused where the version may not bring code of that kind.
    """

    version: Version
    name: TritonName
    files: Path
    made: Path
    runtime: Runtime
    backends: frozenset[str] | None
    check_code: Callable[[Code], None]

    @property
    def folder(self) -> Path:
        """The model folder to make."""
        return self.made / self.name

    @property
    def version_folder(self) -> Path:
        """The folder for the model's own files."""
        return self.folder / VERSION_FOLDER

    @property
    def who(self) -> str:
        """Whose files they are, for errors."""
        return f"{self.version.model} {self.version.version}"

    def error(self, text: str, hint: str = "") -> ArtifactError:
        """An error that names the version."""
        return ArtifactError(f"{self.who}: {text}", hint=hint)

    def unsupported(self, text: str, hint: str = "") -> UnsupportedFormat:
        """The same, for what no runtime here can serve."""
        return UnsupportedFormat(f"{self.who}: {text}", hint=hint)

    def only_file(self, *suffixes: str) -> Path:
        """The one file with such an ending. Raises ArtifactError where there are none or several."""
        found = [path for _, path in files_of(self.files) if path.suffix in suffixes]
        if len(found) != 1:
            named = " or ".join(suffixes)
            raise self.error(
                f"{len(found)} files end in {named}, exactly one is needed",
                hint=f"name the file itself in `artifact`, or leave one {named} in the folder",
            )
        return found[0]

    def take_files(self) -> None:
        """Move all files into the version folder."""
        self.folder.mkdir()
        self.files.rename(self.version_folder)

    def take_file(self, file: Path, name: str) -> None:
        """Move one file, or folder, into the version folder under the name that Triton looks for."""
        self.version_folder.mkdir(parents=True)
        file.rename(self.version_folder / name)

    def read(self, file: Path) -> str:
        """The text of a small file. Raises ArtifactError where it is none."""
        with file.open("rb") as opened:
            data = opened.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise self.error(f"{file.name} is larger than {_LARGEST_TEXT} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.error(f"{file.name} is no UTF-8 text") from None

    def write(self, path: str, text: str) -> None:
        """Write a file of the model folder. Raises ArtifactError where the artifact brought one."""
        try:
            write_synced(self.folder / path, text)
        except FileExistsError:
            raise self.error(f"the artifact has a {path} of its own, where one is generated") from None

    def write_config(self, config: ModelConfig) -> None:
        """Write a generated config.pbtxt."""
        self.write(CONFIG, rendered(config))

    def template(self) -> str:
        """The model.py of the runtime."""
        return (Path(__file__).parents[1] / self.runtime.template).read_text(encoding="utf-8")

    def own_config(self, text: str) -> ModelConfig:
        """A config.pbtxt that somebody wrote, with what it leaves out of the registry's contract.

        Raises:
            ArtifactError: it cannot be read, says what cannot be, or contradicts that contract.
        """
        try:
            config = read(text)
        except ArtifactError as problem:
            raise self.error(problem.message, problem.hint) from None
        self.complete(config)
        return config

    def complete(self, config: ModelConfig) -> None:
        """Add what a configuration that somebody wrote leaves out of the registry's contract.

        Raises:
            ArtifactError: it says what cannot be, or contradicts that contract; or there are tags for it.
        """
        if any(tag.startswith("triton.") for tag in self.version.tags):
            raise self.error(
                "tags triton.* are for versions without a config.pbtxt", hint="set the fields in that file"
            )
        try:
            if self.version.contract is not None:
                complete(config, self.version.contract)
            said = contract_of(config)
        except ArtifactError as problem:
            raise self.error(problem.message, problem.hint) from None
        self._check(said)

    def keep_config(self, text: str, config: ModelConfig) -> None:
        """Write a config.pbtxt under our name: its own text, comments and all, where that still says it."""
        config.name = self.name
        ours = renamed(text, self.name)
        self.write(CONFIG, ours if _reads_as(ours, config) else rendered(config))

    def _check(self, said: Contract | None) -> None:
        if said is None or self.version.contract is None:
            return
        found = differences(self.version.contract, said)
        if found:
            raise self.error(f"config.pbtxt contradicts the contract: {'; '.join(found)}")

    def needs(self, backend: str) -> None:
        """Raises UnsupportedFormat where the Triton lacks that backend."""
        if self.backends is not None and backend not in self.backends:
            raise missing_backend(f"{self.who}: it", [backend], self.backends)


def _reads_as(text: str, config: ModelConfig) -> bool:
    """Whether a text says just that; the name may stand in a line with other fields."""
    try:
        return bool(read(text) == config)
    except ArtifactError:
        return False


def write_synced(path: Path, text: str) -> None:
    """Write a new file and put it on the disk. Raises FileExistsError."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
