"""Each format that Triton can run here is loaded by a real one, and answers."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
import tritonclient.grpc as triton
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.policy import ArtifactSettings
from router.backends.process import TritonOptions, TritonProcess
from router.backends.triton import TritonServer
from router.backends.wheel import find_triton
from router.errors import ArtifactError, LoadFailed, UnsupportedFormat
from router.model import Contract, ModelName, TensorSpec, TritonName, Version, VersionId
from tests.fakes.triton_models import write_ensemble, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tensors = Mapping[str, npt.NDArray[Any]]
ROWS, LABELS = load_iris(return_X_y=True, as_frame=True)
SOME = ROWS.values[::30]
ESTIMATOR = LogisticRegression(max_iter=500).fit(ROWS.values, LABELS)
DOUBLED = Contract((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
NAME = TritonName("m.1.0a0a0a0a")


class Served:
    """One Triton, its folder, and versions that come and go."""

    def __init__(self, process: TritonProcess, folder: Path) -> None:
        self.server = TritonServer(process.backend())
        self.client = triton.InferenceServerClient(process.grpc)
        self.folder = folder
        self.repository = TritonRepository(
            folder, Fetcher(ArtifactSettings(code=("*",))), backends=process.backend().backends
        )

    async def load(self, artifact: Path, format_: str, **fields: Any) -> None:
        """Lay a version out and load it."""
        version = Version("local", ModelName("m"), VersionId("1"), format_, str(artifact), **fields)
        await self.repository.put(version, NAME)
        await self.server.load(NAME, timeout=60)

    async def go(self) -> None:
        """Unload and remove it."""
        await self.server.unload(NAME, timeout=30)
        await self.repository.remove(NAME)

    async def taking_memory(self) -> set[str]:
        """Models that are ready, or on their way."""
        states = ("READY", "LOADING", "UNLOADING")
        return {entry.name for entry in await self.server.index() if entry.state in states}

    def infer(self, inputs: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Ask it with a stock client; the datatypes are those that its metadata names."""
        types = {one.name: one.datatype for one in self.client.get_model_metadata(NAME).inputs}
        asked = []
        for name, value in inputs.items():
            asked.append(triton.InferInput(name, list(value.shape), types[name]))
            asked[-1].set_data_from_numpy(value)
        answer = self.client.infer(NAME, asked)
        return {one.name: answer.as_numpy(one.name) for one in answer.get_response().outputs}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A Triton for the module."""
    folder = tmp_path_factory.mktemp("triton")
    options = TritonOptions("t0", folder / "models", folder / "work")
    async with TritonProcess(find_triton(), options) as process:
        served = Served(process, folder / "models")
        yield served
        served.client.close()
        await served.server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def served(one_triton: Served) -> AsyncIterator[Served]:
    """That Triton, with nothing loaded before and after."""
    yield one_triton
    await one_triton.go()
    assert await one_triton.taking_memory() == set()
    assert list(one_triton.folder.iterdir()) == []


def onnx_of_the_estimator() -> bytes:
    """The estimator as an ONNX file."""
    from skl2onnx import to_onnx

    found = to_onnx(ESTIMATOR, SOME[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    return bytes(found.SerializeToString())


def save(flavor: str, folder: Path, rows: Any, **options: Any) -> Path:
    """Save the estimator, or its ONNX, with the real MLflow."""
    import mlflow
    import onnx

    model = onnx.load_from_string(onnx_of_the_estimator()) if flavor == "onnx" else ESTIMATOR
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about its own and others' ways
        signature = mlflow.models.infer_signature(rows, ESTIMATOR.predict(ROWS.values))
        getattr(mlflow, flavor).save_model(
            model, folder, signature=signature, pip_requirements=["scikit-learn"], **options
        )
    return folder


async def test_onnx(served: Served, tmp_path: Path) -> None:
    """On the generated model.py; inputs and outputs are the file's own."""
    (tmp_path / "net.onnx").write_bytes(onnx_of_the_estimator())
    await served.load(tmp_path / "net.onnx", "onnx")

    answer = served.infer({"X": SOME.astype(np.float32)})
    assert answer["label"].tolist() == ESTIMATOR.predict(SOME).tolist()


