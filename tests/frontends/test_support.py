"""The table of operators in the docs is the one that the converters make."""

from pathlib import Path

from tvm_sparse.frontends.converters.support import LIMITS, markdown, rows
from tvm_sparse.frontends.converters.table import OURS

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_page_agrees():
    assert PAGE.read_text() == markdown()


def test_every_converter_of_ours_is_listed():
    by = {row.operator: row.by for row in rows()}
    assert {name for name in OURS if by[name] != "ours"} == set()
    assert set(LIMITS) <= {*OURS, "Loop", "Scan"}
    assert by["LSTM"] == "ours"
    assert by["Celu"] == "written out"
    assert by["MatMul"] == "TVM"
    assert by["DeformConv"] == "ONNX Runtime"
