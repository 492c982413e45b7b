"""What a version's entry only points at: its run (metrics, lineage) and where its files lie.

Both are asked for in batches, once for each run and logged model, and again while a run is not finished:
people log metrics after they registered. Where they cannot be asked, versions go on without.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from router.errors import RegistryUnavailable
from router.registries.compact import compact
from router.registries.mlflow.rest import Answered, Session
from router.registries.mlflow.told import Malformed, ToldVersion, page_of, pairs

_BATCH = 400
_ONE_BY_ONE = 2
_MOST_COPIES = 100
_MOST_EXPERIMENTS = 50_000
_EXPERIMENTS_PAGE = 5_000
_MOST_METRICS = 200
_LONGEST = 500
"""Characters of a metric's name, and of a run's id."""
_AGAIN = 30.0
_SOON = 5.0
_ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})
_LINEAGE = {
    "mlflow.source.git.commit": "commit",
    "mlflow.source.git.branch": "branch",
    "mlflow.source.git.repoURL": "repository",
    "mlflow.source.name": "source",
    "mlflow.user": "user",
    "mlflow.parentRunId": "parent",
}
_OURS = "stagegate.lineage."
_COPY = re.compile(r"models:/[^/]+/[0-9]+")


@dataclass(frozen=True, slots=True)
class Run:
    """A run: where its artifacts lie, and what it says of what came of it."""

    artifacts: str
    metrics: Mapping[str, float]
    lineage: Mapping[str, str]
    ended: bool


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model of MLflow 3, from which versions are made; its own metrics beat its run's."""

    artifacts: str
    metrics: Mapping[str, float]


