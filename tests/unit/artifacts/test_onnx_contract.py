"""What an ONNX file says it takes and gives, in a process of its own whose memory is looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LOOK = """
import resource, sys
from pathlib import Path
from router.artifacts.onnx_contract import contract_of_onnx
import onnxruntime
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(contract_of_onnx(Path(sys.argv[1])).inputs[0].name)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_constant_without_measure_is_not_computed(tmp_path: Path) -> None:
    """A hundred bytes that say four hundred million: nothing of an artifact is run to look at it."""
    from onnx import TensorProto, helper, numpy_helper

    many = numpy_helper.from_array(np.array([100_000_000], np.int64), "many")
    one = numpy_helper.from_array(np.array([1.5], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["w"], value=one),
        helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [many])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file = tmp_path / "model.onnx"
    file.write_bytes(made.SerializeToString())

    looked = subprocess.run(
        [sys.executable, "-c", LOOK, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    name, kilobytes = looked.stdout.split()
    assert name == "x"
    assert int(kilobytes) < 100_000
