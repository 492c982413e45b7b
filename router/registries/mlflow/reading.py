"""All that is known of one MLflow, brought up to date by whole readings and by questions about one model.

A whole reading and a question may overlap: of each model the answer to the question that was begun last
counts. Blocking; used from several threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from router.errors import InvalidName, RegistryUnavailable
from router.model import ModelName, PointerKind, RegistryProblem, RegistryView, Version, VersionId
from router.registries.compact import compact
from router.registries.mlflow.facts import Facts, logged_model, run_of
from router.registries.mlflow.names import Names
from router.registries.mlflow.pages import MODELS, VERSIONS, Page
from router.registries.mlflow.rest import Answered, Server, Session
from router.registries.mlflow.told import Malformed, ToldModel, ToldVersion, model_of, page_of, version_of
from router.registries.mlflow.versions import Entry, entry_of, stages_of
from router.registries.mlflow.versions import version_of as version_made

_QUESTION_SECONDS = 5.0
_MOST_CONFIRMED = 8
_MOST_PAGES = 100
"""Of 10,000 versions of one model each."""
_MOST_PROBLEMS = 1_000

ByNumber = Mapping[str, ToldVersion]


Told = TypeVar("Told")


@dataclass(frozen=True)
class _Listed(Generic[Told]):
    """What a search said, by model; `bad` has what is wrong with the entries of some."""

    pages: tuple[Page, ...]
    told: Mapping[str, Told]
    bad: Mapping[str, str]


@dataclass(frozen=True)
class _Whole:
    """The last whole reading."""

    models: _Listed[ToldModel] = _Listed((), {}, {})
    versions: _Listed[ByNumber] = _Listed((), {}, {})

    @property
    def bad(self) -> Mapping[str, str]:
        """What is wrong with the entries of some models."""
        return {**self.models.bad, **self.versions.bad}

    def unread(self) -> _Whole:
        """The same, whose pages will be looked into again even where they do not change."""
        return _Whole(replace(self.models, pages=()), replace(self.versions, pages=()))


class Reading:
    """What is known. `seconds` is the longest that one reading may take."""

    def __init__(self, server: Server, names: Names, seconds: float) -> None:
        self._server = server
        self._names = names
        self._seconds = seconds
        self._facts = Facts()
        self._entries: dict[str, Entry] = {}
        self._gone: dict[str, float] = {}
        self._strange: tuple[RegistryProblem, ...] = ()
        self._view = RegistryView(server.registry, {})
        self._whole = _Whole()
        self._whole_asked = 0.0
        self._state = threading.Lock()
        self._reading = threading.Lock()
        self._asking = threading.Lock()
        self.read_at = 0.0
        """Monotonic seconds at which the last whole reading ended well."""
        self.failures = 0
        """Whole readings that failed since."""

    def whole(self) -> RegistryView:
        """Read everything: two calls where there are at most 1,000 models and 10,000 versions.

        The very same view where nothing changed. Raises RegistryUnavailable; what was known goes on.
        """
        with self._reading:
            try:
                view = self._whole_reading()
            except (Answered, Malformed) as problem:
                self.failures += 1
                raise self._unavailable(problem) from None
            except RegistryUnavailable:
                self.failures += 1
                raise
            self.failures = 0
            self.read_at = time.monotonic()
            return view

    def question(self, model: ModelName, alias: str | None) -> RegistryView:
        """Ask about one model, or only where one alias of it leads. Raises RegistryUnavailable."""
        name = self._names.registered(model)
        if not self._names.takes(name):
            return self._view
        with self._asking, self.session() as session:
            try:
                while True:
                    view = self._question(session, name, alias, time.monotonic())
                    if view is not None:
                        return view
            except (Answered, Malformed) as problem:
                raise self._unavailable(problem) from None

    def session(self) -> Session:
        """For a few questions, which take seconds together at the most."""
        return self._server.session(min(self._seconds, _QUESTION_SECONDS))

    def version(self, model: ModelName, version: str) -> Version | None:
        """Ask for one version. Raises RegistryUnavailable."""
        name = self._names.registered(model)
        if not self._names.takes(name):
            return None
        with self.session() as session:
            try:
                answer = session.get("model-versions/get", name=name, version=version)
                told = version_of(answer.get("model_version"))
                self._facts.learn(session, [told], time.monotonic())
            except Answered as refusal:
                if refusal.missing:
                    return None
                raise self._unavailable(refusal) from None
            except Malformed as problem:
                raise self._unavailable(problem) from None
        return version_made(self._server.registry, model, told, self._facts, [])

    def pointer(self, model: ModelName, kind: PointerKind, pointer: str) -> VersionId | None:
        """Ask where an alias or a stage leads. Raises RegistryUnavailable."""
        name = self._names.registered(model)
        if not self._names.takes(name):
            return None
        with self.session() as session:
            try:
                if kind is PointerKind.STAGE:
                    return stages_of(versions_of_model(session, name)).get(pointer.lower())
                return alias_of(session, name, pointer)
            except Answered as refusal:
                if refusal.missing:
                    return None
                raise self._unavailable(refusal) from None
            except Malformed as problem:
                raise self._unavailable(problem) from None

    def _question(self, session: Session, name: str, alias: str | None, asked: float) -> RegistryView | None:
        """None where a whole reading was begun and ended meanwhile, so that the answer may be older."""
        if alias is not None and name in self._entries:
            return self._alias_question(session, name, alias, asked)
        return self._model_question(session, name, asked)

    def _unavailable(self, problem: Exception) -> RegistryUnavailable:
        return RegistryUnavailable(f"registry {self._server.registry!r}: {problem}"[:500])

    def _whole_reading(self) -> RegistryView:
        before = self._whole
        asked = time.monotonic()
        with self._server.session(self._seconds) as session:
            # Versions come second: what an alias names is then there.
            model_pages, model_bodies = MODELS.fetch(session, before.models.pages)
            version_pages, version_bodies = VERSIONS.fetch(session, before.versions.pages)
            models, versions = before.models, before.versions
            if model_pages != models.pages:
                models = _models_told(session, model_pages, model_bodies)
            if version_pages != versions.pages:
                versions = _versions_told(session, version_pages, version_bodies)
            now = _Whole(models, versions)
            due = self._facts.due(asked)
            if now.models is before.models and now.versions is before.versions and not due:
                return self._view
            taken = {
                name: told
                for name, told in models.told.items()
                if not told.prompt and self._names.takes(name)
            }
            self._confirm(session, taken, now)
            changed: frozenset[str] = frozenset()
            if due or now.versions is not before.versions or len(taken) > len(self._entries):
                named = [version for name in taken for version in versions.told.get(name, {}).values()]
                changed = self._facts.learn(session, named, asked)
        with self._state:
            return self._apply(taken, now, changed, asked)

    def _confirm(self, session: Session, taken: Mapping[str, ToldModel], now: _Whole) -> None:
        """Ask about what is missing from the list, so that half a list deletes nothing."""
        bad = now.bad
        gone = [name for name in list(self._entries) if name not in now.models.told and name not in bad]
        for name in gone[:_MOST_CONFIRMED]:
            if _exists(session, "registered-models/get", name=name):
                raise Malformed(f"its list leaves out model {name[:80]!r}, which exists")
        left = _MOST_CONFIRMED
        for name in taken:
            if left > 0 and name not in bad:
                left -= self._confirm_versions(session, name, now.versions.told.get(name, {}), left)

    def _confirm_versions(
        self, session: Session, name: str, versions: ByNumber, most: int = _MOST_CONFIRMED
    ) -> int:
        """The same of one model's versions; how many were asked about."""
        entry = self._entries.get(name)
        if entry is None or entry.versions is versions:
            return 0
        lost = [number for number in entry.versions if number not in versions]
        for number in lost[:most]:
            if _exists(session, "model-versions/get", name=name, version=number):
                raise Malformed(f"its list leaves out version {number} of {name[:80]!r}, which exists")
        return len(lost[:most])

    def _apply(
        self,
        taken: Mapping[str, ToldModel],
        now: _Whole,
        changed: frozenset[str],
        asked: float,
    ) -> RegistryView:
        strange: list[RegistryProblem] = []
        entries: dict[str, Entry] = {}
        overtaken, bad = False, now.bad
        for name in {**taken, **{name: None for name in bad if self._names.takes(name)}}:
            last = self._entries.get(name)
            if (last is not None and last.asked > asked) or self._gone.get(name, 0.0) > asked:
                overtaken = True
            elif name in bad:
                strange.append(_bad(name, bad[name], last))
            else:
                try:
                    last = self._made(taken[name], now.versions.told.get(name, {}), changed, asked)
                except InvalidName as problem:
                    strange.append(RegistryProblem(name[:200], f"cannot be served: {problem}"))
                    continue
            if last is not None:
                entries[name] = last
        for name, entry in self._entries.items():
            if entry.asked > asked and name not in entries:
                entries[name], overtaken = entry, True
        if now.versions is not self._whole.versions or len(entries) != len(self._entries):
            self._facts.forget(version for entry in entries.values() for version in entry.versions.values())
        self._gone = {name: at for name, at in self._gone.items() if at > asked}
        self._entries, self._strange, self._whole_asked = entries, tuple(strange), asked
        # What a later question overtook must be looked into once more.
        self._whole = now.unread() if overtaken else now
        return self._shown()

    def _made(self, told: ToldModel, versions: ByNumber, changed: frozenset[str], asked: float) -> Entry:
        """The entry of a model: the one that is there where nothing changed. Raises InvalidName."""
        before = self._entries.get(told.name)
        same = before is not None and before.told == told
        same = same and before is not None and (before.versions is versions or before.versions == versions)
        if before is not None and same and not (changed and _touched(versions, self._facts, changed)):
            return before
        return entry_of(
            registry=self._server.registry,
            name=self._names.logical(told.name),
            told=told,
            versions=versions,
            facts=self._facts,
            asked=asked,
            before=before,
        )

    def _alias_question(self, session: Session, name: str, alias: str, asked: float) -> RegistryView | None:
        try:
            answer = session.get("registered-models/alias", name=name, alias=alias)
        except Answered as refusal:
            if refusal.missing:
                return self._model_question(session, name, asked)
            if not no_such_alias(refusal):
                raise
            found = None
        else:
            found = version_of(answer.get("model_version"))
            if found.model != name:
                raise Malformed(f"asked about {name[:80]!r} it told of {found.model[:80]!r}")
            self._facts.learn(session, [found], asked)
        with self._state:
            last = self._entries.get(name)
            if last is None or self._whole_asked > asked:
                return None
            aliases = {key: to for key, to in last.told.aliases.items() if key != alias}
            versions = dict(last.versions)
            if found is not None:
                aliases[alias] = found.version
                versions[found.version] = found
            return self._replace(name, replace(last.told, aliases=compact(aliases)), versions, asked)

    def _model_question(self, session: Session, name: str, asked: float) -> RegistryView | None:
        try:
            answer = session.get("registered-models/get", name=name)
        except Answered as refusal:
            if not refusal.missing:
                raise
            with self._state:
                if self._whole_asked > asked:
                    return None
                self._gone[name] = asked
                if self._entries.pop(name, None) is not None:
                    self._whole = self._whole.unread()
                return self._shown()
        told = model_of(answer.get("registered_model"))
        if told.name != name:
            raise Malformed(f"asked about {name[:80]!r} it told of {told.name[:80]!r}")
        if told.prompt:
            return self._view
        versions = {version.version: version for version in versions_of_model(session, name)}
        self._confirm_versions(session, name, versions)
        self._facts.learn(session, versions.values(), asked)
        with self._state:
            if self._whole_asked > asked:
                return None
            return self._replace(name, told, versions, asked)

    def _replace(self, name: str, told: ToldModel, versions: ByNumber, asked: float) -> RegistryView:
        try:
            logical = self._names.logical(name)
        except InvalidName:
            return self._view
        self._entries[name] = entry_of(
            registry=self._server.registry,
            name=logical,
            told=told,
            versions=versions,
            facts=self._facts,
            asked=asked,
            before=self._entries.get(name),
        )
        self._gone.pop(name, None)
        self._strange = tuple(one for one in self._strange if one.subject not in (name, logical))
        # The next whole reading must look into its pages, even if they are those of the last one.
        self._whole = self._whole.unread()
        return self._shown()

    def _shown(self) -> RegistryView:
        """The view of the entries; the same one where it is equal."""
        models = {entry.model.name: entry.model for entry in self._entries.values()}
        problems = [problem for entry in self._entries.values() for problem in entry.problems]
        problems += self._strange
        if self._facts.problem:
            problems.append(RegistryProblem(self._server.registry, self._facts.problem))
        view = RegistryView(self._server.registry, models, tuple(problems[:_MOST_PROBLEMS]))
        if view != self._view:
            self._view = view
        return self._view