@dataclass
class Facts:
    """All that was learned. Not safe in several threads: its owner asks under a lock of its own.

    Attributes:
        runs, models: by id; None for what MLflow does not have.
        copies: sources such as `models:/name/3`, to the source of that version.
        problem: why the last question was not answered, or "".
    """

    runs: dict[str, Run | None] = field(default_factory=dict)
    models: dict[str, LoggedModel | None] = field(default_factory=dict)
    copies: dict[str, str | None] = field(default_factory=dict)
    problem: str = ""
    _again: dict[str, float] = field(default_factory=dict)
    _waits: dict[str, float] = field(default_factory=dict)

    def learn(self, session: Session, versions: Iterable[ToldVersion], now: float) -> frozenset[str]:
        """Ask for what these versions point at and is not known, or is due to be asked again.

        Returns the ids and sources of which something else is known now.
        """
        versions = tuple(versions)
        self.problem = ""
        asked: list[str] = []
        try:
            changed = self._ask_copies(session, self._wanted(self.copies, asked, _copies(versions), now), now)
            sources = [self.origin_of(version.source) for version in versions]
            runs = {*(version.run for version in versions), *map(run_of, sources)} - {""}
            changed |= self._ask_runs(session, self._wanted(self.runs, asked, runs, now), now)
            models = set(map(logged_model, sources)) - {""}
            return changed | self._ask_models(session, self._wanted(self.models, asked, models, now), now)
        except (Answered, Malformed, RegistryUnavailable) as problem:
            self.problem = f"runs and places of files cannot be asked about: {problem}"[:500]
            self._again |= dict.fromkeys(asked, now + _SOON)
            return frozenset()

    def origin_of(self, source: str) -> str:
        """The source that the version has which a source names as `models:/name/3`; any other as it is."""
        return self.copies.get(source) or "" if _COPY.fullmatch(source) else source

    def due(self, now: float) -> bool:
        """Whether something is to be asked again, though no version changed."""
        return any(at <= now for at in list(self._again.values()))

    def forget(self, versions: Iterable[ToldVersion]) -> None:
        """Keep only what these versions point at."""
        named: set[str] = set()
        for one in versions:
            source = self.origin_of(one.source)
            named.update((one.run, one.source, logged_model(source), run_of(source)))
        for known in (self.runs, self.models, self.copies, self._again, self._waits):
            for each in [each for each in list(known) if each not in named]:
                known.pop(each, None)  # a question about one version, in another thread, may have taken it

    def _wanted(
        self, known: Mapping[str, object], asked: list[str], named: Iterable[str], now: float
    ) -> list[str]:
        """Those of `named` that are to be asked about now; they are noted in `asked` too."""
        wanted = [
            each for each in named if (self._again[each] <= now if each in self._again else each not in known)
        ]
        asked += wanted
        return wanted

    def _later(self, each: str, now: float) -> None:
        wait = self._waits[each] = min(2 * self._waits.get(each, _AGAIN / 2), 40 * _AGAIN)
        self._again[each] = now + wait

    def _settle(self, each: str, now: float, *, final: bool) -> None:
        if final:
            self._again.pop(each, None)
            self._waits.pop(each, None)
        else:
            self._later(each, now)

    def _ask_copies(self, session: Session, sources: Sequence[str], now: float) -> frozenset[str]:
        changed = set()
        self._again |= dict.fromkeys(sources[_MOST_COPIES:], now)
        for source in sources[:_MOST_COPIES]:
            name, _, version = source.removeprefix("models:/").partition("/")
            path = "model-versions/get-download-uri"
            found = _one(session, path, "artifact_uri", name=name, version=version)
            place = found if isinstance(found, str) else None
            if self.copies.get(source) != place:
                changed.add(source)
            self.copies[source] = place
            self._settle(source, now, final=place is not None)
        return frozenset(changed)

    def _ask_runs(self, session: Session, ids: Sequence[str], now: float) -> frozenset[str]:
        changed = set()
        found = {}
        if 0 < len(ids) <= _ONE_BY_ONE:
            found = {
                each: _run(entry) for each in ids if (entry := _one(session, "runs/get", "run", run_id=each))
            }
        elif ids:
            for entry in _in_batches(
                *(session, "runs/search", "runs"),
                attribute="attributes.run_id",
                ids=ids,
                experiment_ids=_experiments(session),
                run_view_type="ALL",
            ):
                found[_id(entry, "run_id")] = _run(entry)
        for each in ids:
            run = found.get(each)
            if each not in self.runs or self.runs[each] != run:
                changed.add(each)
            self.runs[each] = run
            self._settle(each, now, final=run is not None and run.ended)
        return frozenset(changed)

    def _ask_models(self, session: Session, ids: Sequence[str], now: float) -> frozenset[str]:
        changed = set()
        found = {}
        if 0 < len(ids) <= _ONE_BY_ONE:
            asked = {each: _one(session, f"logged-models/{each}", "model") for each in ids}
            found = {each: _logged(entry) for each, entry in asked.items() if entry}
        elif ids:
            for entry in _in_batches(
                *(session, "logged-models/search", "models"),
                attribute="model_id",
                ids=ids,
                experiment_ids=_experiments(session),
            ):
                found[_id(entry, "model_id")] = _logged(entry)
        for each in ids:
            model = found.get(each)
            if each not in self.models or self.models[each] != model:
                changed.add(each)
            self.models[each] = model
            self._settle(each, now, final=model is not None)
        return frozenset(changed)


def logged_model(source: str) -> str:
    """The id of the logged model that a source names, as `models:/m-...`; "" for another source."""
    rest = source.removeprefix("models:/")
    fits = rest != source and rest.startswith("m-") and "/" not in rest and rest.isascii()
    return rest if fits and rest.replace("-", "").isalnum() else ""


def run_of(source: str) -> str:
    """The id of the run that a source names, as `runs:/<id>/path`; "" for another source."""
    rest = source.removeprefix("runs:/")
    return rest.partition("/")[0] if rest != source else ""


def _copies(versions: Iterable[ToldVersion]) -> list[str]:
    return list(dict.fromkeys(one.source for one in versions if _COPY.fullmatch(one.source)))


def _one(session: Session, path: str, key: str, **query: str) -> object:
    """One entry, or None where there is no such thing."""
    try:
        return session.get(path, **query).get(key)
    except Answered as answer:
        if answer.missing:
            return None
        raise


