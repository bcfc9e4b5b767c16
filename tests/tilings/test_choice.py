"""Sparse or dense, and the sentence that says why."""

from tvm_sparse.cpu.profile import profile
from tvm_sparse.cpu.rates import LAUNCH_CYCLES
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import choose
from tvm_sparse.tilings.families import sparse_or_dense
from tvm_sparse.tilings.layer import Layer

CPU = profile("haswell")
BERT = Linear(8, 16, 768, 768)


def test_tiny_layers_stay_dense():
    choice = sparse_or_dense(Layer(Linear(1, 16, 16, 16), 0.05), CPU)
    assert not choice.sparse
    assert "too small" in choice.reason


def test_reason_names_the_zeros_and_the_gain():
    assert "95% zeros: " in sparse_or_dense(Layer(BERT, 0.05), CPU).reason
    assert "x faster" in sparse_or_dense(Layer(BERT, 0.05), CPU).reason
    assert "x slower" in sparse_or_dense(Layer(BERT, 0.95), CPU).reason


def test_a_kernel_without_work_is_chosen():
    choice = choose(0.0, 0.0, 1e6)
    assert choice.sparse
    assert choice.reason == "100% zeros: a sparse kernel has no work"


def test_a_gain_must_be_worth_the_start_of_a_loop():
    assert choose(0.5, 1e6, 1e6 + LAUNCH_CYCLES).sparse
    words = choose(0.2, 1e6, 2e6, word_density=0.6).reason
    assert words == "80% zeros (40% of the words of integers): 2.0x faster sparse"
    assert not choose(0.5, 1e6, 1e6 + LAUNCH_CYCLES - 1).sparse


def test_more_zeros_are_never_slower():
    cpu = profile("skylake-avx512")
    layers = [Layer(Linear(4, 32, 768, 768), density / 20) for density in range(21)]
    cycles = [sparse_or_dense(layer, cpu).sparse_cycles for layer in layers]
    assert cycles == sorted(cycles)
