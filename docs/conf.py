"""How Sphinx builds these pages; `make docs` calls it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The link tree of `make link-tree`: the whole package in one folder, as it is installed.
sys.path.insert(0, str(ROOT / ".typecheck"))

from tvm_sparse.version import __version__  # noqa: E402

project = "tvm-sparse"
copyright = "The tvm-sparse contributors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/GALLERY_HEADER.rst", "sg_execution_times.rst"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"tvm-sparse {version}"

# Docstrings write `name` for code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
suppress_warnings = ["ref.python"]  # a type such as `Measurement` may name several classes
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "../tutorials",
    "gallery_dirs": "tutorials",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": False,  # the tests run the tutorials
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "show_memory": False,
    "remove_config_comments": True,
}
