"""Packaging: passes/ and schedules/ lie outside of tvm_sparse/, which has its traps."""

import importlib.metadata
import pydoc
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import tvm_sparse

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = CONFIG["tool"]["setuptools"]["package-dir"]


def in_a_fresh_process(script, **options):
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, **options
    )
    return result.stdout.strip()


def modules():
    """Return the path of every module of ours, as it is called inside of a wheel, and here."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}": path.relative_to(ROOT)
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def test_every_folder_with_an_init_is_a_listed_package():
    found = {
        name.removesuffix("/__init__.py").replace("/", ".")
        for name in modules()
        if name.endswith("/__init__.py")
    }
    assert found == set(CONFIG["tool"]["setuptools"]["packages"])


def test_every_module_lies_in_a_package():
    for top in ("tvm_sparse", "passes", "schedules"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_modules_have_one_name():
    script = (
        "import sys, tvm_sparse.passes.pipeline, tvm_sparse.schedules, tvm_sparse.compiler\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('passes', 'schedules')])"
    )
    assert in_a_fresh_process(script, cwd=ROOT) == "[]"


def test_not_installed_says_what_to_do():
    """Python finds tvm_sparse/ in the current folder, but not what is mapped into it."""
    command = [sys.executable, "-S", "-c", "import tvm_sparse"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "ImportError: tvm_sparse is not installed" in result.stderr
    assert "pip install -e ." in result.stderr


def test_importing_tvm_registers_the_pipeline():
    script = "import tvm; print(tvm.relax.get_pipeline('tvm_sparse').info.name)"
    assert in_a_fresh_process(script, cwd="/") == "tvm_sparse"


def test_importing_tvm_imports_none_of_our_passes():
    script = "import sys, tvm; print('tvm_sparse.passes.pipeline' in sys.modules)"
    assert in_a_fresh_process(script, cwd="/") == "False"


def test_the_autoload_hook_does_nothing_on_a_machine_without_the_compiler(monkeypatch):
    import tvm

    from tvm_sparse import autoload

    def refuse(name):
        raise AssertionError("registered")

    monkeypatch.setattr(tvm.base, "_RUNTIME_ONLY", True)
    monkeypatch.setattr(tvm.relax, "register_pipeline", refuse)
    autoload.register()


def test_importing_the_package_waits_for_nothing():
    script = "import sys, tvm_sparse; print('tvm' in sys.modules)"
    assert in_a_fresh_process(script) == "False"


def test_the_public_names_exist():
    for name in tvm_sparse.__all__:
        assert getattr(tvm_sparse, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tvm_sparse.nonsense


def test_version():
    assert tvm_sparse.__version__ == importlib.metadata.version("tvm-sparse")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel and an sdist of a copy of the sources, built without a network."""
    folder = tmp_path_factory.mktemp("build")
    tracked = ["tvm_sparse", "passes", "schedules", "pyproject.toml", "README.md", "LICENSE"]
    for name in tracked:
        subprocess.run(["cp", "-r", ROOT / name, folder], check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", folder]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (wheel,), (sdist,) = (folder.glob(f"dist/*{suffix}") for suffix in (".whl", ".tar.gz"))
    return wheel, sdist


def test_the_wheel_is_complete(distributions):
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
        points = wheel.read(next(name for name in names if name.endswith("entry_points.txt")))
    assert {name for name in names if name.endswith(".py")} == set(modules())
    assert "tvm_sparse/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert b"tvm_sparse = tvm_sparse.autoload:register" in points
    assert b"tvm-sparse = tvm_sparse.cli.entry:main" in points


def test_the_sdist_is_complete(distributions):
    with tarfile.open(distributions[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    expected = {str(path) for path in modules().values()}
    assert expected | {"pyproject.toml", "README.md", "LICENSE", "tvm_sparse/py.typed"} <= names


def test_help_shows_what_is_imported_late():
    assert {"compile", "load", "Engine"} <= {*dir(tvm_sparse)}
    assert "compile(model" in pydoc.plain(pydoc.render_doc(tvm_sparse))


def test_the_citation_names_this_version():
    assert f"\nversion: {tvm_sparse.__version__}\n" in (ROOT / "CITATION.cff").read_text()
