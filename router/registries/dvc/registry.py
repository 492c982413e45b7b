"""The DVC registry: models by the tags of a git repository, their files by DVC.

A poll is one `git ls-remote`; only where that says something new is the rest fetched. What a commit says
never changes, so each is read once.
"""

from __future__ import annotations

import asyncio
import fnmatch
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from router.alias import in_order
from router.errors import (
    Conflict,
    InvalidName,
    InvalidReference,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    StagegateError,
    Unavailable,
    VersionNotFound,
)
from router.model import (
    ModelName,
    PointerKind,
    RegisteredModel,
    RegistryProblem,
    RegistryView,
    Version,
    VersionId,
    parse_model_name,
)
from router.ports import (
    ANYTHING,
    Capability,
    Hint,
    NewVersion,
    RegistryChange,
    Source,
    StageTransition,
    Unknown,
)
from router.registries import asking
from router.registries.compact import compact
from router.registries.dvc.artifacts import (
    SCHEME,
    DvcSource,
    Located,
    Remotes,
    listed,
    locate,
    uri_of,
)
from router.registries.dvc.files import Unusable
from router.registries.dvc.git import Mirror
from router.registries.dvc.tags import Named, Tagged, read_tags, stage_problem, tag_of_stage
from router.registries.formats import format_of
from router.registries.polling import pause

