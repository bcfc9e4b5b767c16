"""DeepSparse's interface: the same names, keywords, orders and errors."""

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.compat.deepsparse import (
    BenchmarkResults,
    Context,
    Engine,
    MultiModelEngine,
    Scheduler,
    benchmark_model,
    compile_model,
    cpu,
    utils,
)
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.testing.models import onnxruntime_outputs, write_mlp


@pytest.fixture(scope="module")
def engine(model):
    return compile_model(model, batch_size=4, num_cores=1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


class TestRuns:
    def test_lists_go_in_and_come_out_in_the_order_of_the_file(self, engine, inputs, expected):
        for outputs in (engine(inputs), engine.run(inputs), engine.timed_run(inputs)[0]):
            assert isinstance(outputs, list)
            for output, name in zip(outputs, ("out", "h"), strict=True):
                close(output, expected[name])
        assert engine.timed_run(inputs)[1] > 0

    def test_mapped_run(self, engine, inputs, expected):
        outputs = engine.mapped_run(inputs)
        assert list(outputs) == ["out", "h"]
        close(outputs["h"], expected["h"])

    @pytest.mark.parametrize("items", [1, 4, 7])
    def test_batched_run_takes_any_number_of_items(self, engine, inputs, expected, items):
        many = [np.concatenate([array, array])[:items] for array in inputs]
        outputs = engine.batched_run(many)
        for output, name in zip(outputs, ("out", "h"), strict=True):
            close(output, np.concatenate([expected[name]] * 2)[:items])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (tuple, "must be a list"),
            (lambda arrays: [arrays[0][:2], arrays[1]], "none of batch_size 4"),
            (lambda arrays: [np.asfortranarray(arrays[0]), arrays[1]], "not C-contiguous"),
            (lambda arrays: [arrays[0].astype("float64"), arrays[1]], "expected dtype float32"),
            (lambda arrays: arrays[:1], "expected 2 inputs"),
            (lambda arrays: [arrays[0].tolist(), arrays[1]], "not an array, but list"),
        ],
    )
    def test_inputs_that_are_none_are_value_errors(self, engine, inputs, change, message):
        with pytest.raises(ValueError, match=message):
            engine.run(change(inputs))

    def test_random_inputs_fit(self, engine):
        inputs = engine.generate_random_inputs()
        assert [array.shape for array in inputs] == [(4, 64), (4, 48)]
        assert engine.run(inputs)[0].shape == (4, 96)


class TestShapes:
    def test_another_batch_than_the_file_has(self, model, inputs, expected):
        content = model.read_bytes()
        engine = Engine(model, batch_size=2, num_cores=1)
        outputs = engine.run([np.ascontiguousarray(array[1:3]) for array in inputs])
        close(outputs[0], expected["out"][1:3])
        assert engine.input_shapes == [(2, 64), (2, 48)]
        assert model.read_bytes() == content

    def test_without_a_batch_the_files_own(self, model):
        engine = Engine(model, batch_size=None, num_cores=1)
        assert (engine.batch_size, engine.input_shapes[0]) == (None, (4, 64))

    def test_input_shapes(self, tmp_path):
        path = write_mlp(tmp_path / "mlp.onnx")
        engine = Engine(path, batch_size=1, num_cores=1, input_shapes=[[1, 20, 32]])
        (x,) = engine.generate_random_inputs()
        close(engine.run([x])[0], onnxruntime_outputs(path, {"x": x})["y"])
        with pytest.raises(InputError, match=r"dimension 1 .* give input_shapes, such as \[\[1, "):
            Engine(path)
        with pytest.raises(InputError, match="the model has 3 dimensions"):
            Engine(path, input_shapes=[[1, 20]])
        with pytest.raises(InputError, match="has 2 shapes, and the model has 1 inputs: 'x'"):
            Engine(path, input_shapes=[[1, 20, 32], [1, 20, 32]])

    def test_a_compiled_library(self, model, inputs, expected, tmp_path):
        tvm_sparse.compile(model, threads=1).save(tmp_path / "m.so")
        engine = Engine(tmp_path / "m.so", batch_size=4, num_cores=1)
        close(engine.run(inputs)[0], expected["out"])
        assert engine.fraction_of_supported_ops == 1.0
        assert engine.generate_random_inputs()[0].shape == (4, 64)
        with pytest.raises(InputError, match="compiled for a batch of 4, and batch_size is 1"):
            Engine(tmp_path / "m.so", num_cores=1)

    @pytest.mark.parametrize("name", ["zoo:cv/x", "hf:org/x", "none.onnx"])
    def test_models_that_are_not_there(self, name):
        with pytest.raises(ModelError, match=name):
            Engine(name)


