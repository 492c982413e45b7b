"""scikit-learn estimators: skops, joblib or pickle files, by a generated model.py."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from router.artifacts.config_pbtxt import generated, on_cpu
from router.artifacts.formats.job import VERSION_FOLDER, Job
from router.artifacts.policy import Code
from router.model import Contract, TensorSpec

PREDICT = "predict"
"""The first output: what the estimator's `predict` gives."""

PROBABILITIES = "predict_proba"
"""The second output, of estimators that are known to have it, and where a contract names it."""

_ENDINGS = {".skops": "skops", ".joblib": "joblib", ".pkl": "pickle", ".pickle": "pickle"}

_HAVE_PROBABILITIES = frozenset(
    {
        *("LogisticRegression", "LogisticRegressionCV", "GaussianProcessClassifier", "MLPClassifier"),
        *("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier"),
        *("GradientBoostingClassifier", "HistGradientBoostingClassifier", "AdaBoostClassifier"),
        *("BaggingClassifier", "KNeighborsClassifier", "RadiusNeighborsClassifier", "CalibratedClassifierCV"),
        *("GaussianNB", "MultinomialNB", "BernoulliNB", "ComplementNB", "CategoricalNB"),
        *("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis", "DummyClassifier"),
    }
)
"""Classes of scikit-learn that have it whatever their parameters are. Of others, such as a pipeline, only
the loaded object could tell, and nothing of an artifact is loaded in this process."""

_HEAD = 1 << 16
_SKOPS_CLASS = re.compile(rb'\{\s*"__class__":\s*"(\w+)",\s*"__module__":\s*"(sklearn[\w.]*)"')


@dataclass(frozen=True, slots=True)
class Estimator:
    """A file of an estimator, and how it is called.

    Attributes:
        file: below the job's files.
        serialization: `skops`, `joblib`, `cloudpickle` or `pickle`.
        contract: of `method`; None where it is not known.
        columns: whether a single input is a column of a table rather than a matrix; several always are.
        method: what gives the first output.
        trusted: types that a skops file may bring beside those that skops itself trusts.
        code: a folder below the job's files with modules that it imports, or "".
    """

    file: Path
    serialization: str
    contract: Contract | None
    columns: bool = False
    method: str = "predict"
    trusted: tuple[str, ...] = ()
    code: str = ""


def lay_out(job: Job) -> None:
    """One file of an estimator; how it was written is told by its ending."""
    file = job.only_file(*_ENDINGS)
    make(job, Estimator(file, _ENDINGS[file.suffix], job.version.contract))


def make(job: Job, estimator: Estimator) -> None:
    """Lay an estimator out.

    Raises:
        ArtifactRefused: the policy does not allow it.
        ArtifactError: what it takes and gives is not known.
    """
    job.check_code(Code.PICKLE)
    if estimator.contract is None:
        raise job.error(
            "inputs and outputs are not known",
            hint="log the model with a signature, or give version.yaml a contract",
        )
    columns = estimator.columns or len(estimator.contract.inputs) > 1
    if columns:
        _check_columns(job, estimator.contract)
    config = generated(_with_probabilities(estimator), job.version.tags, name=job.name, backend="python")
    on_cpu(config)
    parameters = {
        "file": estimator.file.relative_to(job.files).as_posix(),
        "serialization": estimator.serialization,
        "method": estimator.method,
        "columns": "yes" if columns else "",
        "trusted": json.dumps(estimator.trusted) if estimator.trusted else "",
        "code": estimator.code,
    }
    for key, value in parameters.items():
        if value:
            config.parameters[key].string_value = value
    job.take_files()
    job.write_config(config)
    job.write(f"{VERSION_FOLDER}/model.py", job.template())


def _check_columns(job: Job, contract: Contract) -> None:
    for spec in contract.inputs:
        if len(spec.shape) != 1 and spec.shape[1:] != (1,):
            raise job.error(
                f"input {spec.name!r} of shape {list(spec.shape)} is no column",
                hint="an estimator takes one matrix, or several columns of shape [-1, 1]",
            )


def _with_probabilities(estimator: Estimator) -> Contract:
    contract = estimator.contract
    assert contract is not None  # noqa: S101 -- looked at by the caller
    names = {spec.name for spec in contract.outputs}
    if PROBABILITIES in names or estimator.method != "predict":
        return contract
    if class_of(estimator.file, estimator.serialization) not in _HAVE_PROBABILITIES:
        return contract
    return replace(contract, outputs=(*contract.outputs, TensorSpec(PROBABILITIES, "FP64", (-1, -1))))


def class_of(file: Path, serialization: str) -> str:
    """The name of the estimator's class in scikit-learn, "" for others. Nothing in the file is run."""
    if serialization == "skops":
        return _class_in_skops(file)
    with file.open("rb") as opened:
        module, _, name = _first_global(opened.read(_HEAD)).partition(" ")
    return name if module.split(".")[0] == "sklearn" else ""


def _first_global(pickled: bytes) -> str:
    """Module and name of the first class that a pickle names, which is that of the object itself."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "GLOBAL":
                return str(argument)
            if opcode.name == "STACK_GLOBAL":
                return " ".join(texts[-2:])
            if isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        return ""  # the model.py in Triton will say that it is no pickle
    return ""


def _class_in_skops(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive, archive.open("schema.json") as schema:
            found = _SKOPS_CLASS.match(schema.read(_HEAD))
    except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError):
        return ""
    return found[1].decode() if found else ""
