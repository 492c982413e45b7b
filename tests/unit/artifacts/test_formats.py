"""Artifacts of each format, and the model folders that become of them."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from router.artifacts.fetch import Fetcher
from router.artifacts.layout import TritonRepository
from router.artifacts.policy import Allow, ArtifactSettings, Origin
from router.errors import ArtifactError, ArtifactRefused, UnsupportedFormat
from router.model import Contract, TensorSpec
from tests.unit.artifacts.shelf import (
    ALLOWED,
    CONTRACT,
    NAME,
    config_of,
    everything,
    laid_out,
    version_of,
    write,
)

SHAPED = 'name: "theirs"\nbackend: "python"\noutput [{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]\n'


def archive(*names: str) -> bytes:
    """A zip archive with such files in it, as PyTorch writes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return out.getvalue()


TORCHSCRIPT = archive("net/code/__torch__.py", "net/constants.pkl", "net/data.pkl", "net/version")


def test_onnx_on_tritons_own_backend(tmp_path: Path) -> None:
    """Where the Triton has it; the file keeps its name, and its weights beside it."""
    files = {"net.onnx": b"graph", "net.onnx.data": b"weights"}
    made = laid_out(tmp_path, files, "onnx", backends=frozenset({"onnxruntime", "python"}), contract=CONTRACT)
    config = config_of(made)

    assert everything(made) == {
        f"{NAME}/{path}" for path in ("config.pbtxt", "1/net.onnx", "1/net.onnx.data")
    }
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "net.onnx")


def test_onnx_on_the_python_backend(tmp_path: Path) -> None:
    """By a generated model.py."""
    made = laid_out(tmp_path, {"a/net.onnx": b"graph"}, "onnx", contract=CONTRACT)

    assert everything(made) == {f"{NAME}/{path}" for path in ("config.pbtxt", "1/a/net.onnx", "1/model.py")}
    assert config_of(made).parameters["onnx_file"].string_value == "a/net.onnx"


def test_a_file_where_one_is_generated_is_named(tmp_path: Path) -> None:
    """An ONNX artifact brings no code of its own by the way."""
    with pytest.raises(ArtifactError, match=r"m 1: the artifact has a 1/model\.py of its own"):
        laid_out(tmp_path, {"net.onnx": b"", "model.py": "import os"}, "onnx", contract=CONTRACT)


@pytest.mark.parametrize(
    ("format_", "files", "inside", "platform"),
    [
        ("torchscript", {"net.pt": TORCHSCRIPT}, "1/model.pt", "pytorch_libtorch"),
        ("tensorrt", {"net.engine": b"engine"}, "1/model.plan", "tensorrt_plan"),
        (
            "savedmodel",
            {"export/saved_model.pb": b"\x08\x01", "export/variables/v.index": b"i"},
            "1/model.savedmodel/saved_model.pb",
            "tensorflow_savedmodel",
        ),
    ],
)
def test_what_needs_a_backend_of_its_own_is_written_as_it_wants_it(
    tmp_path: Path, format_: str, files: dict[str, str | bytes], inside: str, platform: str
) -> None:
    """Under the one file name that Triton looks for, with the contract in its configuration."""
    made = laid_out(tmp_path, files, format_, contract=CONTRACT)
    config = config_of(made)

    assert f"{NAME}/{inside}" in everything(made)
    assert (config.name, config.platform, config.max_batch_size) == (NAME, platform, 0)
    assert [(one.name, list(one.dims)) for one in config.input] == [("X", [-1, 4])]


