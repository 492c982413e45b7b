"""The Hub registry: repositories that the operator lists, their branches and tags, their commits.

A poll asks each repository for its branches and tags, one call each, with the mark of the last answer so
that the Hub may say "the same". What a commit holds never changes, so it is asked for once.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.alias import in_order, parse_reference
from router.errors import (
    Conflict,
    InvalidName,
    InvalidReference,
    ModelNotFound,
    NotSupported,
    RegistryRefused,
    RegistryUnavailable,
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
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    RegistryChange,
    Source,
    TagChange,
    Unknown,
)
from router.registries import asking
from router.registries.compact import compact
from router.registries.formats import format_of
from router.registries.hub.api import Away, Denied, File, HubApi, Missing, Odd, Refs, is_commit
from router.registries.hub.source import SCHEME, HubSource, digest_of, taken, uri_of
from router.registries.pointer_names import git_problem, one_of_problem
from router.registries.polling import pause

MOST_COMMITS = 200
"""Commits of one repository that are served; branches and tags beyond that are a problem."""

_MOST_PINNED = 32
_NONE = Refs({}, {})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says of a Hub.

    Attributes:
        names: logical names to repositories.
        repos: repositories whose logical name is the part after their `/`.
        stages: names of stages to the branches or tags that are them.
        files: globs of the files that make an artifact.
        format: of all models; "" to go by the files.
        keep: commits that nothing names any more and that are served all the same, for each repository.
        push: whether aliases and stages are written back as tags.
        poll: seconds between questions.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    repos: Sequence[str] = ()
    stages: Mapping[str, str] = field(default_factory=lambda: {"production": "main"})
    files: Sequence[str] = ("*",)
    format: str = ""
    keep: int = 5
    push: bool = False
    poll: float = 5.0


@dataclass(slots=True)
class _Repo:
    """One repository and what is known of it; `named` has commits in the order in which they were named."""

    repo: str
    refs: Refs = _NONE
    mark: str = ""
    model: RegisteredModel | None = None
    named: dict[str, None] = field(default_factory=dict)
    pinned: dict[str, None] = field(default_factory=dict)
    trouble: str = ""


class HubRegistry:
    """`ports.Registry` over a Hugging Face Hub. Calls run in threads.

    Args:
        name: its key in the configuration.
        api: for questions.
        content: makes one for files, whose calls may be redirected to the Hub's stores.
        settings: what the operator says.
    """

    def __init__(self, name: str, api: HubApi, content: Callable[[], HubApi], settings: Settings) -> None:
        self._name = name
        self._api = api
        self._settings = settings
        self._lock = threading.Lock()
        self._clashes: tuple[RegistryProblem, ...] = ()
        self._repos = self._listed()
        self._first = 0
        self._listings: dict[tuple[str, str], tuple[File, ...]] = {}
        self._versions: dict[tuple[str, str], Version] = {}
        self._content = content

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Aliases and stages, where `push` allows it: they are tags."""
        return frozenset({Capability.ALIASES, Capability.STAGES} if self._settings.push else ())

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """Ask each repository for its branches and tags, or only that of the hint.

        Raises:
            RegistryUnavailable: none of them could be asked.
        """
        return await asyncio.to_thread(self._read, hint)

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version: any commit of the repository, by its full id."""
        return await asyncio.to_thread(self._get, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What a branch, tag or stage names now."""
        return await asking.resolve(self, model, kind, name)

    async def changes(self) -> AsyncIterator[Hint]:
        """Yield the models whose branches or tags moved, and once where the Hub goes away or comes back."""
        seen = {model: known.refs for model, known in self._repos.items()}
        failing: frozenset[str] = frozenset()
        failures = 0
        while True:
            await asyncio.sleep(pause(self._settings.poll, failures, random.random()))  # noqa: S311 - no secret
            now, failed, away = await asyncio.to_thread(self._look)
            failures = failures + 1 if away else 0
            if failed != failing:
                failing = failed
                yield ANYTHING
            moved = [model for model, refs in now.items() if refs != seen[model]]
            seen.update(now)
            for model in moved:
                yield Hint(model)

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What cannot be a tag of the Hub, or is no stage of this configuration."""
        if kind is PointerKind.ALIAS:
            return git_problem(name)
        known = [stage.lower() for stage in self._settings.stages]
        hint = "`stages` in its section says which tag is which stage"
        return one_of_problem(f"registry {self._name!r}", name, known, hint)

    async def write(self, change: RegistryChange) -> None:
        """Let a tag name another commit. Raises as the port says.

        The Hub cannot move a tag: it is removed and made anew. Nobody here reads in between, and doing it
        again mends what was left half done.
        """
        if isinstance(change, TagChange):
            raise NotSupported(f"registry {self._name!r}: commits of the Hub have no tags of that kind")
        if not self._settings.push:
            raise NotSupported(
                f"registry {self._name!r} is only read",
                hint="`push: true` in its section lets aliases and stages be written as tags",
            )
        await asyncio.to_thread(self._write, change)

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Raises NotSupported: commits are made by the Hub's own tools."""
        raise NotSupported(
            f"registry {self._name!r}: versions are commits, made by the Hub's own tools",
            hint="hf upload ORG/MODEL FOLDER",
        )

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Raises NotSupported: the Hub is polled."""
        raise NotSupported(f"registry {self._name!r}: notices of the Hub are not taken; it is polled")

    def source(self, uri: str) -> Source | None:
        """Access to the files of a commit; None for what is not of this registry."""
        return HubSource(self._content(), self._files) if uri.startswith(f"{SCHEME}://") else None

    async def close(self) -> None:
        """Give back connections."""
        await asyncio.to_thread(self._api.close)

    def _listed(self) -> dict[ModelName, _Repo]:
        """The repositories by logical name; `names` wins, and of two with one name neither is served."""
        found: dict[ModelName, _Repo] = {}
        problems: list[RegistryProblem] = []
        named = set(self._settings.names.values())
        wanted = [(name, repo) for name, repo in self._settings.names.items()]
        wanted += [(repo.rpartition("/")[2], repo) for repo in self._settings.repos if repo not in named]
        for logical, repo in wanted:
            same = sorted({other for name, other in wanted if name == logical} - {repo})
            if same and logical not in self._settings.names:
                text = f"cannot be served: {', '.join(same)} would be {logical!r} too; use `names`"
                problems.append(RegistryProblem(repo, text))
                continue
            if logical in self._settings.names and self._settings.names[logical] != repo:
                text = f"cannot be served: `names` gives {logical!r} to {self._settings.names[logical]}"
                problems.append(RegistryProblem(repo, text))
                continue
            try:
                found[parse_model_name(logical)] = _Repo(repo)
            except InvalidName as error:
                problems.append(RegistryProblem(repo, f"cannot be served: {error}"))
        self._clashes = tuple(problems)
        return found

    def _read(self, hint: Hint) -> RegistryView:
        with self._lock:
            if hint.model is not None:
                if hint.model in self._repos:
                    self._refresh({hint.model: self._repos[hint.model]})
            else:
                self._refresh(self._repos)
            return self._view()

    def _view(self) -> RegistryView:
        problems = list(self._clashes)
        models = {}
        for model, known in sorted(self._repos.items()):
            if known.model is not None:
                models[model] = known.model
            if known.trouble:
                # A model that is not there is no trouble of a model.
                subject = model if known.model is not None else known.repo
                problems.append(RegistryProblem(subject, known.trouble))
        return RegistryView(self._name, models, tuple(problems))

    def _look(self) -> tuple[dict[ModelName, Refs], frozenset[str], bool]:
        """Branches and tags of the repositories, which could not be asked, and whether the Hub is away."""
        found: dict[ModelName, Refs] = {}
        failed: set[str] = set()
        for model, known in self._in_turn(self._repos):
            try:
                with self._lock:
                    self._ask(known)
                found[model] = known.refs
            except Away:
                return found, frozenset({"the Hub"}), True
            except (Denied, Odd):
                failed.add(model)
            except Missing:
                found[model] = _NONE
        return found, frozenset(failed), False

    def _refresh(self, wanted: Mapping[ModelName, _Repo]) -> None:
        """Read repositories; where the Hub is away for one, the others are left for the next time."""
        asked = 0
        away = ""
        for model, known in self._in_turn(wanted):
            if away:
                known.trouble = f"{known.repo} was not asked: {away}"
                continue
            try:
                self._read_repo(model, known)
            except Away as error:
                known.trouble = f"{known.repo}: {error}"
                away = str(error)
                continue
            except Missing as error:
                known.model, known.refs, known.mark = None, _NONE, ""
                known.trouble = f"{known.repo} is not there: {error}"
            except (Denied, Odd) as error:
                known.trouble = f"{known.repo}: {error}"
            asked += 1
        if away and not asked:
            raise RegistryUnavailable(f"registry {self._name!r}: {away}")

    def _in_turn(self, wanted: Mapping[ModelName, _Repo]) -> list[tuple[ModelName, _Repo]]:
        """Each time another one is the first, so that no one is always behind one that is slow."""
        listed = list(wanted.items())
        if not listed:
            return []
        self._first = (self._first + 1) % len(listed)
        return listed[self._first :] + listed[: self._first]

    def _ask(self, known: _Repo) -> None:
        refs, mark = self._api.refs(known.repo, known.mark)
        known.mark = mark
        if refs is not None:
            known.refs = refs

    def _read_repo(self, model: ModelName, known: _Repo) -> None:
        self._ask(known)
        complaints: list[str] = []
        pointers = _pointers(known.refs, complaints)
        before = known.model
        versions: dict[str, Version] = {}
        aliases: dict[str, VersionId] = {}
        broken: dict[str, str] = {}
        for alias, commit in pointers.items():
            if commit not in versions and commit not in broken:
                try:
                    versions[commit] = self._version(model, known.repo, commit)
                except (Denied, Missing, Odd) as error:
                    broken[commit] = str(error)
            if commit in versions:
                aliases[alias] = VersionId(commit)
                continue
            complaints.append(f"{alias} is at {commit}, which cannot be read: {broken[commit]}")
            if before is not None and alias in before.aliases:
                aliases[alias] = before.aliases[alias]
        self._keep(known, versions, aliases)
        self._complete(model, known, versions)
        stages = {
            stage.lower(): aliases[ref] for stage, ref in self._settings.stages.items() if ref in aliases
        }
        now = RegisteredModel(
            registry=self._name,
            name=model,
            versions=in_order(versions.values()),
            stages=compact(dict(sorted(stages.items()))),
            aliases=compact(dict(sorted(aliases.items()))),
        )
        known.model = before if before == now else now
        known.trouble = "; ".join(complaints)

    def _keep(self, known: _Repo, versions: Mapping[str, Version], aliases: Mapping[str, VersionId]) -> None:
        """Note which commits are named now, and forget those that were longest ago."""
        for commit in [*versions, *aliases.values()]:
            known.named.pop(commit, None)
            known.named[commit] = None
        now = {*versions, *aliases.values()}
        for commit in [commit for commit in known.named if commit not in now][: -self._settings.keep or None]:
            del known.named[commit]
        for key in [key for key in self._versions if key[0] == known.repo]:
            if key[1] not in known.named and key[1] not in known.pinned:
                del self._versions[key]
                self._listings.pop(key, None)

    def _complete(self, model: ModelName, known: _Repo, versions: dict[str, Version]) -> None:
        """Add what was named a while ago, or asked for, and can still be read."""
        for commit in [*known.named, *known.pinned]:
            if commit not in versions:
                try:
                    versions[commit] = self._version(model, known.repo, commit)
                except (Denied, Missing, Odd):
                    known.named.pop(commit, None)
                    known.pinned.pop(commit, None)

    def _version(self, model: ModelName, repo: str, commit: str) -> Version:
        """What a commit holds, asked once. Raises Away, Denied, Missing, Odd."""
        key = (repo, commit)
        if key not in self._versions:
            files = taken(self._listing(repo, commit), self._settings.files)
            form, unusable = self._settings.format, ""
            if not form:
                form, unusable = format_of([file.path for file in files])
            if not files:
                unusable = "it has no files that are taken; look at `files`"
            self._versions[key] = Version(
                registry=self._name,
                model=model,
                version=VersionId(commit),
                format=form,
                artifact=uri_of(repo, commit),
                digest=digest_of(files),
                lineage=compact({"commit": commit, "repository": repo}),
                created=self._api.made(repo, commit),
                unusable=unusable,
            )
        return self._versions[key]

    def _listing(self, repo: str, commit: str) -> tuple[File, ...]:
        key = (repo, commit)
        if key not in self._listings:
            self._listings[key] = self._api.files(repo, commit)
        return self._listings[key]

    def _files(self, repo: str, commit: str) -> tuple[File, ...]:
        """For the source: the files of a commit that are taken. Raises as `_version`."""
        if repo not in {known.repo for known in self._repos.values()}:
            raise Denied(f"{repo[:200]} is not a repository of registry {self._name!r}")
        listing = self._listings.get((repo, commit))
        if listing is None:
            listing = self._api.files(repo, commit)
        return taken(listing, self._settings.files)

    def _get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        known = self._repos.get(model)
        if known is None or not is_commit(version):
            return None
        with self._lock:
            try:
                if self._api.commit(known.repo, version) != version:
                    return None
                found = self._version(model, known.repo, version)
            except Missing:
                return None
            except (Away, Denied, Odd) as error:
                return Unknown(str(error))
            known.pinned[version] = None
            while len(known.pinned) > _MOST_PINNED:
                del known.pinned[next(iter(known.pinned))]
            return found

    def _write(self, change: RegistryChange) -> None:
        known = self._repos.get(change.model)
        if known is None:
            raise ModelNotFound(f"registry {self._name!r} has no model {change.model!r}")
        with self._lock:
            try:
                known.mark = ""
                self._ask(known)
                for tag in self._tags_to_write(change, known):
                    self._move(change, known, tag)
            except Away as error:
                raise RegistryUnavailable(f"registry {self._name!r}: {known.repo}: {error}") from error
            except (Denied, Missing, Odd) as error:
                raise RegistryRefused(f"registry {self._name!r}: {known.repo}: {error}") from error
            finally:
                known.mark = ""

    def _tags_to_write(self, change: RegistryChange, known: _Repo) -> list[str]:
        """The names of the tags that a change is about."""
        if isinstance(change, AliasChange):
            problem = self.pointer_problem(PointerKind.ALIAS, change.alias)
            if problem:
                raise InvalidReference(f"registry {self._name!r}: {problem}")
            return [change.alias]
        if isinstance(change, TagChange):
            return []
        stages = {stage.lower(): ref for stage, ref in self._settings.stages.items()}
        stage = change.stage.lower()
        if not stage:
            return [ref for ref in stages.values() if _at(known.refs, ref) == change.version]
        if stage not in stages:
            raise NotSupported(self.pointer_problem(PointerKind.STAGE, stage))
        return [stages[stage]]

    def _move(self, change: RegistryChange, known: _Repo, tag: str) -> None:
        to = change.version
        if not isinstance(change, (AliasChange, TagChange)) and not change.stage:
            to = None
        now = _at(known.refs, tag)
        if tag in known.refs.branches:
            if now == to:
                return
            raise NotSupported(
                f"registry {self._name!r}: {tag!r} of {known.repo} is a branch, which only a commit moves",
                hint="use a tag",
            )
        expected = None if isinstance(change, TagChange) else change.expected
        if expected is not None and now not in (expected, to or ""):
            raise Conflict(
                f"tag {tag!r} of {known.repo} names {now or 'nothing'}, not {expected or 'nothing'}; "
                "it was left as it is",
                current_revision=0,
            )
        if now == (to or ""):
            return
        if to is not None and not self._has(known.repo, to):
            raise VersionNotFound(f"model {change.model!r} has no version {to!r}")
        if now:
            self._api.remove_tag(known.repo, tag)
        if to is not None:
            self._api.make_tag(known.repo, tag, to)

    def _has(self, repo: str, commit: str) -> bool:
        try:
            return is_commit(commit) and self._api.commit(repo, commit) == commit
        except Missing:
            return False


def _at(refs: Refs, name: str) -> str:
    return refs.tags.get(name) or refs.branches.get(name) or ""


def _pointers(refs: Refs, complaints: list[str]) -> dict[str, str]:
    """Branches and tags as aliases; a tag wins over a branch of its name, as it does in git."""
    found: dict[str, str] = {}
    commits: set[str] = set()
    # The branch that everybody means comes first, so that a limit never hits it.
    branches = sorted(refs.branches.items(), key=lambda item: item[0] != "main")
    for name, commit in [*branches, *refs.tags.items()]:
        try:
            parse_reference(name)
            if name.startswith("@"):
                raise InvalidReference("an alias cannot begin with '@'")
        except InvalidReference as error:
            complaints.append(f"{name[:80]!r} cannot be an alias: {error.message}")
            continue
        if len(commits | {commit}) > MOST_COMMITS:
            complaints.append(f"it has more than {MOST_COMMITS} commits that branches and tags name")
            break
        commits.add(commit)
        found[name] = commit
    return found
