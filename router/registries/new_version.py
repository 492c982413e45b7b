"""What a new version must be, and the `version.yaml` that is written for it. No files are touched here."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

import yaml

from router.alias import parse_reference
from router.errors import InvalidInput, InvalidReference
from router.model import Contract, VersionId, parse_model_name
from router.ports import NewVersion
from router.registries.documents import is_temporary
from router.registries.files import MODEL_FILE
from router.registries.manifest import Unreadable, read_version

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_HEX = 16


def check_new(new: NewVersion) -> None:
    """Raises InvalidInput where its names, format or digest cannot be."""
    parse_model_name(new.model)
    if is_temporary(new.model):
        raise InvalidInput(f"model name {new.model!r} looks like work in progress")
    if new.version:
        check_id(new.version)
    if not new.format:
        raise InvalidInput(f"new version of {new.model!r}: its format is missing", hint="such as onnx")
    if not _DIGEST.fullmatch(new.digest):
        raise InvalidInput(f"new version of {new.model!r}: {new.digest[:80]!r} is no digest")


def check_id(version: str) -> VersionId:
    """A version id that can be the name of a folder. Raises InvalidInput."""
    parse_reference(version)
    if version.startswith("@"):
        raise InvalidReference("a version id cannot begin with '@'")
    if "/" in version or is_temporary(version) or version == MODEL_FILE:
        raise InvalidReference(
            f"version id {version!r} cannot be the name of a folder",
            hint="use letters, digits, '.', '_' and '-', and no dot in front",
        )
    return VersionId(version)


def next_id(taken: Iterable[str]) -> VersionId:
    """The whole number after the highest of those that are there."""
    numbers = [int(name) for name in taken if _NUMBER.fullmatch(name)]
    return VersionId(str(max(numbers, default=0) + 1))


def files_folder(new: NewVersion) -> str:
    """A name for the folder of its files that no other content has."""
    return "files-" + new.digest.removeprefix("sha256:")[:_HEX]


def check_inside(paths: Iterable[str], new: NewVersion) -> None:
    """Look at the names of its files. Raises InvalidInput."""
    empty = True
    for path in paths:
        empty = False
        if any(part.startswith(".") for part in path.split("/")) or not path.isprintable():
            raise InvalidInput(
                f"{path!r} cannot be a file of a version", hint="no dot in front of a name, printable text"
            )
    if empty:
        raise InvalidInput(f"{new.files} holds no files")


def taken(new: NewVersion, version: str) -> InvalidInput:
    """The error for an id that other files have."""
    return InvalidInput(
        f"model {new.model!r} has a version {version!r} already, of other files",
        hint="give another id, or none to have the next number",
    )


def version_text(new: NewVersion, artifact: str, now: float) -> str:
    """The text of its `version.yaml`; a description becomes the tag of that name.

    Args:
        artifact: where its files are, as the manifest says it.
        now: unix seconds.

    Raises:
        InvalidInput: it could not be read again.
    """
    tags = {"description": new.description, **new.tags} if new.description else dict(new.tags)
    document: dict[str, object] = {"format": new.format, "artifact": artifact, "digest": new.digest}
    if new.contract is not None:
        document["contract"] = _contract(new.contract)
    for key, found in (("metrics", new.metrics), ("tags", tags), ("lineage", new.lineage)):
        if found:
            document[key] = dict(found)
    moment = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    document["created"] = moment.isoformat().replace("+00:00", "Z")
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    try:
        read_version(text)
    except Unreadable as error:
        raise InvalidInput(f"new version of {new.model!r} cannot be written down: {error}"[:500]) from error
    return text


def _contract(contract: Contract) -> dict[str, object]:
    return {
        side: [
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            for tensor in tensors
        ]
        for side, tensors in (("inputs", contract.inputs), ("outputs", contract.outputs))
    }