@pytest.mark.parametrize(("format_", "backend"), [("tensorrt", "tensorrt"), ("savedmodel", "tensorflow")])
def test_a_backend_that_is_not_there_is_named_before_anything_is_fetched(
    tmp_path: Path, format_: str, backend: str
) -> None:
    """With what the Triton has."""
    with pytest.raises(UnsupportedFormat, match=f"m 1: .* needs Triton's backend '{backend}'") as caught:
        laid_out(tmp_path, {}, format_, backends=frozenset({"python"}))

    assert "backends that it has: python" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            archive("net/data.pkl", "net/version"),
            "net.pt is a pickled module or its weights",
        ),
        (b"\x80\x02}q\x00.", "net.pt is no archive as PyTorch writes it"),
        (archive("readme"), "net.pt is no TorchScript"),
    ],
)
def test_what_is_no_torchscript_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """A pickled module would not run, and whoever opens it runs what is in it."""
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, {"net.pt": content}, "torchscript", contract=CONTRACT)


@pytest.mark.parametrize(
    ("format_", "files", "said"),
    [
        ("torchscript", {"net.pt": TORCHSCRIPT}, "inputs and outputs are not known"),
        ("tensorrt", {"net.plan": b""}, "net.plan is empty"),
        ("tensorrt", {"a.plan": b"1", "b.plan": b"2"}, "2 files end in .plan"),
        ("savedmodel", {"variables/v.index": b"i"}, "there are 0 saved_model.pb"),
        ("savedmodel", {"saved_model.pb": b""}, "saved_model.pb is empty"),
        ("python", {"other.py": b""}, "there is no model.py"),
        ("python", {"model.py": b""}, "inputs and outputs are not known"),
        ("triton", {"config.pbtxt": b""}, "there is no version folder such as 1/"),
    ],
)
def test_files_that_do_not_fit_their_format_are_named(
    tmp_path: Path, format_: str, files: dict[str, str | bytes], said: str
) -> None:
    """And nothing is left in the repository."""
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, files, format_)

    assert everything(tmp_path / "repository") == set()


def test_a_triton_shaped_folder_keeps_its_config_under_our_name(tmp_path: Path) -> None:
    """Only the model's own name changes; the newest version is 1."""
    files = {"config.pbtxt": "# theirs\n" + SHAPED, "1/model.py": "1", "3/model.py": "3"}
    made = laid_out(tmp_path, files, "triton")

    assert config_of(made).name == NAME
    assert (made / NAME / "config.pbtxt").read_text().endswith(SHAPED.partition("\n")[2])
    assert (made / NAME / "1/model.py").read_text() == "3"
    assert everything(made) == {f"{NAME}/1/model.py", f"{NAME}/config.pbtxt"}


def test_a_name_in_a_line_with_other_fields_is_replaced_too(tmp_path: Path) -> None:
    """Where a line cannot be taken out, the whole is written anew."""
    made = laid_out(tmp_path, {"config.pbtxt": SHAPED.replace("\n", " "), "1/model.py": ""}, "triton")

    assert (config_of(made).name, config_of(made).output[0].name) == (NAME, "y")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SHAPED.replace("FP32", "FLOAT"), "m 1: config.pbtxt: 3:.*TYPE_FLOAT"),
        (SHAPED.replace("[ 4 ]", "[ 0 ]"), r"m 1: config.pbtxt: output 'y': dims \[0\]"),
        (SHAPED, "config.pbtxt contradicts the contract: output 'label' .* is gone; there are 'y'"),
        (SHAPED.replace('"python"', '"../x"'), "backend '../x' cannot be the name of one"),
        (
            'platform: "ensemble"\nensemble_scheduling { step [{ model_name: "other" model_version: -1 }] }',
            "its steps name models that are not in it .*format: ensemble",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, config: str, said: str) -> None:
    """Before Triton is asked."""
    contract = CONTRACT if "contradicts" in said else None
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, {"config.pbtxt": config, "1/model.py": ""}, "triton", contract=contract)


def test_tags_do_not_change_a_config_that_is_there(tmp_path: Path) -> None:
    """Whoever set one would wonder."""
    files = {"config.pbtxt": SHAPED, "1/model.py": ""}
    with pytest.raises(ArtifactError, match=r"tags triton\.\* are for versions without a config.pbtxt"):
        laid_out(tmp_path, files, "triton", tags={"triton.max_batch_size": "8"})


