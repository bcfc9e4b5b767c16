"""The pages: their links lead somewhere, and the README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target = (page.parent / link).resolve()
        if target.parent == ROOT / "docs" / "tutorials":  # made of the scripts in tutorials/
            target = ROOT / "tutorials" / f"{target.stem}.py"
        assert target.exists(), link


def test_the_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    """A path in backquotes, such as ``passes/pipeline.py``, names a file or folder of ours."""
    folders = "|".join(["tvm_sparse", "passes", "schedules", "benchmarks", "tests", "docs"])
    text = page.read_text(encoding="utf-8")
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        if name != "docs/_build":
            assert (ROOT / name).exists(), name
