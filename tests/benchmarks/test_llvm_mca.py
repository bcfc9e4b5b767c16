import pytest
from llvm_mca import CORES, estimate, find_llvm_mca, inner_loop

from tvm_sparse.errors import ToolError
from tvm_sparse.testing.models import needs_tool

LOOPS = """
main:
	mov	x8, #0
.LBB0_1:                                // the outer loop
	fmla	v9.4s, v1.4s, v2.4s
.LBB0_2:
	ldr	q1, [x1], #16           // b.ne .LBB0_1
	fmla	v0.4s, v1.4s, v2.s[0]
	fmla	v3.4s, v1.4s, v2.s[1]
	.p2align	4
	subs	x2, x2, #1
	b.ne	.LBB0_2
	add	x8, x8, #1
	cbnz	x8, .LBB0_1
.LBB0_3:
	fmla	v0.4s, v1.4s, v2.4s
	tbnz	w3, #2, .LBB0_3
	b	.LBB0_4
.LBB0_4:
	ret
"""


@pytest.fixture
def llvm_mca():
    with needs_tool(ToolError):
        return find_llvm_mca()


@pytest.fixture
def search_path(tmp_path, monkeypatch):
    """An empty search path, and a function that puts a fake llvm-mca on it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    find_llvm_mca.cache_clear()

    def install(name, version):
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'Debian LLVM version {version}.0.6'\n")
        (tmp_path / name).chmod(0o755)

    yield install
    find_llvm_mca.cache_clear()


def test_the_innermost_loop_with_most_multiply_adds_is_found():
    loop = inner_loop(LOOPS)
    assert [line.split()[0] for line in loop] == ["ldr", "fmla", "fmla", "subs", "b.ne"]
    assert inner_loop(LOOPS, "tbnz")[0].startswith("fmla")


def test_code_without_such_a_loop_is_refused():
    with pytest.raises(ValueError, match="no loop with fadd"):
        inner_loop(LOOPS, "fadd")


def accumulators(count):
    """Return a loop whose multiply-adds have `count` independent sums."""
    sums = [f"fmla\tv{8 + i % count}.4s, v0.4s, v1.s[0]" for i in range(16)]
    return [*sums, "subs\tx2, x2, #1", "b.ne\t.LBB0_8"]


@pytest.mark.parametrize("core", ["cortex-a72", "neoverse-n1"])
def test_independent_sums_reach_the_bound_and_one_sum_does_not(core, llvm_mca):
    many, one = estimate(accumulators(16), core), estimate(accumulators(1), core)
    assert many.multiply_adds == one.multiply_adds == 16
    assert many.fma_cycles == one.fma_cycles
    assert many.share > 0.95
    assert one.share < 0.5


def test_dot_products_of_bytes_are_counted(llvm_mca):
    sums = [f"sdot\tv{8 + i}.4s, v0.16b, v1.4b[0]" for i in range(16)]
    found = estimate([*sums, *accumulators(1)], "neoverse-n1", "sdot")
    assert (found.multiply_adds, found.fma_cycles) == (16, 8)


def test_the_decoder_is_a_bound(llvm_mca):
    loop = [*["nop"] * 100, *accumulators(16)]
    for core, model in CORES.items():
        assert estimate(loop, core).resource_cycles >= 118 / model.decode


def test_code_that_is_not_understood(llvm_mca):
    with pytest.raises(ToolError, match=r"llvm-mca failed: .* error: "):
        estimate(["vfmadd231ps\t%ymm0, %ymm1, %ymm2"], "cortex-a72")


def test_missing_and_old_tools_are_named(search_path):
    with pytest.raises(ToolError, match=r"llvm-mca is not on the search path; install .*apt-get"):
        find_llvm_mca()
    search_path("llvm-mca", 14)
    with pytest.raises(ToolError, match="is of LLVM 14, too old; install"):
        find_llvm_mca()


def test_the_newest_tool_is_taken(search_path):
    search_path("llvm-mca", 14)
    search_path("llvm-mca-18", 18)
    search_path("llvm-mca-19", 19)
    assert find_llvm_mca().endswith("llvm-mca-19")
