"""Moves stages and aliases of the folder registry, by one rename.

Comments and layout of `model.yaml` are kept where the change is one value or one more line; a removal
writes the file anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from router.alias import parse_reference
from router.errors import (
    Conflict,
    InvalidInput,
    InvalidReference,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, VersionId
from router.ports import AliasChange, RegistryChange, TagChange
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.manifest import ModelManifest, Unreadable, read_model
from router.registries.textyaml import Document, Span, parse

_SECTIONS = {PointerKind.STAGE: "stages", PointerKind.ALIAS: "aliases"}


def write_pointers(
    root: Path,
    model: ModelName,
    *,
    stages: Mapping[str, VersionId | None] | None = None,
    aliases: Mapping[str, VersionId | None] | None = None,
) -> None:
    """Set stages and aliases of a model, all in one rename; None removes one.

    Other processes that use this function wait for each other. The file is on disk when this returns.

    Raises:
        ModelNotFound, VersionNotFound: there is no such folder.
        InvalidReference: a name that cannot be one.
        InvalidInput: `model.yaml` cannot be read now; it is left as it is.
        RegistryUnavailable: it cannot be written.
    """
    folder = root / model
    changes = [(PointerKind.STAGE, name.lower(), to) for name, to in (stages or {}).items()]
    changes += [(PointerKind.ALIAS, name, to) for name, to in (aliases or {}).items()]
    if not folder.is_dir():
        raise ModelNotFound(f"registry folder {root} has no model {model!r}")
    for _, name, version in changes:
        _check(folder, model, name, version)
    try:
        with _locked(folder):
            path = folder / MODEL_FILE
            before = path.read_text(encoding="utf-8-sig") if path.exists() else "{}\n"
            after = before
            for kind, name, version in changes:
                after = _changed(path, after, kind, name, version)
            if after != before:
                _replace(path, after)
    except OSError as error:
        raise RegistryUnavailable(f"{folder / MODEL_FILE} cannot be written: {error.strerror}") from error


def write_change(registry: str, root: Path, change: RegistryChange) -> None:
    """Carry a decision out in `model.yaml`; raises as `Registry.write` says.

    A folder's stage names one version, so nothing has to be archived; taking a version out of its stage
    removes the stages that name it.
    """
    if isinstance(change, TagChange):
        raise NotSupported(f"registry {registry!r}: a folder registry takes no tags from here")
    kind = PointerKind.ALIAS if isinstance(change, AliasChange) else PointerKind.STAGE
    name = change.alias if isinstance(change, AliasChange) else change.stage.lower()
    manifest = _manifest(root / change.model)
    now = manifest.aliases if kind is PointerKind.ALIAS else manifest.stages
    if change.expected is not None and now.get(name, "") not in (change.expected, change.version):
        raise Conflict(
            f"{kind} {name!r} of model {change.model!r} names {now.get(name) or 'nothing'}, "
            f"not {change.expected or 'nothing'}; it was left as it is",
            current_revision=0,
        )
    if isinstance(change, AliasChange):
        write_pointers(root, change.model, aliases={name: change.version})
    elif name:
        write_pointers(root, change.model, stages={name: change.version})
    else:
        left = {stage: None for stage, to in manifest.stages.items() if to == change.version}
        write_pointers(root, change.model, stages=left)


def _manifest(folder: Path) -> ModelManifest:
    path = folder / MODEL_FILE
    try:
        return read_model(path.read_text(encoding="utf-8-sig") if path.exists() else "{}\n")
    except Unreadable as error:
        raise InvalidInput(f"{path} cannot be read, so it is not changed: {error}", hint="mend it") from error
    except OSError as error:
        raise RegistryUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _check(folder: Path, model: ModelName, name: str, version: VersionId | None) -> None:
    if name.startswith("@"):
        raise InvalidReference(f"{name!r}: write the name without '@'")
    parse_reference(name)
    if version is None:
        return
    parse_reference(version)
    if "/" in version or not (folder / version / VERSION_FILE).is_file():
        raise VersionNotFound(
            f"model {model!r} has no version {version!r}", hint=f"looked for {version}/{VERSION_FILE}"
        )


def _changed(path: Path, text: str, kind: PointerKind, name: str, version: VersionId | None) -> str:
    try:
        manifest = read_model(text)
    except Unreadable as error:
        raise InvalidInput(f"{path} cannot be read, so it is not changed: {error}", hint="mend it") from error
    section = _SECTIONS[kind]
    now = manifest.stages if kind is PointerKind.STAGE else manifest.aliases
    if now.get(name) == version:
        return text
    document = parse(text)
    wanted = _with_pointer(document.value, section, name, version)
    edited = None if version is None else _edited(text, document, section, name, version)
    if edited is not None and _means(edited, wanted):
        return edited
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, default_style=None)


def _with_pointer(value: object, section: str, name: str, version: VersionId | None) -> dict[str, object]:
    """The whole document as it should be afterwards."""
    root = dict(value) if isinstance(value, dict) else {}
    old = root.get(section)
    pointers = {str(key): to for key, to in old.items()} if isinstance(old, dict) else {}
    # Stages may be written in any case; the one that means this name goes.
    same = [key for key in pointers if key == name or (section == "stages" and key.lower() == name)]
    for key in same if version is None else same[1:]:
        del pointers[key]
    if version is not None:
        pointers[same[0] if same else name] = version
    return {**root, section: pointers}


def _edited(text: str, document: Document, section: str, name: str, version: VersionId) -> str | None:
    """The text with one value replaced or one entry added; None where that is not simple."""
    value = _quoted(version)
    root = document.value if isinstance(document.value, dict) else {}
    pointers = root.get(section)
    if not isinstance(pointers, dict):
        if section in root or not root:
            return None
        end = "" if text.endswith("\n") else "\n"
        return f"{text}{end}{section}:\n  {_quoted(name)}: {value}\n"
    key = next((k for k in pointers if k == name or (section == "stages" and k.lower() == name)), None)
    if key is not None:
        return _spliced(text, document.values[section, key], value)
    if not pointers:
        return _spliced(text, document.values[(section,)], f"{{{_quoted(name)}: {value}}}")
    first = document.keys[section, next(iter(pointers))]
    line_start = text.rfind("\n", 0, first.start) + 1
    indent = text[line_start : first.start]
    # In front of the first entry, where no comment can be in the way.
    between = f"\n{indent}" if not indent.strip() else ", "
    return f"{text[: first.start]}{_quoted(name)}: {value}{between}{text[first.start :]}"


def _spliced(text: str, span: Span, value: str) -> str:
    return text[: span.start] + value + text[span.end :]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _means(text: str, wanted: Mapping[str, object]) -> bool:
    try:
        read_model(text)
        return parse(text).value == wanted
    except Exception:  # whatever the edit broke, the file is then written anew
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time. The lock is on the folder itself, so no file is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
