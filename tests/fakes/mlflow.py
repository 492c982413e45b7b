"""What an MLflow of many models would answer, in memory: for measurements, and for faults in its answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers.between import Answer, Asked

_API = "/api/2.0/mlflow/"


@dataclass
class FakeMlflow:
    """Attributes:
    models: registered models as MLflow's search tells of them, by name.
    versions: theirs, in the order of the search.
    runs: runs by id, as MLflow tells of them.
    page: the most versions on one page, where that is fewer than asked for.
    """

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    page: int = 10_000

    def add(self, name: str, versions: int = 1, **more: object) -> None:
        """A model with versions from 1 on, each with a run, and alias `champion` for the last one."""
        alias = {"alias": "champion", "version": str(versions)}
        self.models[name] = {"name": name, "creation_timestamp": 1_700_000_000_000, "aliases": [alias]}
        for number in range(1, versions + 1):
            run = f"{name}-{number}"
            self.versions.append(
                {
                    "name": name,
                    "version": str(number),
                    "creation_timestamp": 1_700_000_000_000 + number,
                    "last_updated_timestamp": 1_700_000_000_000 + number,
                    "current_stage": "Production" if number == 1 else "None",
                    "source": f"s3://models/{name}/{number}",
                    "run_id": run,
                    "status": "READY",
                    "tags": [{"key": "team", "value": "a"}],
                    **more,
                }
            )
            self.runs[run] = a_run(run, {"accuracy": 0.5 + number / 100})

    def alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version; no timestamp changes."""
        others = [each for each in self.models[name]["aliases"] if each["alias"] != alias]
        self.models[name]["aliases"] = [*others, {"alias": alias, "version": version}]

    def answer(self, asked: Asked) -> Answer:
        """A script for `Between`."""
        url = urlsplit(asked.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = json.loads(asked.body) if asked.body else {}
        known: Mapping[str, Callable[[], Answer]] = {
            "registered-models/search": lambda: _sent({"registered_models": list(self.models.values())}),
            "registered-models/get": lambda: _one("registered_model", self.models.get(query["name"])),
            "registered-models/alias": lambda: self._named(query["name"], query["alias"]),
            "model-versions/search": lambda: self._search(query),
            "model-versions/get": lambda: _one(
                "model_version", self._version(query["name"], query["version"])
            ),
            "experiments/search": lambda: _sent({"experiments": [{"experiment_id": "0"}]}),
            "runs/search": lambda: self._runs(re.findall(r"'([^']*)'", body["filter"])),
            "runs/get": lambda: _one("run", self.runs.get(query["run_id"])),
        }
        answer = known.get(url.path.removeprefix(_API))
        return answer() if answer is not None else Answer(404, b"<html>not MLflow</html>")

    def _runs(self, ids: Iterable[str]) -> Answer:
        return _sent({"runs": [self.runs[each] for each in ids if each in self.runs]})

    def _search(self, query: Mapping[str, str]) -> Answer:
        wanted = re.search(r"name='([^']*)'", query.get("filter", ""))
        found = [each for each in self.versions if wanted is None or each["name"] == wanted[1]]
        start = int(query.get("page_token", "0"))
        end = start + min(self.page, int(query["max_results"]))
        more = {"next_page_token": str(end)} if end < len(found) else {}
        return _sent({"model_versions": found[start:end], **more})

    def _named(self, name: str, alias: str) -> Answer:
        if name not in self.models:
            return _one("model_version", None)
        for each in self.models[name]["aliases"]:
            if each["alias"] == alias:
                return _sent({"model_version": self._version(name, each["version"])})
        said = {
            "error_code": "INVALID_PARAMETER_VALUE",
            "message": f"Registered model alias {alias} not found.",
        }
        return Answer(400, json.dumps(said).encode())

    def _version(self, name: str, number: str) -> dict[str, Any] | None:
        found = (each for each in self.versions if (each["name"], each["version"]) == (name, number))
        return next(found, None)


def a_run(run: str, metrics: Mapping[str, float], status: str = "FINISHED", **tags: str) -> dict[str, Any]:
    """A run as MLflow tells of it."""
    return {
        "info": {"run_id": run, "status": status, "artifact_uri": f"s3://runs/{run}/artifacts"},
        "data": {
            "metrics": [
                {"key": key, "value": value, "timestamp": 1, "step": 0} for key, value in metrics.items()
            ],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
        "inputs": {"dataset_inputs": [{"dataset": {"name": "digits", "digest": "abc"}}]},
    }


def _sent(answer: object) -> Answer:
    return Answer(body=json.dumps(answer).encode())


def _one(key: str, found: object) -> Answer:
    if found is not None:
        return _sent({key: found})
    said = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{key} not found"}
    return Answer(404, json.dumps(said).encode())
