"""Registries without a gateway: whether they can be used, and new versions into them."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.artifacts import Artifacts
from gateway.config import BUILT_IN, GatewayConfig, SecretReader
from router.alias import highest, parse_model_reference, resolve
from router.artifacts.archives import is_archive
from router.artifacts.digest import digest_of, files_of
from router.artifacts.layout import LAYOUTS
from router.artifacts.onnx_contract import contract_of_onnx
from router.errors import (
    ArtifactError,
    ArtifactMissing,
    ArtifactRefused,
    InvalidInput,
    ModelNotFound,
    StagegateError,
)
from router.model import (
    Contract,
    ModelName,
    RegisteredModel,
    RegistryProblem,
    Version,
    parse_model_name,
)
from router.ports import Hint, NewVersion, Registry
from router.registries import open_registry
from router.registries.asking import read_on
from router.registries.formats import format_of
from router.registries.manifest import Unreadable, read_version

Tell = Callable[[str], None]

_NEEDED = {"onnx": ".onnx", "python": "model.py", "mlflow": "MLmodel", "savedmodel": "saved_model.pb"}
"""How a file's path ends that a version of the format cannot be without."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One registry as it was read once.

    Attributes:
        seconds: of that reading; None where it came to nothing.
        capabilities: what it can do beside being read.
        refused: versions whose artifact the policy does not allow.
        error: why it could not be read; "" where it could.
    """

    name: str
    type: str
    seconds: float | None = None
    models: int = 0
    versions: int = 0
    capabilities: tuple[str, ...] = ()
    refused: int = 0
    problems: tuple[RegistryProblem, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class NewFiles:
    """What an operator says of files that are to become a version; "" is for us, or the registry, to say."""

    model: ModelName
    files: Path
    version: str = ""
    format: str = ""
    contract: Contract | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where something is brought.

    Attributes:
        source: a registry's name, or the path of a Triton model repository.
        target: a registry's name.
        name: the model's name there; "" for the same.
    """

    source: str
    target: str
    name: str = ""


async def check_registries(config: GatewayConfig, name: str, timeout: float) -> tuple[Checked, ...]:
    """Read registries once, all at the same time.

    Args:
        name: of one; "" for all.
        timeout: seconds for each.

    Raises:
        InvalidInput: there is none of that name.
    """
    names = [_known(config, name)] if name else list(config.registries)
    return tuple(await asyncio.gather(*(_check(config, one, timeout) for one in names)))


async def _check(config: GatewayConfig, name: str, timeout: float) -> Checked:
    kind = config.registries[name].type
    began = time.monotonic()
    try:
        async with _opened(config, name) as registry, asyncio.timeout(timeout):
            view = await read_on(registry)
            seconds = time.monotonic() - began
            versions = [version for model in view.models.values() for version in model.versions.values()]
            refused = await asyncio.to_thread(lambda: tuple(_refused(config, registry, versions)))
            return Checked(
                name=name,
                type=kind,
                seconds=seconds,
                models=len(view.models),
                versions=len(versions),
                capabilities=tuple(sorted(registry.capabilities)),
                refused=len(refused),
                problems=(*view.problems, *_unread_secrets(config, name), *refused),
            )
    except TimeoutError:
        return Checked(name, kind, error=f"was not read within {timeout:g} s")
    except StagegateError as problem:
        return Checked(name, kind, error=str(problem))


def _unread_secrets(config: GatewayConfig, name: str) -> Iterator[RegistryProblem]:
    """Those that reading does not need, such as that of webhooks: without it, each notice is refused."""
    for key, value in config.registries[name].options.items():
        if isinstance(value, SecretReader):
            try:
                value()
            except StagegateError as problem:
                yield RegistryProblem(key, problem.message)


def _refused(config: GatewayConfig, registry: Registry, versions: list[Version]) -> Iterator[RegistryProblem]:
    fetcher = Artifacts(config, lambda _: registry).fetcher
    for version in versions:
        if version.unusable:
            continue  # its registry itself says that nobody is to fetch it
        try:
            fetcher.check_place(version)
        except (ArtifactRefused, ArtifactError) as problem:
            yield RegistryProblem(f"{version.model} {version.version}", str(problem))


