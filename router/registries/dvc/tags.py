"""What the tags of a git repository say of its models. Pure.

The form is GTO's, which DVC reads too; NAME is `name` or `folder=name`, N a counter that may be left out:

    NAME@v1.2.3[#N]    this commit is that version        NAME@v1.2.3![#N]   it no longer is
    NAME#stage[#N]     this commit is in that stage       NAME#stage![#N]    it no longer is
    NAME@deprecated    the model is given up, with all its versions and stages

Tags are taken in the order of their dates, so the newest assignment of a stage wins. Tags without a date
(lightweight ones) count for nobody who reads this form, and are complained of.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.alias import highest, in_order
from router.model import ModelName, Version, VersionId
from router.registries.pointer_names import git_problem

_MOST = 512
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9/_-]*[A-Za-z0-9])?"
_SEMVER = r"v[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
_FORM = re.compile(
    rf"(?:(?P<folder>[A-Za-z0-9_./-]+)=)?(?P<name>{_WORD})"
    rf"(?:@(?P<version>{_SEMVER})(?P<gone>!?)|\#(?P<stage>{_WORD})(?P<left>!?)|@(?P<word>deprecated|created))"
    r"(?:\#(?P<counter>[0-9]{1,9}))?",
    re.ASCII,
)


class Act(enum.Enum):
    """What a tag does."""

    REGISTER = "register"
    DEREGISTER = "deregister"
    ASSIGN = "assign"
    UNASSIGN = "unassign"
    DEPRECATE = "deprecate"
    CREATE = "create"


@dataclass(frozen=True, slots=True)
class GitTag:
    """A tag of a repository.

    Attributes:
        commit: the full id of the commit that it names in the end.
        created: unix seconds, or None for a lightweight tag, which has no date.
    """

    name: str
    commit: str
    created: float | None


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one tag says; `artifact` is `name` or `folder:name`, `subject` a version or a stage or ""."""

    artifact: str
    act: Act
    subject: str = ""
    counter: int = 0


@dataclass(frozen=True, slots=True)
class Named:
    """A version that a tag names; `tag` is "" for a commit that only a stage names."""

    commit: str
    tag: str
    created: float | None


@dataclass(frozen=True, slots=True)
class Tagged:
    """All that the tags say of one model.

    Attributes:
        versions: by id: what the tag says (`v1.2.3`), or the full commit id where only a stage names it.
        stages: in lower case, to version ids.
        assigned: the commits that are in a stage now, oldest assignment first; the last one counts.
        last: the date of the newest tag of the model.
        counter: the highest counter in use.
    """

    versions: Mapping[str, Named]
    stages: Mapping[str, str]
    assigned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    last: float = 0.0
    counter: int = 0


def meaning(tag: str) -> Meaning | None:
    """What a tag's name says; None where it is not of this form."""
    found = _FORM.fullmatch(tag) if len(tag) <= _MOST else None
    if found is None:
        return None
    artifact = f"{found['folder']}:{found['name']}" if found["folder"] else found["name"]
    counter = int(found["counter"] or 0)
    if found["version"]:
        act = Act.DEREGISTER if found["gone"] else Act.REGISTER
        return Meaning(artifact, act, found["version"], counter)
    if found["stage"]:
        act = Act.UNASSIGN if found["left"] else Act.ASSIGN
        return Meaning(artifact, act, found["stage"].lower(), counter)
    act = Act.DEPRECATE if found["word"] == "deprecated" else Act.CREATE
    return Meaning(artifact, act, "", counter)


def read_tags(tags: Iterable[GitTag]) -> tuple[dict[str, Tagged], dict[str, str]]:
    """Models by the names that the tags give them, and complaints by tag."""
    complaints: dict[str, str] = {}
    events: dict[str, list[tuple[float, int, GitTag, Meaning]]] = {}
    for tag in tags:
        said = meaning(tag.name)
        if said is None:
            continue
        if tag.created is None:
            complaints[tag.name] = "is a lightweight tag, which has no date; make it with `git tag -a`"
            continue
        events.setdefault(said.artifact, []).append((tag.created, said.counter, tag, said))
    models = {}
    for artifact, found in events.items():
        found.sort(key=lambda event: (event[0], event[1], event[2].name))
        models[artifact] = _tagged(found)
    return models, complaints


def tag_of_stage(artifact: str, stage: str, counter: int, *, leaves: bool = False) -> str:
    """The tag that puts a commit into a stage, or takes it out."""
    return f"{artifact.replace(':', '=')}#{stage}{'!' if leaves else ''}#{counter}"


def stage_problem(stage: str) -> str:
    """Why no tag of this form could be about a stage (in lower case); "" where one could."""
    said = meaning(tag_of_stage("m", stage, 1))
    if said != Meaning("m", Act.ASSIGN, stage, 1):
        return (
            f"a tag of a model in git cannot name stage {stage[:80]!r}: it may have letters, digits, '_', "
            "'-' and '/', and begins and ends with a letter or digit"
        )
    return git_problem(stage)


def _tagged(events: list[tuple[float, int, GitTag, Meaning]]) -> Tagged:
    versions: dict[str, Named] = {}
    staged: dict[str, dict[str, Named]] = {}
    for created, _, tag, said in events:
        if said.act is Act.REGISTER:
            versions[said.subject] = Named(tag.commit, tag.name, created)
        elif said.act is Act.DEREGISTER:
            versions.pop(said.subject, None)
        elif said.act is Act.ASSIGN:
            commits = staged.setdefault(said.subject, {})
            commits.pop(tag.commit, None)  # an assignment made anew is the newest
            commits[tag.commit] = Named(tag.commit, "", created)
        elif said.act is Act.UNASSIGN:
            staged.get(said.subject, {}).pop(tag.commit, None)
        elif said.act is Act.DEPRECATE:
            versions.clear()
            staged.clear()
    stages = {}
    for stage, commits in staged.items():
        if commits:
            named = list(commits.values())[-1]
            stages[stage] = _version_at(versions, named)
    return Tagged(
        versions,
        stages,
        {stage: tuple(commits) for stage, commits in staged.items() if commits},
        max(event[0] for event in events),
        max(event[1] for event in events),
    )


def _version_at(versions: dict[str, Named], named: Named) -> str:
    """The highest version at a commit; a commit without one becomes a version under its own id."""
    here = [version for version, known in versions.items() if known.commit == named.commit]
    if not here:
        versions[named.commit] = named
        return named.commit
    found = highest(in_order(Version("", ModelName("m"), VersionId(version)) for version in here))
    return str(found)