@pytest.mark.parametrize(
    ("config", "file", "backend"),
    [
        ('backend: "openvino"', "model.xml", "openvino"),
        ('platform: "tensorrt_plan"', "model.plan", "tensorrt"),
        ("", "model.onnx", "onnxruntime"),
    ],
)
def test_a_shaped_folder_names_its_backend_too(tmp_path: Path, config: str, file: str, backend: str) -> None:
    """In its configuration, by Triton's older word, or by the file that is there."""
    with pytest.raises(UnsupportedFormat, match=f"m 1: it needs Triton's backend '{backend}'"):
        laid_out(
            tmp_path,
            {"config.pbtxt": config, f"1/{file}": b"x"},
            "triton",
            backends=frozenset({"python"}),
        )


@pytest.mark.parametrize(
    ("format_", "files"),
    [
        ("torchscript", {"net.pt": TORCHSCRIPT}),
        ("sklearn", {"model.pkl": b""}),
        ("triton", {"config.pbtxt": SHAPED, "1/model.py": "", "1/weights.pkl": b""}),
        ("triton", {"config.pbtxt": 'backend: "own"', "libtriton_own.so": b"", "1/x": b""}),
        (
            "triton",
            {
                "config.pbtxt": 'backend: "tensorflow" model_operations { op_library_filename: "/lib/x.so" }',
                "1/x": b"",
            },
        ),
    ],
)
def test_what_runs_unread_needs_leave(tmp_path: Path, format_: str, files: dict[str, str | bytes]) -> None:
    """Also from a folder of this machine."""
    with pytest.raises(ArtifactRefused, match=r"pickle.*artifacts\.code"):
        laid_out(tmp_path, files, format_, settings=ArtifactSettings(), contract=None)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"\xff\xfe", "m 1: config.pbtxt is no UTF-8 text"),
        (b"x { " * 100_000, "m 1: config.pbtxt: "),
        (b"# " + b"x" * (5 << 20), "m 1: config.pbtxt is larger than"),
    ],
)
def test_text_that_was_written_to_harm_is_refused(tmp_path: Path, config: bytes, said: str) -> None:
    """By an error that names the version, like any other."""
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, {"config.pbtxt": config, "1/model.py": ""}, "triton")


@pytest.mark.parametrize("spec", [TensorSpec("x", "FP32", (1 << 70,)), TensorSpec("\ud800", "FP32", (1,))])
def test_a_contract_that_no_message_can_hold_is_refused(tmp_path: Path, spec: TensorSpec) -> None:
    """Numbers beyond 64 bits, text that is no Unicode."""
    contract = Contract((spec,), (spec,))
    with pytest.raises(ArtifactError, match="m 1: cannot be laid out"):
        laid_out(tmp_path, {"model.py": ""}, "python", contract=contract)


def test_version_folders_of_one_number_are_one(tmp_path: Path) -> None:
    """Triton would see two versions 1."""
    files = {"config.pbtxt": SHAPED, "1/model.py": "a", "01/model.py": "b"}
    made = laid_out(tmp_path, files, "triton")

    assert [path.name for path in (made / NAME).iterdir() if path.is_dir()] == ["1"]


PYTHONS = 'backend: "python"\noutput { name: "y" data_type: TYPE_FP32 dims: 4 }\n'


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("specific { versions: [ 1, 3 ] }", "3"),
        ("latest { num_versions: 2 }", "4"),
        ("all { }", "4"),
    ],
)
def test_the_version_that_the_policy_chooses_is_kept(tmp_path: Path, policy: str, kept: str) -> None:
    """The policy itself goes: there is one version then, and it is 1."""
    config = f"{PYTHONS}version_policy {{ {policy} }}\n"
    files = {f"{number}/model.py": number for number in "134"}
    made = laid_out(tmp_path, {"config.pbtxt": config, **files}, "triton")

    assert (made / NAME / "1/model.py").read_text() == kept
    assert not config_of(made).HasField("version_policy")