async def register(config: GatewayConfig, name: str, new: NewFiles, tell: Tell) -> Version:
    """Bring files of this machine into a registry.

    Args:
        name: of the registry; "" for the default one.

    Raises:
        InvalidInput: the registry is not known, or the files tell no format.
        StagegateError: as `Registry.register`.
    """
    target = _known(config, name or config.default_registry)
    tell(f"hashing {new.files}")
    made = await asyncio.to_thread(_new_version, new)
    async with _opened(config, target) as registry:
        return await registry.register(made, tell)


def _new_version(new: NewFiles) -> NewVersion:
    paths = [path for path, _ in files_of(new.files)]
    if not paths:
        raise InvalidInput(f"{new.files} holds no files")
    kind = _known_format(new.format) if new.format else _format_of(new, paths)
    _check_needed(new, kind, paths)
    contract = new.contract
    onnx = [file for path, file in files_of(new.files) if path.endswith(".onnx")]
    if contract is None and kind == "onnx" and len(onnx) == 1:
        with contextlib.suppress(ArtifactError):  # the load will tell
            contract = contract_of_onnx(onnx[0])
    return NewVersion(
        model=new.model,
        files=new.files,
        format=kind,
        digest=digest_of(new.files),
        version=new.version,
        contract=contract,
        metrics=new.metrics,
        tags=new.tags,
        lineage=new.lineage,
        description=new.description,
    )


def _format_of(new: NewFiles, paths: list[str]) -> str:
    kind, why = format_of(paths)
    if kind:
        return kind
    if "model.py" in paths:
        return "python"
    raise InvalidInput(
        f"{new.files}: {why.removesuffix('; give `format`')}",
        hint=f"if it is one of {', '.join(LAYOUTS)}, say it with --format",
    )


def _known_format(kind: str) -> str:
    if kind in LAYOUTS:
        return kind
    near = difflib.get_close_matches(kind.lower(), LAYOUTS, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LAYOUTS)}"
    raise InvalidInput(f"format {kind[:80]!r} is not known", hint=known)


def _check_needed(new: NewFiles, kind: str, paths: list[str]) -> None:
    """A folder that is not the one that was meant is told here, not when somebody wants the version."""
    needed = _NEEDED.get(kind)
    if needed and not is_archive(paths) and not any(path.endswith(needed) for path in paths):
        raise InvalidInput(f"{new.files} has no {needed}, which format {kind} needs")


