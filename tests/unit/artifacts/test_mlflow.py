"""MLflow models, saved by the real package, as Triton model folders."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

from router.artifacts.formats.sklearn import class_of
from router.errors import ArtifactError, UnsupportedFormat
from router.model import Contract, TensorSpec
from tests.unit.artifacts.shelf import CONTRACT, NAME, config_of, everything, laid_out
from tests.unit.artifacts.test_formats import SHAPED, TORCHSCRIPT, archive

Saved = Callable[..., dict[str, bytes]]


def files_in(folder: Path) -> dict[str, bytes]:
    """Files of a folder with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Saves an iris classifier with MLflow; gives the files."""
    import mlflow

    table, labels = load_iris(return_X_y=True, as_frame=True)

    def save(kind: str, *, columns: bool = False) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("saved") / "model"
        model = LogisticRegression(max_iter=500).fit(table.values, labels)
        rows = table if columns else table.values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's and its own packages'
            signature = mlflow.models.infer_signature(rows, model.predict(table.values))
            mlflow.sklearn.save_model(
                model,
                folder,
                serialization_format=kind,
                signature=signature,
                pip_requirements=["scikit-learn"],
            )
        return files_in(folder)

    return save


def mlmodel(flavor: str, keys: dict[str, Any], *, signed: bool = True) -> str:
    """MLmodel with one flavor."""
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}
    signature = {"inputs": json.dumps([spec]), "outputs": json.dumps([spec])} if signed else None
    return json.dumps({"flavors": {flavor: keys}, "signature": signature})


@pytest.mark.parametrize("kind", ["skops", "cloudpickle"])
def test_an_estimator_gets_a_model_py(tmp_path: Path, saved: Saved, kind: str) -> None:
    """Its matrix, its prediction, and the probabilities that its class is known to give."""
    made = laid_out(tmp_path, saved(kind), "mlflow")
    config = config_of(made)

    assert f"{NAME}/1/model.py" in everything(made)
    assert config.parameters["serialization"].string_value == kind
    assert [(one.name, list(one.dims)) for one in config.input] == [("input-0", [-1, 4])]
    assert [one.name for one in config.output] == ["predict", "predict_proba"]
    assert "columns" not in config.parameters


def test_columns_stay_columns(tmp_path: Path, saved: Saved) -> None:
    """One input each, with the names of the table."""
    config = config_of(laid_out(tmp_path, saved("skops", columns=True), "mlflow"))

    assert (config.input[0].name, list(config.input[0].dims)) == ("sepal length (cm)", [-1, 1])
    assert len(config.input) == 4
    assert config.parameters["columns"].string_value == "yes"


def test_a_contract_may_ask_for_a_matrix_instead(tmp_path: Path, saved: Saved) -> None:
    """The names of the signature are columns, others are not."""
    config = config_of(laid_out(tmp_path, saved("skops", columns=True), "mlflow", contract=CONTRACT))

    assert [(one.name, list(one.dims)) for one in config.input] == [("X", [-1, 4])]
    assert "columns" not in config.parameters


def test_columns_of_a_contract_are_columns_without_a_signature(tmp_path: Path) -> None:
    """An estimator takes one thing: several inputs can be nothing else."""
    files: dict[str, str | bytes] = {
        "MLmodel": mlmodel("sklearn", {"pickled_model": "m"}, signed=False),
        "m": b"",
    }
    inputs = (TensorSpec("age", "FP64", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1)))
    config = config_of(laid_out(tmp_path, files, "mlflow", contract=Contract(inputs, CONTRACT.outputs)))

    assert config.parameters["columns"].string_value == "yes"


def test_the_best_flavor_that_can_run_is_taken(tmp_path: Path) -> None:
    """Here the second; where none can, the best one says why."""
    keys = {"onnx": {"data": "m.onnx"}, "sklearn": {"pickled_model": "m"}, "triton": {"data": "net"}}
    files: dict[str, str | bytes] = {
        "MLmodel": json.dumps({"flavors": keys}),
        **{"m.onnx": b"graph", "m": b"", "net/config.pbtxt": 'backend: "vllm"', "net/1/model.json": ""},
    }
    made = laid_out(tmp_path / "a", files, "mlflow", contract=CONTRACT, backends=frozenset({"onnxruntime"}))
    assert config_of(made).backend == "onnxruntime"

    with pytest.raises(UnsupportedFormat, match="needs Triton's backend 'vllm'"):
        laid_out(tmp_path / "b", files, "mlflow", contract=CONTRACT, backends=frozenset({"openvino"}))


def test_a_runtime_is_asked_for_by_the_flavor(tmp_path: Path) -> None:
    """The tag names one of its, not one of MLflow's."""
    files: dict[str, str | bytes] = {"MLmodel": mlmodel("onnx", {"data": "m.onnx"}), "m.onnx": b"graph"}
    config = config_of(
        laid_out(
            tmp_path,
            files,
            "mlflow",
            contract=CONTRACT,
            backends=frozenset({"python", "onnxruntime"}),
            tags={"triton.runtime": "onnx-python"},
        )
    )
    assert config.backend == "python"