def test_a_policy_that_chooses_no_version_is_refused(tmp_path: Path) -> None:
    """With the versions that there are."""
    config = f"{PYTHONS}version_policy {{ specific {{ versions: 7 }} }}"
    with pytest.raises(ArtifactError, match=r"m 1: there is no version folder 7/ .*there are 1/, 2/"):
        laid_out(tmp_path, {"config.pbtxt": config, "1/model.py": "", "2/model.py": ""}, "triton")


@pytest.mark.parametrize("format_", ["triton", "python"])
def test_what_a_config_leaves_out_comes_from_the_contract(tmp_path: Path, format_: str) -> None:
    """Inputs and outputs, without the batch where Triton batches; what it says stays."""
    config = 'backend: "python" max_batch_size: 8 output { name: "label" data_type: TYPE_INT64 dims: 2 }'
    contract = Contract(CONTRACT.inputs, (TensorSpec("label", "INT64", (-1, 2)),))
    file = "1/model.py" if format_ == "triton" else "model.py"
    made = laid_out(tmp_path, {"config.pbtxt": config, file: ""}, format_, contract=contract)

    assert [(one.name, list(one.dims)) for one in config_of(made).input] == [("X", [4])]
    assert [list(one.dims) for one in config_of(made).output] == [[2]]


@pytest.mark.parametrize(
    ("format_", "config", "said"),
    [
        (
            "triton",
            "max_batchsize: 4",
            'm 1: config.pbtxt: 1:1 : .*no field named "max_batchsize".*tritonclient',
        ),
        ("triton", "", r"m 1: nothing says which backend .*model\.py, model\.onnx"),
        (
            "python",
            'backend: "onnxruntime"',
            r"m 1: config.pbtxt: backend 'onnxruntime' does not serve a model.py",
        ),
    ],
)
def test_what_triton_would_only_stumble_over_is_named(
    tmp_path: Path, format_: str, config: str, said: str
) -> None:
    """It says that it failed to poll, or looks for a backend of a strange name."""
    files = {"config.pbtxt": config, "1/weights.bin": "", "model.py": ""}
    with pytest.raises(ArtifactError, match=said):
        laid_out(tmp_path, files, format_)


def test_a_config_beside_model_py_may_not_bring_more_code(tmp_path: Path) -> None:
    """Agents of the repository run what they bring, whatever the format is called."""
    config = 'model_repository_agents { agents [ { name: "a" } ] }'
    with pytest.raises(ArtifactRefused, match=r"artifacts\.code"):
        laid_out(tmp_path, {"config.pbtxt": config, "model.py": ""}, "python", settings=ArtifactSettings())


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "a/../../b", ".."])
@pytest.mark.parametrize(
    "field",
    [
        'default_model_filename: "{}"',
        'cc_model_filenames {{ key: "9.0" value: "{}" }}',
        'output {{ name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "{}" }}',
        'model_warmup {{ inputs {{ key: "x" value {{ input_data_file: "{}" }} }} }}',
        'sequence_batching {{ state {{ initial_state {{ data_file: "{}" }} }} }}',
    ],
)
def test_a_config_names_no_file_outside_its_folder(tmp_path: Path, field: str, path: str) -> None:
    """Triton would open it, and answer clients with the lines of a label file, whoever is trusted."""
    for format_, file in (("triton", "1/model.py"), ("python", "model.py")):
        config = f'backend: "python"\n{field.format(path)}'
        with pytest.raises(ArtifactError, match=r"m 1: config\.pbtxt: .* leads out of the model's folder"):
            laid_out(tmp_path / format_, {"config.pbtxt": config, file: ""}, format_)