def _experiments(session: Session) -> list[str]:
    """Ids of all experiments: a search of runs must name them."""
    found: list[str] = []
    token = ""
    while len(found) < _MOST_EXPERIMENTS:
        more = {"page_token": token} if token else {}
        answer = session.send(
            "POST", "experiments/search", max_results=_EXPERIMENTS_PAGE, view_type="ALL", **more
        )
        entries, token = page_of(answer, "experiments")
        found += [str(entry.get("experiment_id", "")) for entry in entries if isinstance(entry, dict)]
        if not token:
            break
    return found


def _in_batches(
    session: Session, path: str, key: str, *, attribute: str, ids: Sequence[str], **where: object
) -> Iterable[object]:
    for start in range(0, len(ids), _BATCH):
        asked = [each for each in ids[start : start + _BATCH] if "'" not in each and "\\" not in each]
        listed = ",".join(f"'{each}'" for each in asked)
        answer = session.send("POST", path, filter=f"{attribute} IN ({listed})", max_results=_BATCH, **where)
        entries, _ = page_of(answer, key)
        yield from entries


def _id(entry: object, key: str) -> str:
    info = entry.get("info") if isinstance(entry, dict) else None
    found = info.get(key) if isinstance(info, dict) else None
    if not isinstance(found, str):
        raise Malformed(f"{key} is missing")
    return found


def _run(entry: object) -> Run:
    info, data = _parts(entry)
    tags = pairs(_entries(data, "tags"), "a tag")
    lineage = {short: tags[tag] for tag, short in _LINEAGE.items() if tags.get(tag)}
    lineage |= {key.removeprefix(_OURS): value for key, value in tags.items() if key.startswith(_OURS)}
    lineage |= _datasets(entry)
    lineage["run"] = str(info.get("run_id", ""))[:_LONGEST]
    return Run(
        artifacts=str(info.get("artifact_uri", "")),
        metrics=_metrics(data),
        lineage=compact(lineage),
        ended=str(info.get("status", "")) in _ENDED,
    )


def _logged(entry: object) -> LoggedModel:
    info, data = _parts(entry)
    return LoggedModel(str(info.get("artifact_uri", "")), _metrics(data))


def _parts(entry: object) -> tuple[Mapping[str, object], Mapping[str, object]]:
    info = entry.get("info") if isinstance(entry, dict) else None
    data = entry.get("data", {}) if isinstance(entry, dict) else None
    if not isinstance(info, dict) or not isinstance(data, dict):
        raise Malformed("a run has no info or data")
    return info, data


def _entries(found: Mapping[str, object], key: str) -> list[object]:
    value = found.get(key, [])
    if not isinstance(value, list):
        raise Malformed(f"{key} is no list")
    return value


def _metrics(data: Mapping[str, object]) -> Mapping[str, float]:
    """The last value of each metric that is a finite number."""
    found: dict[str, float] = {}
    for entry in _entries(data, "metrics")[:_MOST_METRICS]:
        key = entry.get("key") if isinstance(entry, dict) else None
        value = entry.get("value") if isinstance(entry, dict) else None
        if isinstance(key, str) and len(key) <= _LONGEST and isinstance(value, (int, float)):
            with contextlib.suppress(OverflowError):  # a whole number that is beyond any float
                found[key] = float(value)
    return compact({key: value for key, value in found.items() if math.isfinite(value)})


def _datasets(entry: object) -> dict[str, str]:
    """`dataset` as `name@digest`, several with commas."""
    inputs = entry.get("inputs") if isinstance(entry, dict) else None
    named = []
    for one in _entries(inputs, "dataset_inputs") if isinstance(inputs, dict) else []:
        dataset = one.get("dataset") if isinstance(one, dict) else None
        if isinstance(dataset, dict):
            name, digest = str(dataset.get("name", "")), str(dataset.get("digest", ""))
            named.append(f"{name}@{digest}" if digest else name)
    return {"dataset": ", ".join(named)[:500]} if named else {}