def no_such_alias(refusal: Answered) -> bool:
    """Whether MLflow says that an alias is not there; it has no code of its own for that."""
    text = refusal.text.lower()
    return refusal.code == "INVALID_PARAMETER_VALUE" and "alias" in text and "not found" in text


def alias_of(session: Session, name: str, alias: str) -> VersionId | None:
    """Where an alias leads; None for nowhere. Raises Answered, Malformed, RegistryUnavailable."""
    try:
        answer = session.get("registered-models/alias", name=name, alias=alias)
    except Answered as refusal:
        if no_such_alias(refusal):
            return None
        raise
    return VersionId(version_of(answer.get("model_version")).version)


def versions_of_model(session: Session, name: str) -> list[ToldVersion]:
    """All versions of one model. Raises Answered, Malformed, RegistryUnavailable."""
    quote = '"' if "'" in name else "'"
    if quote in name or "\\" in name:
        raise Malformed(f"model name {name[:80]!r} cannot be searched for")
    found: list[ToldVersion] = []
    token = ""
    for _ in range(_MOST_PAGES):
        more = {"page_token": token} if token else {}
        filters = f"name={quote}{name}{quote}"
        body = session.get(VERSIONS.path, filter=filters, max_results=VERSIONS.size, **more)
        entries, token = page_of(body, VERSIONS.key)
        found += [version for version in map(version_of, entries) if version.model == name]
        if not token:
            return found
    raise Malformed(f"the list of versions of {name[:80]!r} does not end")