_MOST_PINNED = 32
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says of a repository.

    Attributes:
        poll: seconds between questions.
        names: logical names to the names in tags, for those that cannot be logical names.
        models: globs of the logical names that are taken.
        format: of all models; "" to go by `meta.format` in `dvc.yaml`, or by the files.
        push: whether stages are written back as tags.
    """

    poll: float = 5.0
    names: Mapping[str, str] | None = None
    models: Sequence[str] = ("*",)
    format: str = ""
    push: bool = False


class DvcRegistry:
    """`ports.Registry` over a git repository with DVC. git runs in threads."""

    def __init__(
        self,
        name: str,
        mirror: Mirror,
        remotes: Remotes,
        settings: Settings,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._mirror = mirror
        self._remotes = remotes
        self._settings = settings
        self._unix = unix
        self._lock = threading.Lock()
        self._refs: Mapping[str, str] | None = None
        self._tagged: Mapping[str, Tagged] = {}
        self._complaints: Mapping[str, str] = {}
        self._made: dict[tuple[str, str, str], Version | str] = {}
        self._models: dict[ModelName, RegisteredModel] = {}
        self._pinned: dict[ModelName, dict[VersionId, None]] = {}

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Stages, where `push` allows it: they are tags."""
        return frozenset({Capability.STAGES} if self._settings.push else ())

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Read all tags, and fetch only where one of them is new. Raises RegistryUnavailable."""
        return await asyncio.to_thread(self._read)

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version: by its tag, or by the full id of any commit of the repository that has the model."""
        try:
            return await asyncio.to_thread(self._get, model, version)
        except (RegistryUnavailable, Unusable) as error:
            return Unknown(str(error))

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What the tags say now; there are no aliases."""
        return await asking.resolve(self, model, kind, name)

    async def changes(self) -> AsyncIterator[Hint]:
        """Yield where branches or tags are others than at the last look, or nobody answers any more."""
        seen, failures = self._refs, 0
        while True:
            await asyncio.sleep(pause(self._settings.poll, failures, random.random()))  # noqa: S311 - no secret
            try:
                now: Mapping[str, str] | None = await asyncio.to_thread(self._mirror.refs)
                failures = 0
            except StagegateError:
                now = None
                failures += 1
            if now != seen:
                seen = now
                yield ANYTHING

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What no tag in git can put a version into; there are no aliases."""
        if kind is PointerKind.ALIAS:
            return "a git repository with DVC has no aliases; it has stages of any name"
        return stage_problem(name)

    async def write(self, change: RegistryChange) -> None:
        """Write a stage back as a dated tag, which then is the newest. Raises as the port says."""
        if not isinstance(change, StageTransition):
            raise NotSupported(
                f"registry {self._name!r}: a git repository with DVC has stages, "
                "but neither aliases nor tags of versions"
            )
        if not self._settings.push:
            raise NotSupported(
                f"registry {self._name!r} is only read",
                hint="`push: true` in its section lets stages be written as tags",
            )
        await asyncio.to_thread(self._write, change)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Raises NotSupported: versions are made where the data is."""
        raise NotSupported(
            f"registry {self._name!r}: versions are made by `dvc add`, `dvc push` and a tag",
            hint=f"git tag -a {new.model}@v1.0.0 && git push --tags",
        )

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Raises NotSupported: git sends none that we know."""
        raise NotSupported(f"registry {self._name!r} is a git repository; it is polled")

    def source(self, uri: str) -> Source | None:
        """Access to the remotes; None for what is not of this registry."""
        if not uri.startswith(f"{SCHEME}://"):
            return None
        return DvcSource(self._mirror, self._remotes.another())

    async def close(self) -> None:
        """Remove a temporary mirror."""
        self._remotes.close()
        await asyncio.to_thread(self._mirror.close)

    def _read(self) -> RegistryView:
        with self._lock:
            self._refresh()
            problems = [RegistryProblem(tag, text) for tag, text in sorted(self._complaints.items())]
            models = {}
            for artifact, tagged in sorted(self._tagged.items()):
                model = self._named(artifact, problems)
                if model is not None and (tagged.versions or self._pinned.get(model)):
                    models[model] = self._model(model, artifact, tagged, problems)
            self._models = models
            self._forget()
            return RegistryView(self._name, dict(models), tuple(problems))

    def _refresh(self) -> None:
        refs = self._mirror.refs()
        if refs == self._refs:
            return
        self._mirror.fetch()
        self._tagged, self._complaints = read_tags(self._mirror.tags())
        self._refs = refs

    def _named(self, artifact: str, problems: list[RegistryProblem]) -> ModelName | None:
        """The logical name of a model; None where it has none or is not taken."""
        named = self._settings.names or {}
        logical = next((key for key, to in named.items() if to == artifact), None)
        if logical is None and artifact in named:
            problems.append(
                RegistryProblem(artifact, f"cannot be served: `names` gives its name to {named[artifact]!r}")
            )
            return None
        try:
            model = parse_model_name(artifact if logical is None else logical)
        except InvalidName as error:
            problems.append(
                RegistryProblem(artifact, f"cannot be served: {error.message}; give it a name under `names`")
            )
            return None
        taken = any(fnmatch.fnmatchcase(model, pattern) for pattern in self._settings.models)
        return model if taken else None

    def _model(
        self, model: ModelName, artifact: str, tagged: Tagged, problems: list[RegistryProblem]
    ) -> RegisteredModel:
        before = self._models.get(model)
        named = dict(tagged.versions)
        for commit in self._pinned.get(model, {}):
            named.setdefault(commit, Named(commit, "", None))
        found, broken = [], dict[str, str]()
        for version, at in named.items():
            made = self._version(model, artifact, VersionId(version), at)
            if isinstance(made, Version):
                found.append(made)
            else:
                broken[version] = made
        stages = {}
        for stage, version in tagged.stages.items():
            if version not in broken:
                stages[stage] = VersionId(version)
                continue
            text = f"stage {stage!r} names {version}, which cannot be read: {broken.pop(version)}"
            known = before.stages.get(stage) if before is not None else None
            if known in {one.version for one in found}:
                stages[stage] = known
                text += f"; {known} stays in it"
            problems.append(RegistryProblem(model, text))
        problems += [RegistryProblem(f"{model}/{version}", text) for version, text in broken.items()]
        versions = in_order(found)
        now = RegisteredModel(
            registry=self._name,
            name=model,
            versions=versions,
            stages=compact(dict(sorted(stages.items()))),
            description=self._about(artifact, versions),
        )
        return before if before == now else now

    def _about(self, artifact: str, versions: Mapping[VersionId, Version]) -> str:
        """What the newest version's `dvc.yaml` says of the model."""
        newest = next(reversed(list(versions.values())), None)
        return newest.lineage.get("about", "") if newest is not None else ""

    def _version(self, model: ModelName, artifact: str, version: VersionId, at: Named) -> Version | str:
        """A version, or why it cannot be read; what a commit says is said for good."""
        key = (artifact, at.commit, version)
        known = self._made.get(key)
        if known is not None:
            return known
        try:
            located = locate(self._mirror, at.commit, artifact)
        except Unusable as error:
            self._made[key] = str(error)
            return str(error)
        except Unavailable as error:
            return str(error)
        made, for_good = self._with_format(model, version, at, located)
        if for_good:
            self._made[key] = made
        return made

    def _with_format(
        self, model: ModelName, version: VersionId, at: Named, located: Located
    ) -> tuple[Version, bool]:
        out, said = located.out, located.declared
        form, unusable, for_good = self._settings.format, "", True
        if not form and said is not None:
            form = said.meta.get("format", "")
        try:
            remote = self._remotes.of(at.commit, out)
            if not form:
                paths = [entry.path for entry in listed(remote, out)] if out.folder else [out.path]
                form, unusable = format_of(paths)
        except Unusable as error:
            unusable = str(error)
        except StagegateError as error:
            unusable, for_good = str(error), False
        lineage = {"commit": at.commit, "path": out.path, "md5": out.md5}
        if at.tag:
            lineage["tag"] = at.tag
        if said is not None and said.about:
            lineage["about"] = said.about
        tags = {} if said is None else {f"dvc.{key}": value for key, value in said.meta.items()}
        made = Version(
            registry=self._name,
            model=model,
            version=version,
            format=form,
            artifact=uri_of(self._name, at.commit, out),
            tags=compact(tags),
            lineage=compact(lineage),
            created=at.created if at.created is not None else self._mirror.date(at.commit),
            unusable=unusable,
        )
        return made, for_good

    def _forget(self) -> None:
        """Drop what no tag and no pin names any more."""
        commits = {at.commit for tagged in self._tagged.values() for at in tagged.versions.values()}
        commits |= {str(version) for pinned in self._pinned.values() for version in pinned}
        for key in [key for key in self._made if key[1] not in commits]:
            del self._made[key]

    def _get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        view = self._read()
        known = view.models.get(model)
        artifact = (self._settings.names or {}).get(model, str(model))
        if known is not None and version in known.versions:
            return known.versions[version]
        if artifact not in self._tagged or self._named(artifact, []) != model:
            return None
        if version in self._tagged[artifact].versions:
            told = [one.message for one in view.problems if version in f"{one.subject} {one.message}"]
            return Unknown("; ".join(told) or f"{model} {version} cannot be read")
        with self._lock:
            if not self._mirror.has(version):
                return None
            made = self._version(model, artifact, version, Named(version, "", None))
            if isinstance(made, str):
                return Unknown(made)
            pinned = self._pinned.setdefault(model, {})
            pinned[version] = None
            while len(pinned) > _MOST_PINNED:
                del pinned[next(iter(pinned))]
            return made

    def _write(self, change: StageTransition) -> None:
        failures = 0
        while True:
            self._read()
            artifact, tagged = self._tags_of(change.model)
            wanted = self._wanted_tag(change, artifact, tagged)
            if wanted is None:
                return
            # Tags are dated in seconds, and the newest counts: ours is later than all that are there.
            date = max(self._unix(), tagged.last + 1)
            try:
                self._mirror.push_tag(*wanted, "Written by Stagegate", date)
            except RegistryUnavailable:
                failures += 1  # somebody else may have taken that name in the meantime
                if failures == _TRIES:
                    raise

    def _tags_of(self, model: ModelName) -> tuple[str, Tagged]:
        artifact = (self._settings.names or {}).get(model, str(model))
        with self._lock:
            tagged = self._tagged.get(artifact)
        if tagged is None or self._named(artifact, []) != model:
            raise ModelNotFound(f"registry {self._name!r} has no model {model!r}")
        return artifact, tagged

    def _wanted_tag(self, change: StageTransition, artifact: str, tagged: Tagged) -> tuple[str, str] | None:
        """The next tag to be made, and its commit; None where all is as it should be."""
        stage = change.stage.lower()
        problem = stage_problem(stage) if stage else ""
        if problem:
            raise InvalidReference(f"registry {self._name!r}: {problem}")
        known = self._models.get(change.model)
        at = tagged.versions.get(change.version)
        if at is None and known is not None and change.version in known.versions:
            at = Named(str(change.version), "", None)
        if at is None:
            raise VersionNotFound(f"model {change.model!r} has no version {change.version!r}")
        now = tagged.stages.get(stage, "")
        if stage and change.expected is not None and now not in (change.expected, change.version):
            raise Conflict(
                f"stage {stage!r} of model {change.model!r} names {now or 'nothing'}, "
                f"not {change.expected or 'nothing'}; it was left as it is",
                current_revision=0,
            )
        if stage:
            if now == change.version:
                return None
            return tag_of_stage(artifact, stage, tagged.counter + 1), at.commit
        for other, commits in tagged.assigned.items():
            if at.commit in commits:
                return tag_of_stage(artifact, other, tagged.counter + 1, leaves=True), at.commit
        return None