def test_a_signature_that_is_not_needed_may_say_anything(tmp_path: Path) -> None:
    """Dates, for one: the v2 protocol has none, and the file has tensors."""
    signature = {"inputs": json.dumps([{"type": "datetime", "name": "when"}]), "outputs": None}
    onnx, sklearn = {"onnx": {"data": "m.onnx"}}, {"sklearn": {"pickled_model": "m.onnx"}}
    for at, flavors in enumerate((onnx, sklearn)):
        files: dict[str, str | bytes] = {
            "MLmodel": json.dumps({"flavors": flavors, "signature": signature}),
            "m.onnx": b"graph",
        }
        laid_out(tmp_path / str(at), files, "mlflow", contract=CONTRACT)
    with pytest.raises(ArtifactError, match=r"m 1: MLmodel: .*'when' is of type 'datetime'"):
        laid_out(tmp_path / "without", files, "mlflow", contract=None)


def test_what_torch_export_wrote_is_named_before_a_backend(tmp_path: Path) -> None:
    """It is what `mlflow.pytorch.log_model` writes by default today; no backend would help."""
    files: dict[str, str | bytes] = {
        "MLmodel": mlmodel("pytorch", {"model_data": "data"}),
        "data/model.pt2": archive("version"),
    }
    with pytest.raises(UnsupportedFormat, match=r"m 1: model\.pt2 is a program that torch\.export wrote"):
        laid_out(tmp_path, files, "mlflow", backends=frozenset({"python"}))


def test_the_class_of_an_estimator_is_read_without_loading_it(tmp_path: Path) -> None:
    """From a pickle, from skops, and not at all from anything else."""
    import pickle

    import joblib
    import skops.io

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    (tmp_path / "p").write_bytes(pickle.dumps(model))
    (tmp_path / "p0").write_bytes(pickle.dumps(model, protocol=0))
    joblib.dump(model, tmp_path / "j")
    skops.io.dump(model, tmp_path / "s")
    (tmp_path / "dict").write_bytes(pickle.dumps({"a": tmp_path}))
    (tmp_path / "text").write_text("hello")
    (tmp_path / "zip").write_bytes(archive("a"))

    assert class_of(tmp_path / "p", "pickle") == "LinearRegression"
    assert class_of(tmp_path / "j", "joblib") == "LinearRegression"
    assert class_of(tmp_path / "s", "skops") == "LinearRegression"
    assert class_of(tmp_path / "dict", "pickle") == class_of(tmp_path / "text", "pickle") == ""
    assert class_of(tmp_path / "text", "skops") == class_of(tmp_path / "zip", "skops") == ""