async def test_python(served: Served, tmp_path: Path) -> None:
    """model.py with a contract."""
    folder = write_model(tmp_path, "any")
    await served.load(folder / "1", "python", contract=DOUBLED)

    assert served.infer({"x": np.ones(3, np.float32)})["y"].tolist() == [2, 2, 2]
    assert await served.server.contract(NAME) == DOUBLED


async def test_triton_shaped(served: Served, tmp_path: Path) -> None:
    """A folder as it lies in somebody's repository."""
    await served.load(write_model(tmp_path, "theirs"), "triton")

    assert served.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [2]


async def test_an_ensemble_comes_and_goes_with_its_parts(served: Served, tmp_path: Path) -> None:
    """Triton loads the parts with it; the unload takes them along."""
    parts = {"first": "pass", "second": "pass"}
    await served.load(write_ensemble(tmp_path / "source", parts), "ensemble")

    assert served.infer({"a": np.ones(2, np.float32)})["b"].tolist() == [4, 4]
    assert await served.taking_memory() == {NAME, f"{NAME}.part-first", f"{NAME}.part-second"}


async def test_an_ensemble_that_fails_leaves_no_part_behind(served: Served, tmp_path: Path) -> None:
    """The part that could be loaded goes again, and the reason names the other one."""
    parts = {"first": "pass", "second": "raise RuntimeError('no')"}
    source = write_ensemble(tmp_path / "source", parts)
    with pytest.raises(LoadFailed, match="part-second"):
        await served.load(source, "ensemble")

    assert await served.taking_memory() == set()


async def test_why_a_triton_could_not_read_a_folder_is_told(served: Served, tmp_path: Path) -> None:
    """Its answer does not say it; its log does."""
    source = write_ensemble(tmp_path / "source", {"first": "pass"})
    config = source / "whole/config.pbtxt"
    config.write_text(config.read_text() + "instance_group { count: 2 }")
    with pytest.raises(LoadFailed, match="could not read its folder: instance group should not be specified"):
        await served.load(source, "ensemble")


async def test_what_takes_and_gives_nothing_does_not_stay_loaded(served: Served, tmp_path: Path) -> None:
    """Without a configuration this Triton loads a model that nobody can use."""
    folder = write_model(tmp_path, "theirs")
    (folder / "config.pbtxt").unlink()
    with pytest.raises(LoadFailed, match=r"takes and gives nothing .*contract"):
        await served.load(folder, "triton")
    assert await served.taking_memory() == set()


async def test_a_folder_without_a_config_has_that_of_the_contract(served: Served, tmp_path: Path) -> None:
    """The backend is found by its file."""
    folder = write_model(tmp_path, "theirs")
    (folder / "config.pbtxt").unlink()
    await served.load(folder, "triton", contract=DOUBLED)

    assert served.infer({"x": np.ones(1, np.float32)})["y"].tolist() == [2]
    assert await served.server.contract(NAME) == DOUBLED


async def test_a_number_without_dimensions(served: Served, tmp_path: Path) -> None:
    """Triton has no such tensors; its metadata and its answers say one dimension of one."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["a"], ["b"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(net, tmp_path / "net.onnx")
    await served.load(tmp_path / "net.onnx", "onnx")

    contract = await served.server.contract(NAME)
    assert contract is not None
    assert contract.outputs == (TensorSpec("b", "FP32", (1,)),)
    assert served.infer({"a": np.ones((2, 3), np.float32)})["b"].tolist() == [6]


async def test_an_onnx_output_that_is_no_tensor_can_be_left_out(served: Served, tmp_path: Path) -> None:
    """As a classifier's probabilities are by default: a list of mappings."""
    from skl2onnx import to_onnx

    found = to_onnx(ESTIMATOR, SOME[:1].astype(np.float32), target_opset=17)
    (tmp_path / "net.onnx").write_bytes(found.SerializeToString())
    with pytest.raises(ArtifactError, match=r"output_probability is of type seq.*contract.*zipmap"):
        await served.load(tmp_path / "net.onnx", "onnx")

    contract = Contract((TensorSpec("X", "FP32", (-1, 4)),), (TensorSpec("output_label", "INT64", (-1,)),))
    await served.load(tmp_path / "net.onnx", "onnx", contract=contract)
    answer = served.infer({"X": SOME.astype(np.float32)})
    assert answer["output_label"].tolist() == ESTIMATOR.predict(SOME).tolist()