def _models_told(session: Session, pages: tuple[Page, ...], bodies: list[bytes]) -> _Listed[ToldModel]:
    bad: dict[str, str] = {}
    told: dict[str, ToldModel] = {}
    for entry in MODELS.entries(session, bodies):
        try:
            model = model_of(entry)
        except Malformed as problem:
            _note(bad, problem)
        else:
            told[model.name] = model
    return _Listed(pages, told, bad)


def _versions_told(session: Session, pages: tuple[Page, ...], bodies: list[bytes]) -> _Listed[ByNumber]:
    bad: dict[str, str] = {}
    told: dict[str, dict[str, ToldVersion]] = {}
    for entry in VERSIONS.entries(session, bodies):
        try:
            version = version_of(entry)
        except Malformed as problem:
            _note(bad, problem)
        else:
            told.setdefault(version.model, {})[version.version] = version
    return _Listed(pages, told, bad)


def _note(bad: dict[str, str], problem: Malformed) -> None:
    """One model's entry that is wrong leaves the others alone; one without a name concerns all."""
    if not problem.model:
        raise problem
    bad[problem.model] = str(problem)


def _bad(name: str, text: str, last: Entry | None) -> RegistryProblem:
    outcome = "the model is left out" if last is None else "its last good reading goes on"
    return RegistryProblem(name[:200] if last is None else last.model.name, f"{text[:300]}; {outcome}")


def _touched(versions: ByNumber, facts: Facts, changed: frozenset[str]) -> bool:
    return any(
        not changed.isdisjoint((one.run, one.source, logged_model(origin), run_of(origin)))
        for one in versions.values()
        for origin in (facts.origin_of(one.source),)
    )


def _exists(session: Session, path: str, **query: str) -> bool:
    try:
        session.get(path, **query)
    except Answered as refusal:
        if refusal.missing:
            return False
        raise
    return True
