"""What DVC's own files say: `dvc.yaml`, `.dvc` files, `dvc.lock`, lists of folders, `.dvc/config`. Pure.

All of them come from somebody's repository: sizes are bounded by whoever reads them, and every path is
checked here, so that nothing leads out of the repository, out of a remote or out of the target folder.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from router.registries.paths import OddPath, path_inside
from router.registries.textyaml import YamlProblem, parse

PROJECT_FILE = "dvc.yaml"
LOCK_FILE = "dvc.lock"
CONFIG_FILE = ".dvc/config"
SUFFIX = ".dvc"

MOST_FILES = 20_000
"""Files that a folder may have."""

_MD5 = re.compile(r"([0-9a-f]{32})(\.dir)?")
_SECTION = re.compile(r"""\[\s*(?:'|")?(?P<name>[^"'\]]+?)\s*(?:"(?P<label>[^"]*)")?\s*(?:'|")?\s*\]""")
_LARGEST = 1 << 53


class Unusable(ValueError):
    """A file of DVC's that cannot be used; says why."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A model as the `artifacts` section of a `dvc.yaml` declares it; `path` from the repository's top."""

    path: str
    kind: str = ""
    about: str = ""
    labels: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Out:
    """A file or folder that DVC keeps.

    Attributes:
        path: from the repository's top.
        md5: in hex, of the file, or of the list of a folder's files.
        folder: whether it is a folder.
        size: bytes in all, None where it is not said.
        remote: the remote that its `.dvc` file names, "" for the repository's own.
        old: whether it was written before DVC 3, which laid out its remotes otherwise.
    """

    path: str
    md5: str
    folder: bool = False
    size: int | None = None
    remote: str = ""
    old: bool = False

    @property
    def key(self) -> str:
        """Where a remote keeps it, below the remote's own place."""
        return place(self.md5, old=self.old) + (".dir" if self.folder else "")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder; `path` is inside the folder."""

    path: str
    md5: str


def place(md5: str, *, old: bool) -> str:
    """Where a remote keeps a file of that MD5."""
    return f"{'' if old else 'files/md5/'}{md5[:2]}/{md5[2:]}"


def inside(path: str, folder: str = "") -> str:
    """A relative path of a folder, from the repository's top.

    Raises:
        Unusable: it is absolute, leads out, or holds what no path of ours does.
    """
    try:
        return path_inside(path, folder)
    except OddPath as error:
        raise Unusable(str(error)) from error


def declared(text: str, folder: str, name: str) -> Declared | None:
    """What the `dvc.yaml` of a folder declares of a model; None where it does not name it.

    Raises:
        Unusable: it cannot be read, or its path leads out.
    """
    found = _mapping(_mapping(_yaml(text, PROJECT_FILE)).get("artifacts")).get(name)
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("path"), str):
        raise Unusable(f"{PROJECT_FILE}: artifact {name!r} has no path")
    labels = found.get("labels")
    return Declared(
        path=inside(found["path"], folder),
        kind=_text(found.get("type")),
        about=_text(found.get("desc")),
        labels=tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else (),
        meta={k: v for k, v in _mapping(found.get("meta")).items() if isinstance(v, str)},
    )


def outs_of_dvc_file(text: str, path: str) -> tuple[Out, ...]:
    """What a `.dvc` file at that path keeps. Raises Unusable."""
    root = _mapping(_yaml(text, path))
    folder = posixpath.dirname(path)
    if isinstance(root.get("wdir"), str):
        folder = _workdir(str(root["wdir"]), folder)
    return _outs(root.get("outs"), folder, path)


def outs_of_lock(text: str, folder: str) -> tuple[Out, ...]:
    """What the stages in the `dvc.lock` of a folder made. Raises Unusable."""
    root = _mapping(_yaml(text, LOCK_FILE))
    found: list[Out] = []
    for stage in _mapping(root.get("stages")).values():
        found += _outs(_mapping(stage).get("outs"), folder, LOCK_FILE)
    return tuple(found)


def entries(data: bytes) -> tuple[Entry, ...]:
    """The files of a folder, from the list that a remote keeps of it. Raises Unusable."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unusable("the list of its files is not JSON") from error
    if not isinstance(root, list) or len(root) > MOST_FILES:
        raise Unusable(f"the list of its files is no list of at most {MOST_FILES}")
    found: dict[str, Entry] = {}
    for item in root:
        path = item.get("relpath") if isinstance(item, dict) else None
        md5 = item.get("md5") if isinstance(item, dict) else None
        if not isinstance(path, str) or not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise Unusable("the list of its files has an entry without relpath or md5")
        if inside(path) != path:
            raise Unusable(f"path {path[:120]!r} in the list of its files is not in its plain form")
        if path in found:
            raise Unusable(f"path {path[:120]!r} is twice in the list of its files")
        found[path] = Entry(path, md5)
    return tuple(found.values())


def remotes(text: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The default remote's name and all remotes' settings, from `.dvc/config`; what is odd is left out."""
    default, found = "", dict[str, dict[str, str]]()
    section: dict[str, str] = {}
    core: dict[str, str] = {}
    for line in text.splitlines():
        heading = _SECTION.fullmatch(line.strip())
        if heading is not None:
            name, label = heading["name"].strip().lower(), heading["label"]
            section = found.setdefault(label, {}) if name == "remote" and label else {}
            section = core if name == "core" and label is None else section
            continue
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            section[key.strip().lower()] = value.strip().strip("\"'")
    default = core.get("remote", "")
    return default, found


def _yaml(text: str, path: str) -> object:
    found = _parsed(text)
    if isinstance(found, YamlProblem):
        raise Unusable(f"{path}:{found.line}: {found.message}")
    return found


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> object:
    """A document's value, or what is wrong with it: most commits have the same `dvc.yaml`."""
    try:
        return parse(text).value
    except YamlProblem as problem:
        return problem


def _outs(value: object, folder: str, path: str) -> tuple[Out, ...]:
    return tuple(_each_out(value if isinstance(value, Sequence) else (), folder, path))


def _each_out(outs: Sequence[object], folder: str, path: str) -> Iterator[Out]:
    for item in outs:
        out = _mapping(item)
        name, md5 = out.get("path"), out.get("md5")
        if not isinstance(name, str):
            raise Unusable(f"{path}: an out has no path")
        found = _MD5.fullmatch(md5) if isinstance(md5, str) else None
        if found is None:
            continue  # kept elsewhere than in a remote by MD5, or not at all
        yield Out(
            path=inside(name, folder),
            md5=found[1],
            folder=bool(found[2]),
            size=_size(out.get("size")),
            remote=_text(out.get("remote")),
            old=out.get("hash") != "md5",
        )


def _workdir(wdir: str, folder: str) -> str:
    joined = posixpath.normpath(posixpath.join(folder, wdir))
    return "" if joined == "." else inside(joined)


def _size(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= len(str(_LARGEST)):
        return int(value)
    return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
