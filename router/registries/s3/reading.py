"""What a listing says there is, and the texts of those manifests that changed since the last one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from router.errors import RegistryIncomplete, RegistryUnavailable
from router.registries.documents import (
    MAX_FILE,
    ModelSignature,
    Signature,
    decoded,
    is_new,
    is_temporary,
)
from router.registries.files import MODEL_FILE, VERSION_FILE
from router.registries.manifest import Complaint, Unreadable, VersionManifest
from router.registries.s3.objects import Listed, Objects, Page

ENDINGS = (f"/{MODEL_FILE}", f"/{VERSION_FILE}")
Tree = Mapping[str, ModelSignature]

_AT_ONCE = 8
_IN_MODEL, _IN_VERSION = 2, 3


@dataclass(frozen=True, slots=True)
class Reading:
    """Models as one look at the bucket found them.

    Attributes:
        tree: all of them, or the one that was asked for; signatures are odd where a file is to be read again.
        texts: of the files that changed, by path.
        failures: why files that changed could not be read, by path.
    """

    tree: Tree
    texts: Mapping[str, bytes]
    failures: Mapping[str, str]


def tree_of(prefix: str, pages: Iterable[Page], takes: Callable[[str], bool]) -> dict[str, ModelSignature]:
    """The models of a listing. A folder without a manifest is nothing: its files may be on their way."""
    models: dict[str, Signature | None] = {}
    versions: dict[str, list[tuple[str, Signature | None]]] = {}
    for page in pages:
        for listed in page.objects:
            parts = listed.key[len(prefix) :].split("/")
            folder = parts[0]
            if is_temporary(folder) or not takes(folder):
                continue
            if len(parts) == _IN_MODEL and parts[1] == MODEL_FILE:
                models[folder] = _signature(listed)
            elif len(parts) == _IN_VERSION and parts[2] == VERSION_FILE and not is_temporary(parts[1]):
                models.setdefault(folder)
                versions.setdefault(folder, []).append((parts[1], _signature(listed)))
    return {folder: (mark, tuple(versions.get(folder, ()))) for folder, mark in models.items()}


class Texts:
    """`documents.Place` of a bucket: gives the texts of the reading that is being taken in."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._reading = Reading({}, {}, {})

    def show(self, reading: Reading) -> None:
        """Give texts of this reading from here on."""
        self._reading = reading

    def text(self, path: str) -> str:
        """Raises Unreadable, also where it could not be fetched."""
        data = self._reading.texts.get(path)
        if data is None:
            raise Unreadable([Complaint(1, self._reading.failures.get(path, "is not there"))])
        return decoded(data)

    def artifact(self, path: str) -> str:
        """The URI of what lies at a path."""
        return f"{self._root}{path}"

    def check(self, folder: str, manifest: VersionManifest) -> None:
        """A bucket has no links."""


class Fetcher:
    """Fetches the texts that changed. What it has is kept until it is done, so that the next try goes on."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self._held: dict[str, tuple[Signature, bytes]] = {}

    def fetch(self, before: Tree, now: Tree, until: float) -> Reading:
        """Fetch what changed from one tree to the next.

        Where something is known, what cannot be fetched is a failure of that file alone.

        Raises:
            RegistryUnavailable: nothing could be fetched, and nothing is known or the time is over.
            RegistryIncomplete: some of it could be fetched in time.
        """
        wanted = dict(_changed(before, now))
        missing = [path for path, mark in wanted.items() if self._held.get(path, (0,))[0] != mark]
        problems: dict[str, RegistryUnavailable] = {}
        if missing:
            with ThreadPoolExecutor(min(_AT_ONCE, len(missing)), "s3-manifests") as pool:
                found = pool.map(lambda path: self._get(path, wanted[path], until), missing)
                told = zip(missing, found, strict=True)
                problems = {path: problem for path, problem in told if problem is not None}
        late = time.monotonic() > until
        if missing and len(problems) == len(missing) and (late or not before):
            raise problems[missing[0]]
        if late:
            read = len(self._held.keys() & wanted.keys())
            raise RegistryIncomplete(f"{read} of {len(wanted)} manifests are read")
        failures = {path: problem.message for path, problem in problems.items()}
        texts = {path: self._held[path][1] for path in wanted if path not in failures}
        self._held.clear()
        return Reading(_marked(now, failures), texts, failures)

    def _get(self, path: str, mark: Signature, until: float) -> RegistryUnavailable | None:
        if time.monotonic() > until:
            return RegistryUnavailable("there was no time left to read it")
        try:
            found = self._objects.get(f"{self._prefix}{path}", MAX_FILE, until)
        except RegistryUnavailable as problem:
            return problem
        if found is None:
            return RegistryUnavailable("went away while it was read")
        self._held[path] = (mark, found[0])
        return None


def _changed(before: Tree, now: Tree) -> Iterable[tuple[str, Signature]]:
    for folder, signature in now.items():
        last = before.get(folder)
        known = dict(_files(folder, last)) if last is not None and last != signature else {}
        if last == signature and not any(is_new(mark) for _, mark in _files(folder, signature)):
            continue
        for path, mark in _files(folder, signature):
            if known.get(path) != mark:
                yield path, mark


def _files(folder: str, signature: ModelSignature) -> Iterable[tuple[str, Signature]]:
    model, versions = signature
    if model is not None:
        yield f"{folder}/{MODEL_FILE}", model
    for version, mark in versions:
        if mark is not None:
            yield f"{folder}/{version}/{VERSION_FILE}", mark


def _marked(tree: Tree, failures: Mapping[str, str]) -> Tree:
    """The tree with odd signatures for what is to be read again."""
    if not failures:
        return tree
    folders = {path.partition("/")[0] for path in failures}
    changed = dict(tree)
    for folder in folders:
        model, versions = tree[folder]
        if f"{folder}/{MODEL_FILE}" in failures and model is not None:
            model |= 1
        changed[folder] = (
            model,
            tuple(
                (
                    name,
                    mark | 1 if mark is not None and f"{folder}/{name}/{VERSION_FILE}" in failures else mark,
                )
                for name, mark in versions
            ),
        )
    return changed


def _signature(listed: Listed) -> Signature:
    digest = hashlib.blake2b(listed.mark.encode(), digest_size=15).digest()
    return int.from_bytes(digest) << 1