class TestProperties:
    def test_documented_properties(self, engine, model):
        assert engine.model_path == str(model)
        assert (engine.batch_size, engine.num_cores, engine.num_streams) == (4, 1, 1)
        assert engine.scheduler is Scheduler.default
        assert engine.fraction_of_supported_ops == 1.0
        assert (engine.input_names, engine.output_names) == (["b", "a"], ["out", "h"])
        assert engine.output_shapes == [(4, 96), (4, 96)]
        assert engine.cpu_avx_type in cpu.VALID_VECTOR_EXTENSIONS
        assert engine.cpu_vnni == cpu.cpu_vnni_compatible()
        for line in (f"onnx_file_path: {model}", "scheduler: Scheduler.default", "batch_size: 4"):
            assert line in str(engine)

    def test_nodes_that_fall_back_are_counted(self, tmp_path):
        from onnx.helper import make_node

        from tvm_sparse.testing.models import write_onnx

        nodes = [make_node("Det", ["x"], ["d"]), make_node("Relu", ["x"], ["y"])]
        path = write_onnx(tmp_path / "d.onnx", nodes, {"x": [3, 3]}, ["d", "y"], {})
        assert Engine(path, batch_size=None, num_cores=1).fraction_of_supported_ops == 0.5

    def test_schedulers(self):
        assert Scheduler.single_stream is Scheduler.default
        assert Scheduler.multi_stream == "multi_stream"
        assert Scheduler.from_str("async") is Scheduler.multi_stream
        assert Scheduler.from_str("sync") is Scheduler.default
        with pytest.raises(ValueError, match="unknown scheduler 'fast'"):
            Scheduler.from_str("fast")

    def test_a_cache_is_refused(self, model):
        with pytest.raises(InputError, match="cached_outputs"):
            Engine(model, cached_outputs=[True])