def read_contract(path: Path) -> Contract:
    """The `inputs` and `outputs` of a YAML file, as a version.yaml has them below `contract`.

    Raises:
        InvalidInput: it cannot be read, or is no contract; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidInput(f"{path} cannot be read: {problem}") from None
    inside = "".join(f"  {line}\n" for line in text.splitlines())
    try:
        found = read_version(f"contract:\n{inside}format: any\nartifact: any\n").contract
    except Unreadable as problem:
        raise InvalidInput(
            f"{path} is no contract: {problem}", hint="it has `inputs` and `outputs`"
        ) from None
    if found is None:
        raise InvalidInput(f"{path} is no contract", hint="it has `inputs` and `outputs`")
    return found


async def import_version(config: GatewayConfig, reference: str, way: Way, tell: Tell) -> Version:
    """Bring one version of a registry into another; metrics, tags, contract and lineage come along.

    Args:
        reference: `model` or `model@ref` as the source has it; the highest version without a ref.

    Raises:
        StagegateError: as `Registry.read`, `Fetcher.fetch` and `Registry.register`.
    """
    if not reference:
        raise InvalidInput("which model is missing", hint="such as 'stagegate import digits@3 --from ...'")
    _known(config, way.target)
    async with _opened(config, _known(config, way.source)) as registry:
        model, version = await _named(registry, reference)
        artifacts = Artifacts(config, lambda _: registry)
        with tempfile.TemporaryDirectory(prefix="stagegate-import-") as folder:
            fetched = Path(folder)
            await asyncio.to_thread(artifacts.fetcher.fetch, version, fetched, tell)
            new = NewFiles(
                model=parse_model_name(way.name or model.name),
                files=_whole(fetched, version),
                format=version.format,
                contract=version.contract,
                metrics=version.metrics,
                tags={key: text for key, text in version.tags.items() if not key.startswith("stagegate.")},
                lineage={**version.lineage, "imported_from": f"{way.source}:{model.name}@{version.version}"},
                description=model.description,
            )
            return await register(config, way.target, new, tell)


async def _named(registry: Registry, reference: str) -> tuple[RegisteredModel, Version]:
    name, ref = parse_model_reference(reference)
    view = await read_on(registry, Hint(name))
    model = view.models.get(name)
    if model is None:
        why = next((p.message for p in view.problems if p.subject == name), "")
        raise ModelNotFound(f"registry {registry.name!r} has no model {name!r}", hint=why)
    version = resolve(model, ref).version if ref else highest(model.versions)
    if version is None:
        raise ModelNotFound(f"model {name!r} of registry {registry.name!r} has no versions")
    return model, model.versions[version]


def _whole(fetched: Path, version: Version) -> Path:
    """A single file as itself, so that it keeps its digest; else the folder."""
    files = list(files_of(fetched))
    if len(files) == 1 and digest_of(files[0][1]) == version.digest:
        return files[0][1]
    return fetched


async def import_repository(config: GatewayConfig, model: str, way: Way, tell: Tell) -> list[Version]:
    """Bring a Triton model repository into a registry: each version folder as one version of format triton.

    Args:
        model: only that one; "" for all.

    Raises:
        InvalidInput: it is neither a registry nor such a folder.
        StagegateError: as `Registry.register`; versions before it are there.
    """
    if way.name and not model:
        raise InvalidInput("--as is for one model", hint="say which")
    made = []
    for path in await asyncio.to_thread(_models_of, config, way.source, model):
        for version in sorted(_version_folders(path), key=lambda one: int(one.name)):
            with tempfile.TemporaryDirectory(prefix="stagegate-import-") as beside:
                one = await asyncio.to_thread(_one_version, path, version, Path(beside, path.name))
                new = NewFiles(
                    model=parse_model_name(way.name or path.name),
                    files=one,
                    version=version.name,
                    format="triton",
                    lineage={"imported_from": f"{path.name}/{version.name} of a Triton model repository"},
                )
                made.append(await register(config, way.target, new, tell))
    return made


def _models_of(config: GatewayConfig, source: str, model: str) -> list[Path]:
    folder = Path(source)
    if not folder.is_dir():
        raise InvalidInput(
            f"--from: {source[:200]!r} is neither a registry nor a folder", hint=_registries(config)
        )
    found = [
        path for path in sorted(folder.iterdir()) if _is_model(path) and path.name == (model or path.name)
    ]
    if not found:
        raise ModelNotFound(
            f"{folder} has no {f'model {model!r}' if model else 'Triton models'}",
            hint="it is looked for as MODEL/VERSION/..., where VERSION is a number",
        )
    return found


def _is_model(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and any(_version_folders(path))


def _version_folders(model: Path) -> Iterator[Path]:
    return (path for path in model.iterdir() if path.is_dir() and path.name.isdecimal())


def _one_version(model: Path, version: Path, made: Path) -> Path:
    """A copy of a model folder with one of its versions."""
    others = {path.name for path in _version_folders(model)} - {version.name}

    def skip(folder: str, names: list[str]) -> set[str]:
        return others & set(names) if Path(folder) == model else set()

    try:
        for _ in files_of(model):
            pass  # refuses links and devices before anything is copied
        shutil.copytree(model, made, ignore=skip)
    except OSError as problem:
        raise ArtifactMissing(f"{model} cannot be copied: {problem}") from problem
    return made


@contextlib.asynccontextmanager
async def _opened(config: GatewayConfig, name: str) -> AsyncIterator[Registry]:
    section = config.registries[name]
    registry = open_registry(name, section.type, section.options)
    try:
        yield registry
    finally:
        await registry.close()


def _known(config: GatewayConfig, name: str) -> str:
    if name in config.registries:
        return name
    if not name:
        raise InvalidInput("which registry is meant is not said", hint=_registries(config))
    raise InvalidInput(f"the configuration has no registry {name!r}", hint=_registries(config))


def _registries(config: GatewayConfig) -> str:
    known = f"registries: {', '.join(config.registries) or 'none'}"
    return f"{known} (those without --config FILE)" if config.source == BUILT_IN else known
