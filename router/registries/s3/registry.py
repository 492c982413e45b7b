"""The S3 registry: the folder registry's manifests, as objects below a prefix.

    s3://bucket/prefix/<model>/model.yaml
    s3://bucket/prefix/<model>/<version>/version.yaml

The listing is the truth, so that people can change files with any program. A look at it costs one request
for each 1,000 objects below the prefix; an answer that equals the one before is not even parsed, and only
manifests whose ETag changed are read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from router.errors import NotSupported, RegistryRefused, RegistryUnavailable
from router.model import ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports import ANYTHING, Capability, Hint, NewVersion, RegistryChange, Source, Unknown
from router.registries import asking
from router.registries.documents import ModelFiles
from router.registries.globs import takes
from router.registries.looks import Asked, Looks
from router.registries.pointer_names import reference_problem
from router.registries.s3.objects import Objects, Page
from router.registries.s3.reading import Fetcher, Reading, Texts, Tree, tree_of
from router.registries.s3.writing import Uploads, write_change

LIST_SECONDS = 60.0
"""How often everything is listed although the mark stands: somebody may have forgotten it."""

_UPLOAD_SECONDS = 6 * 3600.0
"""Files have their own size; a store that falls silent is noticed by the connection much earlier."""


@dataclass(frozen=True)
class Settings:
    """Where the registry is and how it is asked.

    Attributes:
        bucket, prefix: the prefix is "" or ends with "/".
        poll, timeout: seconds.
        models: globs of the models to take; none for all.
        mark: key below the prefix of an object that is written after each change; "" for none.
        files: prefix of another place for the files of versions that are registered; "" for beside their
            manifests, else ends with "/".
    """

    bucket: str
    prefix: str = ""
    poll: float = 5.0
    timeout: float = 30.0
    models: tuple[str, ...] = ()
    mark: str = ""
    files: str = ""


class _Session:
    """Access to the bucket, with what was learned over it. One that hangs is left for a new one."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self.objects = objects
        self.fetcher = Fetcher(objects, prefix)
        self.pages: dict[str, Page] = {}
        self.busy = threading.Lock()


@dataclass
class _Known:
    """What the last readings found; changed under the registry's lock."""

    tree: Tree = field(default_factory=dict)
    models: dict[str, ModelFiles] = field(default_factory=dict)
    view: RegistryView | None = None
    marks: tuple[bytes, ...] = ()
    mark: str = ""
    listed_at: float = 0.0