class TestStreams:
    def test_requests_at_once(self, model, inputs, expected):
        engine = compile_model(
            model, batch_size=4, num_cores=2, num_streams=2, scheduler=Scheduler.multi_stream
        )
        assert (engine.num_streams, engine.num_cores, engine.scheduler) == (2, 2, "multi_stream")
        found = []

        def request():
            for _ in range(5):
                found.append(engine.run(inputs))

        threads = [threading.Thread(target=request) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        for outputs in found:
            close(outputs[0], expected["out"])

    def test_defaults(self, model):
        one = compile_model(model, batch_size=4, scheduler="single_stream", num_streams=4)
        assert one.num_streams == 1
        assert compile_model(model, 4, num_cores=2, scheduler="elastic").num_streams == 2
        assert compile_model(model, 4, num_cores=2, num_streams=2).scheduler == "multi_stream"
        with pytest.raises(InputError, match="streams must be at least 1"):
            compile_model(model, num_streams=0)

    def test_models_that_share_the_cores(self, model, inputs, expected):
        context = Context(num_cores=1, num_streams=1)
        assert (context.num_cores, context.num_streams) == (1, 1)
        assert context.scheduler is Scheduler.elastic
        engines = [MultiModelEngine(model, 4, context) for _ in range(2)]
        for engine in engines:
            close(engine(inputs)[0], expected["out"])
        context.value.acquire()
        late = threading.Thread(target=engines[0].run, args=(inputs,))
        late.start()
        late.join(0.2)
        assert late.is_alive()  # the cores are not free
        context.value.release()
        late.join(30)
        assert not late.is_alive()
        assert Context().num_cores == usable_cores()


class TestBenchmarks:
    def test_results_of_an_engine(self, engine, inputs):
        results = engine.benchmark(inputs, 6, 2, include_inputs=True, include_outputs=True)
        assert isinstance(results, BenchmarkResults)
        assert (len(results), results.num_batches, results.num_items) == (6, 6, 24)
        assert results.ms_per_batch == pytest.approx(4 * results.ms_per_item)
        assert results.items_per_second == pytest.approx(4 * results.batches_per_second)
        assert results.inputs[0] == inputs
        assert results.outputs[5][0].shape == (4, 96)
        assert results[0].items_per_second == pytest.approx(4000 / results[0].ms_per_batch)
        assert "batch_times_mean" in repr(results)

    def test_batches_of_a_loader(self, engine, inputs):
        loader = [inputs, engine.generate_random_inputs()]
        results = engine.benchmark_loader(loader, num_iterations=3, include_inputs=True)
        assert [kept[0] is loader[i % 2][0] for i, kept in enumerate(results.inputs)] == [True] * 3

    @pytest.mark.parametrize("scenario", ["sync", "async", "elastic"])
    def test_benchmark_model(self, model, scenario, tmp_path):
        result = benchmark_model(
            model, 4, num_cores=2, scenario=scenario, time=0.05, warmup_time=0,
            export_path=tmp_path / "x.json",
        )  # fmt: skip
        assert result["scenario"] == scenario
        assert result["num_streams"] == (1 if scenario == "sync" else 2)
        found = result["benchmark_result"]
        assert found["items_per_sec"] == pytest.approx(
            4 * found["iterations"] / found["seconds_ran"]
        )
        assert found["50.0%"] == found["median"]
        assert set(result) == {
            "engine", "version", "orig_model_path", "model_path", "batch_size", "input_shapes",
            "num_cores", "scenario", "scheduler", "seconds_to_run", "num_streams",
            "fraction_of_supported_ops", "benchmark_result",
        }  # fmt: skip
        assert list(found) == [
            "scenario", "items_per_sec", "seconds_ran", "iterations", "median", "mean", "std",
            *(f"{share}%" for share in (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)),
        ]  # fmt: skip

    def test_other_engines(self, model, tmp_path):
        peer = tmp_path / "mine.py"
        peer.write_text(
            "class Mine:\n"
            "    def __init__(self, model, batch_size, **others):\n"
            "        self.model_path, self.num_cores, self.num_streams = model, 1, 1\n"
            "    def generate_random_inputs(self): return []\n"
            "    def run(self, inputs): return []\n"
        )
        for name in ("onnxruntime", f"{peer}:Mine"):
            result = benchmark_model(model, 4, engine=name, time=0.01, warmup_time=0)
            assert result["engine"] == name
        with pytest.raises(ValueError, match="has no class 'Yours'"):
            benchmark_model(model, 4, engine=f"{peer}:Yours")
        with pytest.raises(ValueError, match="unknown engine 'tensorrt'"):
            benchmark_model(model, 4, engine="tensorrt")

    @pytest.mark.parametrize(
        "argument",
        [{"time": -1}, {"scenario": "x"}, {"thread_pinning": "x"}, {"num_kv_cache_tokens": 2},
         {"input_shapes": "[1,"}],
    )  # fmt: skip
    def test_arguments_that_are_none(self, model, argument):
        with pytest.raises(InputError):
            benchmark_model(model, 4, **argument)


class TestUtils:
    def test_names_and_inputs_of_a_file(self, model):
        assert utils.get_input_names(model) == ["b", "a"]
        assert utils.get_output_names(model) == ["out", "h"]
        assert utils.generate_random_inputs(model, 3)[1].shape == (3, 48)
        assert utils.model_to_path(model) == str(model)

    def test_copies_with_other_shapes(self, model, inputs, expected):
        with utils.override_onnx_batch_size(model, 1) as path:
            outputs = onnxruntime_outputs(
                Path(path), dict(zip(("b", "a"), [array[:1] for array in inputs], strict=True))
            )
        close(outputs["out"], expected["out"][:1])
        with utils.override_onnx_input_shapes(model, [[2, 64], [2, 48]]) as path:
            shapes = onnx.load(path).graph.input[1].type.tensor_type.shape
            assert [dimension.dim_value for dimension in shapes.dim] == [2, 48]

    @pytest.mark.parametrize(
        ("text", "shapes"),
        [("", None), ("[1,128]", [[1, 128]]), ("[1,3,8,8], [2]", [[1, 3, 8, 8], [2]]),
         ("[[1,2],[3]]", [[1, 2], [3]])],
    )  # fmt: skip
    def test_shapes_in_a_text(self, text, shapes):
        assert utils.parse_input_shapes(text) == shapes

    @pytest.mark.parametrize("text", ["1,2", "[1,x]", "[0]", "[1.5]", "hello"])
    def test_texts_that_are_no_shapes(self, text):
        with pytest.raises(InputError, match="are not like"):
            utils.parse_input_shapes(text)

    def test_outputs_are_compared(self):
        ones = np.ones(3, "float32")
        assert utils.verify_outputs([ones], [ones]) == [0.0]
        for others in ([ones + 1], [ones[:2]], []):
            with pytest.raises(ValueError, match="output"):
                utils.verify_outputs([ones], others)
