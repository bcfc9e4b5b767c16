import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
import half_precision
import numpy as np

from tvm_sparse.cpu.profile import native
from tvm_sparse.dtypes import DType
from tvm_sparse.testing.models import write_mlp


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
def test_a_network_runs_in_both_precisions_in_turns(tmp_path, capsys):
    path, inputs = write_mlp(tmp_path / "mlp.onnx"), {"x": np.ones((1, 64, 32), np.float32)}
    engines = half_precision.compiled(path, inputs, 1, {"x": (1, 64, 32)})
    assert [engine.info.precision for engine in engines] == [DType.FLOAT32, DType.FLOAT16]
    times = half_precision.fastest(engines, inputs, rounds=2, seconds=1e-3)
    assert len(times) == 2 and all(0 < seconds < 1 for seconds in times)
    half_precision._row(50, [2e-3, 1e-3], engines[1], "1e-5")
    assert capsys.readouterr().out == "| 50 % | 2.00 | 1.00 | 2.00x | 1e-5 | 0 |\n"