async def test_mlflow_sklearn(served: Served, tmp_path: Path) -> None:
    """A pickled estimator answers as it does in its own process, with probabilities beside."""
    folder = save("sklearn", tmp_path / "m", ROWS.values, serialization_format="cloudpickle")
    await served.load(folder, "mlflow")

    answer = served.infer({"input-0": SOME})
    assert answer["predict"].tolist() == ESTIMATOR.predict(SOME).tolist()
    np.testing.assert_allclose(answer["predict_proba"], ESTIMATOR.predict_proba(SOME))


async def test_mlflow_sklearn_with_columns(served: Served, tmp_path: Path) -> None:
    """Each column of the table is an input; written as skops, which is MLflow's default."""
    await served.load(save("sklearn", tmp_path / "m", ROWS), "mlflow")

    answer = served.infer({name: SOME[:, at : at + 1] for at, name in enumerate(ROWS.columns)})
    assert answer["predict"].tolist() == ESTIMATOR.predict(SOME).tolist()


async def test_columns_of_a_contract(served: Served, tmp_path: Path) -> None:
    """Texts and numbers side by side, for a model without a signature: it picks its columns by name."""
    import pandas
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pandas.DataFrame({"city": ["a", "b", "a", "c"], "age": [1.0, 2.0, 3.0, 40.0]})
    columns = make_column_transformer((OneHotEncoder(), ["city"]), (StandardScaler(), ["age"]))
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, ["no", "no", "no", "yes"])
    joblib.dump(pipeline, tmp_path / "model.joblib")
    inputs = (TensorSpec("age", "FP64", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1)))
    outputs = (TensorSpec("predict", "BYTES", (-1,)),)
    await served.load(tmp_path / "model.joblib", "sklearn", contract=Contract(inputs, outputs))

    rows = {"age": np.array([[1.0], [40.0]]), "city": np.array([[b"a"], [b"c"]], dtype=np.object_)}
    assert served.infer(rows)["predict"].tolist() == [b"no", b"yes"]


async def test_mlflow_onnx(served: Served, tmp_path: Path) -> None:
    """By the names in the file, whatever the signature says."""
    await served.load(save("onnx", tmp_path / "m", SOME.astype(np.float32)), "mlflow")

    answer = served.infer({"X": SOME.astype(np.float32)})
    assert answer["label"].tolist() == ESTIMATOR.predict(SOME).tolist()


async def test_a_batched_model_is_asked_in_batches(served: Served, tmp_path: Path) -> None:
    """With max_batch_size from a tag clients see the same shapes, and Triton bounds the rows."""
    contract = Contract((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
    folder = write_model(tmp_path, "any")
    await served.load(folder / "1", "python", contract=contract, tags={"triton.max_batch_size": "3"})

    assert await served.server.contract(NAME) == contract
    assert served.infer({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3
    with pytest.raises(triton.InferenceServerException, match="batch"):
        served.infer({"x": np.ones((4, 2), np.float32)})


async def test_what_this_triton_cannot_run_is_told_before_it_is_asked(served: Served, tmp_path: Path) -> None:
    """It has the Python backend and no other."""
    (tmp_path / "net.plan").write_bytes(b"engine")
    with pytest.raises(
        UnsupportedFormat, match="needs Triton's backend 'tensorrt', which this Triton does not"
    ):
        await served.load(tmp_path / "net.plan", "tensorrt")