class S3Registry:
    """`ports.Registry` over a bucket. Blocking calls have threads of their own.

    Args:
        connect: makes access to the bucket; called again where one of them hangs.
        source: makes access to the files of versions.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        connect: Callable[[], Objects],
        source: Callable[[], Source],
    ) -> None:
        self._name = name
        self._settings = settings
        self._connect = connect
        self._make_source = source
        place = f"bucket {settings.bucket!r}"
        asked = Asked(name, place, settings.poll, settings.timeout, from_begin=True)
        self._looks = Looks(asked, self._abandon)
        self._takes = takes(settings.models)
        self._place = Texts(f"s3://{settings.bucket}/{settings.prefix}")
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._known = _Known()

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Objects are written under conditions, files are uploaded."""
        return frozenset({Capability.STAGES, Capability.ALIASES, Capability.TAGS, Capability.REGISTER})

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """List the prefix, or that of one model, and read the manifests that changed.

        The very same view where nothing did. Raises RegistryUnavailable, RegistryIncomplete.
        """
        return await self._looks.read(partial(self._read, hint.model))

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version as the bucket has it now."""
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What `model.yaml` says now."""
        return await asking.resolve(self, model, kind, name)

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What a line of `model.yaml` cannot be called."""
        return reference_problem(name)

    async def write(self, change: RegistryChange) -> None:
        """Write `model.yaml` or `version.yaml` unless somebody did meanwhile. Raises as the port says."""
        settings = self._settings

        def write() -> None:
            objects = self._use().objects
            write_change(objects, settings.prefix, change)
            self._set_mark(objects)

        await self._looks.call(write)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Upload files, then the manifest that makes them a version. Raises as the port says."""
        settings = self._settings

        def upload() -> VersionId:
            # Connections of its own: those of the readings are closed where one of them hangs.
            with contextlib.closing(self._connect()) as objects:
                uploads = Uploads(objects, settings.prefix, settings.files, progress)
                version = uploads.register(new, time.time())
                self._set_mark(objects)
                return version

        version = await self._looks.call(upload, _UPLOAD_SECONDS)
        made = await self.get(new.model, version)
        if isinstance(made, Unknown):
            raise RegistryUnavailable(f"registry {self._name!r} took {new.model}/{version} in: {made.reason}")
        if made is None:
            raise RegistryRefused(
                f"registry {self._name!r} took {new.model}/{version} in and does not list it"
            )
        return made

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Raises NotSupported: buckets send none that are signed."""
        raise NotSupported(f"registry {self._name!r} is a bucket; it sends no notices")

    def source(self, uri: str) -> Source | None:
        """Access with this registry's endpoint and keys; None for what is not in S3."""
        return self._make_source() if uri.startswith("s3://") else None

    async def close(self) -> None:
        """Give back connections."""
        self._abandon()

    def changes(self) -> AsyncIterator[Hint]:
        """Yield once each `poll`, less often where it is away; see `Looks.changes`."""
        return self._looks.changes()

    def _use(self) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = _Session(self._connect(), self._settings.prefix)
            return self._session

    def _claim(self, until: float) -> _Session:
        """The session for one reading; the caller releases `busy`."""
        session = self._use()
        if session.busy.acquire(timeout=max(until - time.monotonic(), 0)):
            return session
        raise RegistryUnavailable(f"registry {self._name!r}: the last question still waits for its answer")

    def _abandon(self) -> None:
        """Leave connections that hang; what waits on them fails at once."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.objects.close()

    def _read(self, model: ModelName | None) -> RegistryView:
        until = time.monotonic() + self._settings.timeout
        session = self._claim(until)
        try:
            if model is not None and self._known.view is not None:
                return self._read_one(session, model, until)
            return self._read_all(session, until)
        finally:
            session.busy.release()

    def _set_mark(self, objects: Objects) -> None:
        """Let others know that something changed."""
        if self._settings.mark:
            key = f"{self._settings.prefix}{self._settings.mark}"
            objects.call("the mark cannot be written", "put_object", Key=key, Body=uuid4().hex.encode())

    def _read_all(self, session: _Session, until: float) -> RegistryView:
        prefix, known, settings = self._settings.prefix, self._known, self._settings
        # Before the listing: what is written meanwhile is marked later.
        mark = session.objects.mark(f"{prefix}{settings.mark}", until) if settings.mark else ""
        recent = time.monotonic() - known.listed_at < LIST_SECONDS
        if mark and mark == known.mark and known.marks and recent and known.view is not None:
            return known.view
        view = self._list_all(session, until)
        self._known.mark, self._known.listed_at = mark, time.monotonic()
        return view

    def _list_all(self, session: _Session, until: float) -> RegistryView:
        prefix, known = self._settings.prefix, self._known
        pages = dict(session.objects.pages(prefix, session.pages, until))
        session.pages = pages
        marks = _marks(pages)
        if known.view is not None and marks == known.marks:
            return known.view
        reading = session.fetcher.fetch(known.tree, tree_of(prefix, pages.values(), self._takes), until)
        # What could not be read is read again with the next listing, though that may be the same.
        return self._take_in(session, reading, reading.tree, () if reading.failures else marks)

    def _read_one(self, session: _Session, model: ModelName, until: float) -> RegistryView:
        """Only one model; the next full reading compares all again."""
        prefix, known = self._settings.prefix, self._known
        pages = [page for _, page in session.objects.pages(f"{prefix}{model}/", {}, until)]
        found = tree_of(prefix, pages, self._takes)
        before: Tree = {str(model): known.tree[model]} if model in known.tree else {}
        reading = session.fetcher.fetch(before, found, until)
        if reading.tree == before and not reading.failures and known.view is not None:
            return known.view
        tree = {folder: mark for folder, mark in known.tree.items() if folder != model}
        return self._take_in(session, reading, {**tree, **reading.tree}, ())

    def _take_in(
        self, session: _Session, reading: Reading, tree: Tree, marks: tuple[bytes, ...]
    ) -> RegistryView:
        with self._lock:
            if self._session is not session:
                raise RegistryUnavailable(f"registry {self._name!r}: the answer came too late")
            known = self._known
            self._place.show(reading)
            models = {
                folder: known.models.get(folder) or ModelFiles(self._name, self._place, folder)
                for folder in sorted(tree)
            }
            for folder, signature in reading.tree.items():
                models[folder].update(signature)
            view = _equal(self._view(models), known.view)
            self._known = _Known(tree, models, view, marks)
            return view

    def _view(self, models: Mapping[str, ModelFiles]) -> RegistryView:
        return RegistryView(
            registry=self._name,
            models={files.model.name: files.model for files in models.values() if files.model is not None},
            problems=tuple(problem for files in models.values() for problem in files.problems),
        )


def _marks(pages: Mapping[str, Page]) -> tuple[bytes, ...]:
    return tuple(page.hash for page in pages.values())


def _equal(view: RegistryView, before: RegistryView | None) -> RegistryView:
    """The view from before where it says the same."""
    return before if before is not None and view == before else view
