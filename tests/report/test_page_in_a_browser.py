"""The page of a model in a real browser: it sorts, has tabs, fits a phone and asks for nothing."""

import shutil
import subprocess

import pytest

from tvm_sparse.report.analysis import analyze
from tvm_sparse.report.imposed import impose
from tvm_sparse.report.page import render
from tvm_sparse.testing.models import write_mlp

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

REPORT = """
<script>
const headers = [...document.querySelectorAll("table.sorted th")].map(th => th.textContent);
const column = headers.indexOf("expected, by itself");
const first = () => document.querySelector("table.sorted tbody tr").cells[0].textContent;
const fits = () => document.documentElement.scrollWidth <= innerWidth;
const model_fits = fits();
document.querySelectorAll("table.sorted th")[column].click();
const slowest = first();
document.querySelectorAll("table.sorted th")[column].click();
const fastest = first();
document.getElementById("tab-1").click();
const shown = [0, 1].map(i => getComputedStyle(document.querySelector(".tab-" + i)).display);
const requests = performance.getEntriesByType("resource").length;
document.body.innerHTML = "<p id=report>" + [slowest, fastest, shown.join(), requests,
  model_fits && fits()].join("|") + "</p>";
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    model = write_mlp(folder / "mlp.onnx")

    def look(path):
        return analyze(path, {"x": (1, 200, 32)}, threads=1, records=None)

    found = look(model)
    gains = impose(model, found, [0.95], look)
    path = folder / "page.html"
    path.write_text(render(found, None, gains).replace("</body>", f"{REPORT}</body>"))
    return path, found


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page, width, tmp_path):
    if BROWSER is None:
        pytest.skip("chromium is not installed")
    path, found = page
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         f"--user-data-dir={tmp_path}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    report = done.stdout.split('<p id="report">')[1].split("</p>")[0]
    slowest, fastest, shown, requests, fits = report.split("|")
    assert {slowest, fastest} == {layer.name for layer in found.layers}
    assert (shown, requests, fits) == ("none,block", "0", "true")