ONNX = 'backend: "onnxruntime"\n'
ACCELERATED = (
    'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" '
    'parameters { key: "trt_engine_cache_path" value: "../../other" } } } }'
)


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ('backend: "vllm"', "model.json"),
        ('backend: "dali"', "model.dali"),
        ('backend: "own"', "weights"),
        ('platform: "tensorflow_savedmodel"', "model.savedmodel/saved_model.pb"),
        ("", "model.graphdef"),
        ('backend: "pytorch" default_model_filename: "weights.bin"', "weights.bin"),
        ('platform: "pytorch_libtorch" default_model_filename: "weights.bin"', "weights.bin"),
        ('platform: "torch_aoti"', "model.pt2"),
        (f'{ONNX}parameters {{ key: "cache" value {{ string_value: "/var/lib" }} }}', "model.onnx"),
        (ONNX + ACCELERATED, "model.onnx"),
    ],
)
def test_only_graphs_come_from_elsewhere_without_leave(tmp_path: Path, config: str, file: str) -> None:
    """Whatever their files are called: a backend that is not known to be harmless is not."""
    files: dict[str, str | bytes] = {"config.pbtxt": config, f"1/{file}": b"x"}
    with pytest.raises(ArtifactRefused, match=r"artifacts\.code"):
        brought(tmp_path / "a", files, ArtifactSettings())
    brought(tmp_path / "b", files, ALLOWED)


def test_graphs_come_from_elsewhere_without_leave(tmp_path: Path) -> None:
    """With parameters that are no paths."""
    config = f'{ONNX}parameters {{ key: "intra_op_thread_count" value {{ string_value: "2" }} }}'
    brought(tmp_path, {"config.pbtxt": config, "1/model.onnx": b"x"}, ArtifactSettings())


def test_a_saved_model_from_elsewhere_needs_leave(tmp_path: Path) -> None:
    """Its graph may write files."""
    with pytest.raises(ArtifactRefused, match=r"native code.*artifacts\.code"):
        brought(tmp_path, {"saved_model.pb": b"g"}, ArtifactSettings(), "savedmodel")


def brought(
    folder: Path, files: Mapping[str, str | bytes], settings: ArtifactSettings, format_: str = "triton"
) -> None:
    """Lay out what a registry on another machine tells of."""
    source = write(folder / "source", files)
    allowed = replace(settings, allow=Allow(files=(folder,)))
    fetcher = Fetcher(allowed, origins=lambda _: Origin("mlflow", uri="https://mlflow.example"))
    repository = TritonRepository(folder / "repository", fetcher)
    asyncio.run(repository.put(version_of(source, format_), NAME))


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        ([(-1, 4)], True),
        ([(-1, 1), (-1,)], True),
        ([(-1, 2), (-1, 2)], False),
        ([(-1, 1, 1), (-1, 1)], False),
    ],
)
def test_an_estimator_takes_a_matrix_or_columns(
    tmp_path: Path, shapes: list[tuple[int, ...]], fits: bool
) -> None:
    """Wider inputs side by side would be taken for more rows."""
    inputs = tuple(TensorSpec(f"x{at}", "FP64", shape) for at, shape in enumerate(shapes))
    contract = Contract(inputs, CONTRACT.outputs)
    if not fits:
        with pytest.raises(ArtifactError, match=r"m 1: input 'x0' of shape .* is no column .*one matrix"):
            laid_out(tmp_path, {"e.joblib": b""}, "sklearn", contract=contract)
        return
    made = laid_out(tmp_path, {"e.joblib": b""}, "sklearn", contract=contract)
    assert ("columns" in config_of(made).parameters) == (len(shapes) > 1)


def test_a_program_of_torch_export_is_no_torchscript(tmp_path: Path) -> None:
    """Although both are called PyTorch."""
    with pytest.raises(UnsupportedFormat, match=r"m 1: model\.pt2 is a program that torch\.export wrote"):
        laid_out(tmp_path, {"model.pt2": archive("version")}, "torchscript")