def test_torchscript_is_found_where_the_flavor_says(tmp_path: Path) -> None:
    """Under the names that Triton's PyTorch backend wants where the signature has none."""
    files: dict[str, str | bytes] = {
        "MLmodel": mlmodel("pytorch", {"model_data": "data"}),
        "data/model.pth": TORCHSCRIPT,
    }
    made = laid_out(tmp_path, files, "mlflow")

    assert everything(made) == {f"{NAME}/1/model.pt", f"{NAME}/config.pbtxt"}
    assert [one.name for one in (*config_of(made).input, *config_of(made).output)] == [
        "INPUT__0",
        "OUTPUT__0",
    ]


def test_a_pickled_module_is_refused_plainly(tmp_path: Path) -> None:
    """What `mlflow.pytorch.log_model` writes by `serialization_format="pickle"`, once its default."""
    files: dict[str, str | bytes] = {
        "MLmodel": mlmodel("pytorch", {"model_data": "data"}),
        "data/model.pth": archive("m/data.pkl", "m/version"),
        "data/pickle_module_info.txt": b"mlflow.pytorch.pickle_module",
    }
    with pytest.raises(ArtifactError, match="pth is a pickled module or its weights, and no"):
        laid_out(tmp_path, files, "mlflow")


def test_a_triton_model_in_an_mlflow_model(tmp_path: Path) -> None:
    """As NVIDIA's plugin for MLflow writes it."""
    files: dict[str, str | bytes] = {
        "MLmodel": mlmodel("triton", {"data": "net"}, signed=False),
        "net/config.pbtxt": SHAPED,
        "net/1/model.py": "",
    }
    made = laid_out(tmp_path, files, "mlflow")

    assert everything(made) == {f"{NAME}/1/model.py", f"{NAME}/config.pbtxt"}


def test_an_onnx_model_in_a_folder_above(tmp_path: Path) -> None:
    """The folder that a registry names may hold the model's folder."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [None, 3])],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    files: dict[str, str | bytes] = {
        "model/MLmodel": mlmodel("onnx", {"data": "model.onnx"}),
        "model/model.onnx": net.SerializeToString(),
        "model/conda.yaml": "",
    }
    config = config_of(laid_out(tmp_path, files, "mlflow"))

    assert onnx.__version__
    assert [(one.name, list(one.dims)) for one in config.input] == [("a", [-1, 3])]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": b""}, "there are 0 files MLmodel"),
        ({"a/MLmodel": "", "b/MLmodel": ""}, "there are 2 files MLmodel"),
        ({"MLmodel": "{"}, "m 1: MLmodel is no YAML"),
        (
            {"MLmodel": mlmodel("onnx", {"data": "../x.onnx"})},
            "m 1: MLmodel: flavors.onnx.data '../x.onnx'",
        ),
        ({"MLmodel": mlmodel("onnx", {})}, "m 1: MLmodel: flavors.onnx.data 'None' is no path"),
        ({"MLmodel": mlmodel("sklearn", {"pickled_model": "gone"})}, "flavors.sklearn.pickled_model 'gone'"),
        (
            {"MLmodel": mlmodel("sklearn", {"pickled_model": "m", "serialization_format": "dill"}), "m": b""},
            "serialization_format 'dill' is not known",
        ),
        (
            {"MLmodel": mlmodel("sklearn", {"pickled_model": "m"}, signed=False), "m": b""},
            "inputs and outputs are not known .*signature",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, files: dict[str, str | bytes], said: str) -> None:
    """And nothing is left of it."""
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, files, "mlflow")

    assert everything(tmp_path / "repository") == set()


def test_a_flavor_that_nobody_here_serves_is_named(tmp_path: Path) -> None:
    """With those that are served."""
    with pytest.raises(
        UnsupportedFormat, match=r"m 1: of its MLflow flavors \(spark\) none .*triton, onnx"
    ) as caught:
        laid_out(tmp_path, {"MLmodel": mlmodel("spark", {})}, "mlflow")
    assert caught.value.hint == "flavors: triton, onnx, pytorch, sklearn"
