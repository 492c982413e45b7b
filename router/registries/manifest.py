"""`model.yaml` and `version.yaml`: text in, checked values and complaints out. No files are touched here.

A complaint is a mistake that leaves the rest usable (an unknown key). `Unreadable` means that the file as
a whole cannot be trusted: its last good reading goes on.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.alias import parse_reference
from router.errors import InvalidReference
from router.model import Contract, TensorSpec, VersionId
from router.registries.compact import compact
from router.registries.plainyaml import LONGEST_KEPT
from router.registries.textyaml import Document, Path, YamlProblem, parse

_MODEL_KEYS = ("description", "stages", "aliases", "tags")
_VERSION_KEYS = ("format", "artifact", "digest", "contract", "metrics", "tags", "lineage", "created")
_CONTRACT_KEYS = ("inputs", "outputs")
_TENSOR_KEYS = ("name", "datatype", "shape")
DATATYPES = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
)
"""Tensor datatypes of the v2 inference protocol."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")


@dataclass(frozen=True, slots=True)
class Complaint:
    """One mistake and its 1-based line."""

    line: int
    message: str


class Unreadable(Exception):
    """A manifest that cannot be used; all its mistakes."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("; ".join(f"line {complaint.line}: {complaint.message}" for complaint in complaints))
        self.complaints = tuple(complaints)


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What `model.yaml` says; stages in lower case, aliases without `@`."""

    description: str = ""
    stages: Mapping[str, VersionId] = field(default_factory=dict)
    aliases: Mapping[str, VersionId] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    complaints: tuple[Complaint, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionManifest:
    """What `version.yaml` says; `artifact` is a URI, or a path below the version's folder."""

    format: str
    artifact: str
    digest: str = ""
    contract: Contract | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    created: float | None = None
    complaints: tuple[Complaint, ...] = ()

    @property
    def is_uri(self) -> bool:
        """Whether the artifact is somewhere else."""
        return bool(_SCHEME.match(self.artifact))


def read_model(text: str) -> ModelManifest:
    """Read `model.yaml`. Raises Unreadable."""
    reader = _Reader(text)
    root = reader.root(_MODEL_KEYS)
    manifest = ModelManifest(
        description=reader.text(("description",)) if "description" in root else "",
        stages=compact(reader.pointers("stages", str.lower)),
        aliases=compact(reader.pointers("aliases", str)),
        tags=compact(reader.text_map("tags")),
        complaints=tuple(reader.complaints),
    )
    reader.finish()
    return manifest


def read_version(text: str) -> VersionManifest:
    """Read `version.yaml`. Raises Unreadable."""
    reader = _Reader(text)
    root = reader.root(_VERSION_KEYS)
    for key in ("format", "artifact"):
        if key not in root:
            reader.error((), f"{key}: is missing")
    manifest = VersionManifest(
        format=sys.intern(reader.text(("format",))) if "format" in root else "",
        artifact=sys.intern(_artifact(reader)) if "artifact" in root else "",
        digest=_digest(reader) if "digest" in root else "",
        contract=_contract(reader) if "contract" in root else None,
        metrics=_metrics(reader),
        tags=compact(reader.text_map("tags")),
        lineage=compact(reader.text_map("lineage")),
        created=_created(reader) if "created" in root else None,
        complaints=tuple(reader.complaints),
    )
    reader.finish()
    return manifest


def _artifact(reader: _Reader) -> str:
    text = reader.text(("artifact",))
    if _SCHEME.match(text):
        return text
    parts = text.split("/")
    if text.startswith("/") or ".." in parts:
        reader.error(
            ("artifact",),
            f"artifact: {text!r} leaves the version's folder; give a path below it, or a URI such as file://",
        )
    return text


def _digest(reader: _Reader) -> str:
    text = reader.text(("digest",))
    if text and not _DIGEST.fullmatch(text):
        reader.error(("digest",), f"digest: {text[:80]!r} is not 'sha256:' and 64 lower-case hex digits")
    return text


def _metrics(reader: _Reader) -> Mapping[str, float]:
    metrics: dict[str, float] = {}
    for name, text in reader.text_map("metrics").items():
        try:
            metrics[name] = float(text)
        except ValueError:
            reader.error(("metrics", name), f"metrics.{name}: {text!r} is not a number")
    return compact(metrics)


def _created(reader: _Reader) -> float:
    """Unix seconds, or a date and time with its zone."""
    text = reader.text(("created",))
    try:
        created = float(text)
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(text)
            created = moment.timestamp() if moment.tzinfo else math.nan
        except ValueError:
            created = math.nan
    if not math.isfinite(created):
        reader.error(
            ("created",), f"created: {text!r} is not unix seconds or a time like 2026-01-31T12:00:00Z"
        )
    return created


_MOST_KNOWN = 1024
_known: dict[str, Contract] = {}
"""Contracts without a mistake, by the text that says them: those of a model's versions are mostly one."""


def _contract(reader: _Reader) -> Contract:
    source = reader.source("contract")
    known = _known.get(source)
    if known is not None:
        return known
    mistakes = reader.mistakes
    contract = _shared(_read_contract(reader))
    if 0 < len(source) <= LONGEST_KEPT and reader.mistakes == mistakes:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[source] = contract
    return contract


def _read_contract(reader: _Reader) -> Contract:
    path = ("contract",)
    found = reader.mapping(path, _CONTRACT_KEYS)
    for key in _CONTRACT_KEYS:
        if key not in found:
            reader.error(path, f"contract.{key}: is missing")
    return Contract(
        inputs=_tensors(reader, ("contract", "inputs")) if "inputs" in found else (),
        outputs=_tensors(reader, ("contract", "outputs")) if "outputs" in found else (),
    )


@functools.lru_cache(maxsize=1024)
def _shared(contract: Contract) -> Contract:
    """One value for all that are equal: the versions of a model mostly have the same contract."""
    return contract


def _tensors(reader: _Reader, path: Path) -> tuple[TensorSpec, ...]:
    tensors = tuple(_tensor(reader, (*path, index)) for index in range(len(reader.items(path))))
    names = [tensor.name for tensor in tensors]
    for name in dict.fromkeys(names):
        if name and names.count(name) > 1:
            reader.error(path, f"{show(path)}: tensor {name!r} is given twice")
    return tensors


def _tensor(reader: _Reader, path: Path) -> TensorSpec:
    found = reader.mapping(path, _TENSOR_KEYS)
    for key in _TENSOR_KEYS:
        if key not in found:
            reader.error(path, f"{show(path)}.{key}: is missing")
    datatype = reader.text((*path, "datatype")) if "datatype" in found else ""
    if datatype and datatype not in DATATYPES:
        near = difflib.get_close_matches(datatype.upper().removeprefix("TYPE_"), DATATYPES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(DATATYPES)}"
        reader.error((*path, "datatype"), f"{show(path)}.datatype: {datatype!r} is not a datatype; {hint}")
    return TensorSpec(
        name=sys.intern(reader.text((*path, "name"))) if "name" in found else "",
        datatype=sys.intern(datatype),
        shape=_shape(reader, (*path, "shape")) if "shape" in found else (),
    )


def _shape(reader: _Reader, path: Path) -> tuple[int, ...]:
    shape: list[int] = []
    for index in range(len(reader.items(path))):
        text = reader.text((*path, index))
        size = int(text) if _WHOLE_NUMBER.fullmatch(text) else 0
        if size != -1 and size < 1:
            reader.error((*path, index), f"{show((*path, index))}: {text!r} is not a size: 1 or more, or -1")
        shape.append(size)
    return tuple(shape)


def show(path: Path) -> str:
    """A path as people write it: `contract.inputs[0].shape`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Reader:
    """Takes values out of a document and collects what is wrong."""

    def __init__(self, text: str) -> None:
        try:
            self._document: Document = parse(text)
        except YamlProblem as problem:
            raise Unreadable([Complaint(problem.line, problem.message)]) from problem
        self._errors: list[Complaint] = []
        self.complaints: list[Complaint] = []

    @property
    def mistakes(self) -> int:
        """How many errors and complaints there are so far."""
        return len(self._errors) + len(self.complaints)

    def source(self, key: str) -> str:
        """The text of a top-level key with all that belongs to it; "" where it is not known by itself."""
        return self._document.sources.get(key, "")

    def finish(self) -> None:
        """Raises Unreadable if there was an error."""
        if self._errors:
            raise Unreadable(self._errors)

    def error(self, path: Path, message: str) -> None:
        self._errors.append(Complaint(self._document.line(path), message))

    def root(self, known: Sequence[str]) -> Mapping[str, object]:
        if self._document.value is None:
            raise Unreadable([Complaint(1, "is empty; write {} to say nothing")])
        return self.mapping((), known)

    def mapping(self, path: Path, known: Sequence[str] | None = None) -> Mapping[str, object]:
        value = self._at(path)
        if not isinstance(value, dict):
            self._wrong(path, value, "a mapping")
            return {}
        for key in value if known is not None else ():
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
                where = (*path, key)
                self.complaints.append(
                    Complaint(self._document.line(where), f"{show(where)}: unknown key, left out; {hint}")
                )
        return value

    def items(self, path: Path) -> Sequence[object]:
        value = self._at(path)
        if not isinstance(value, list):
            self._wrong(path, value, "a list")
            return ()
        return value

    def text(self, path: Path) -> str:
        value = self._root().get(str(path[0])) if len(path) == 1 else self._at(path)
        if not isinstance(value, str):
            self._wrong(path, value, "text")
            return ""
        return value

    def text_map(self, key: str) -> dict[str, str]:
        """An optional mapping of text to text; not to be changed."""
        root = self._root()
        if key not in root:
            return {}
        found = root[key]
        if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
            return found
        return {name: self.text((key, name)) for name in self.mapping((key,))}

    def pointers(self, key: str, normalise: Callable[[str], str]) -> dict[str, VersionId]:
        """An optional mapping of stages or aliases to version ids."""
        found: dict[str, VersionId] = {}
        for written, version in self.text_map(key).items():
            name = normalise(written)
            if name.startswith("@"):
                self.error((key, written), f"{key}.{written}: write the name without '@'")
            elif name in found:
                self.error((key, written), f"{key}.{written}: is given twice")
            else:
                self._check_reference((key, written), name, "name")
                self._check_reference((key, written), version, "version id")
                found[name] = VersionId(version)
        return found

    def _check_reference(self, path: Path, text: str, what: str) -> None:
        try:
            parse_reference(text)
        except InvalidReference as error:
            self.error(path, f"{show(path)}: {what}: {error}")

    def _root(self) -> Mapping[str, object]:
        value = self._document.value
        return value if isinstance(value, dict) else {}

    def _at(self, path: Path) -> object:
        value: object = self._document.value
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int):
                value = value[part]
            else:
                return None
        return value

    def _wrong(self, path: Path, value: object, wanted: str) -> None:
        name = show(path) or "the file"
        if value is None:
            # A key with nothing after it is what a file looks like that was cut there.
            self.error(path, f"{name}: has no value; {wanted} is needed")
        else:
            kind = "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"
            self.error(path, f"{name}: is {kind}, {wanted} is needed")
