"""Trains two versions of a model that reads handwritten digits, and registers them in MLflow as ONNX.

    python examples/log_to_mlflow.py [--model digits]

The server is the one that `MLFLOW_TRACKING_URI` names, by default http://127.0.0.1:5000. Version 1 is a
small forest, version 2 a larger one that reads better; where no version is `@champion` yet, the first one
becomes it. docs/mlflow.md goes on from here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import mlflow
import mlflow.onnx
import numpy as np
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

SEED = 7
TREES = (10, 100)


def main() -> None:
    """Train, log and register each version; name the first one `@champion` where there is none."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="digits", help="name of the registered model")
    model = parser.parse_args().model
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000"))
    data = load_digits()
    split = train_test_split(data.data.astype(np.float32), data.target, random_state=SEED)
    made = [log(model, trees, split) for trees in TREES]
    client = MlflowClient()
    if "champion" not in client.get_registered_model(model).aliases:
        client.set_registered_model_alias(model, "champion", made[0])
        print(f"{model}: @champion is version {made[0]}")


def log(model: str, trees: int, split: Sequence[Any]) -> str:
    """Train one version in a run of its own and register it; its number."""
    rows, held_out, labels, truth = split
    with mlflow.start_run():
        estimator = RandomForestClassifier(trees, random_state=SEED).fit(rows, labels)
        accuracy = float(estimator.score(held_out, truth))
        mlflow.log_param("trees", trees)
        mlflow.log_metric("accuracy", accuracy)
        mlflow.log_input(from_numpy(rows, targets=labels, name="digits"), context="training")
        logged = mlflow.onnx.log_model(
            to_onnx(estimator, rows[:1], options={"zipmap": False}, target_opset=17),
            name="model",
            registered_model_name=model,
            signature=infer_signature(rows[:1], estimator.predict(rows[:1])),
            pip_requirements=["onnxruntime"],  # named, so that MLflow need not load the model to find out
        )
    version = str(logged.registered_model_version)
    print(f"{model} {version}: accuracy {accuracy:.3f} with {trees} trees")
    return version


if __name__ == "__main__":
    main()
