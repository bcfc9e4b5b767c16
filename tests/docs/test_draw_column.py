"""The picture of a tensor column: the script draws the committed file, and draws it right."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "draw_column.py"))


def test_the_committed_picture_is_the_one_that_the_script_draws(script):
    committed = (DOCS / "images" / "tensor_column.svg").read_text(encoding="utf-8")
    assert committed == script["draw"]()


def test_the_halo_grows_by_a_row_with_every_convolution_before_the_last(script):
    kinds = dict(zip(script["LAYERS"], script["kinds"](), strict=True))
    first_rows = {name: 14 - len([k for k in rows if k != "above"]) for name, rows in kinds.items()}
    assert first_rows == {"input": 3, "conv 1": 4, "conv 2": 5, "conv 3": 6}


def test_a_step_computes_as_many_rows_of_every_stage_as_it_has(script):
    kinds = dict(zip(script["LAYERS"], script["kinds"](), strict=True))
    assert [i for i, kind in enumerate(kinds["conv 3"]) if kind == "new"] == [8, 9]
    assert [i for i, kind in enumerate(kinds["conv 2"]) if kind == "new"] == [9, 10]
    assert [i for i, kind in enumerate(kinds["conv 2"]) if kind == "carried"] == [7, 8]
    assert [i for i, kind in enumerate(kinds["conv 1"]) if kind == "carried"] == [8, 9]
