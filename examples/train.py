"""Trains small real models on data that ships inside scikit-learn and registers them in a folder registry.

    python examples/train.py [--output FOLDER]

`digits` reads handwritten digits: version 1 is a logistic regression, 2 a forest that is better, 3 a
forest trained on shuffled labels, which is really bad. `diabetes` predicts the progress of the disease:
1 is a ridge regression, 2 a boosted ensemble. FOLDER (this folder, if not given) gets `models/`, the
registry, and `data/`, held-out rows for clients to send. Nothing is trained again while this script and
its result stay the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import yaml
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from router.artifacts.digest import digest_of

SEED = 7
HELD_OUT = 0.25
SENT_ROWS = 8


@dataclass(frozen=True)
class Recipe:
    """One version: what to train, and what people should know of it."""

    version: str
    estimator: Any
    note: str
    shuffled: bool = False


@dataclass(frozen=True)
class Example:
    """One model with all its versions, its pointers, and the data that it learns from."""

    name: str
    description: str
    dataset: Any
    recipes: tuple[Recipe, ...]
    stages: dict[str, str]
    aliases: dict[str, str]
    labels: bool


EXAMPLES = (
    Example(
        name="digits",
        description="Reads a handwritten digit of 8 x 8 pixels",
        dataset=load_digits,
        recipes=(
            Recipe("1", make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), "the baseline"),
            Recipe("2", RandomForestClassifier(200, random_state=SEED), "better than the baseline"),
            Recipe(
                "3",
                RandomForestClassifier(50, random_state=SEED),
                "trained on shuffled labels: a really bad version to practise rollbacks with",
                shuffled=True,
            ),
        ),
        stages={"production": "2", "staging": "3"},
        aliases={"champion": "2", "challenger": "1", "bad": "3"},
        labels=True,
    ),
    Example(
        name="diabetes",
        description="Predicts the progress of diabetes after a year from ten measurements",
        dataset=load_diabetes,
        recipes=(
            Recipe("1", make_pipeline(StandardScaler(), Ridge()), "linear"),
            Recipe("2", GradientBoostingRegressor(random_state=SEED), "boosted trees"),
        ),
        stages={"production": "1", "staging": "2"},
        aliases={"champion": "1", "challenger": "2"},
        labels=False,
    ),
)


def main() -> None:
    """Train what is missing or out of date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE, help="folder that gets models/ and data/")
    output: Path = parser.parse_args().output
    stamp = output / "models" / ".trained"
    mark = recipe_mark()
    if stamp.is_file() and stamp.read_text() == mark:
        print(f"{output / 'models'} is up to date")
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "models").mkdir(exist_ok=True)
    for example in EXAMPLES:
        train(example, output)
    stamp.write_text(mark)


def recipe_mark() -> str:
    """Changes with this script and with the library that trains."""
    return hashlib.sha256(Path(__file__).read_bytes() + sklearn.__version__.encode()).hexdigest()


def train(example: Example, output: Path) -> None:
    """Train, measure, convert and register every version; replace the model's folder by renames."""
    data = example.dataset()
    rows = data.data.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        rows,
        data.target,
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=data.target if example.labels else None,
    )
    folder = output / "models" / example.name
    beside = output / "models" / f".{example.name}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    for recipe in example.recipes:
        labels = np.random.default_rng(SEED).permutation(train_y) if recipe.shuffled else train_y
        recipe.estimator.fit(train_x, labels)
        metrics = measure(example, recipe.estimator.predict(test_x), test_y)
        register(example, recipe, beside / recipe.version, train_x, metrics)
        said = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        print(f"{example.name} {recipe.version}: {said} ({recipe.note})")
    pointers = {"description": example.description, "stages": example.stages, "aliases": example.aliases}
    (beside / "model.yaml").write_text(dump(pointers))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    write_held_out(example, output / "data", test_x, test_y)


def measure(example: Example, predicted: Any, truth: Any) -> dict[str, float]:
    """How good a version is on rows that it has not seen."""
    if example.labels:
        return {"accuracy": float(accuracy_score(truth, predicted))}
    return {"r2": float(r2_score(truth, predicted)), "mae": float(mean_absolute_error(truth, predicted))}


def register(example: Example, recipe: Recipe, folder: Path, rows: Any, metrics: dict[str, float]) -> None:
    """Write one version: the ONNX file and its version.yaml."""
    folder.mkdir(parents=True)
    options = {"zipmap": False} if example.labels else None
    model = to_onnx(recipe.estimator, rows[:1], options=options, target_opset=17)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    outputs = (
        [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        ]
        if example.labels
        else [{"name": "variable", "datatype": "FP32", "shape": [-1, 1]}]
    )
    document = {
        "format": "onnx",
        "artifact": path.name,
        "digest": digest_of(path),
        "contract": {
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, rows.shape[1]]}],
            "outputs": outputs,
        },
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "tags": {"note": recipe.note},
        "lineage": {"dataset": f"scikit-learn {example.dataset.__name__}", "script": "examples/train.py"},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (folder / "version.yaml").write_text(dump(document))


def write_held_out(example: Example, folder: Path, rows: Any, truth: Any) -> None:
    """A request of a few rows in the JSON of the v2 protocol, and all held-out rows with their answers."""
    folder.mkdir(exist_ok=True)
    tensor = {
        "name": "X",
        "datatype": "FP32",
        "shape": [SENT_ROWS, rows.shape[1]],
        "data": rows[:SENT_ROWS].astype(float).round(6).reshape(-1).tolist(),
    }
    (folder / f"{example.name}.json").write_text(json.dumps({"inputs": [tensor]}) + "\n")
    np.savez_compressed(folder / f"{example.name}.npz", X=rows, y=truth)


def dump(document: dict[str, Any]) -> str:
    """YAML in the order in which people want to read it; version ids stay text."""
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    main()
