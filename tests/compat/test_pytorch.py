"""``torch.compile`` and ``tvm_sparse.compile`` of modules of PyTorch."""

import logging
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.errors import InputError, ModelError

torch = pytest.importorskip("torch")
nn = torch.nn


def prune(module):
    """Set nine of ten weights of a module to zero, and return it in evaluation mode."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            kept = torch.rand_like(parameter) < 0.1
            parameter.data.copy_(torch.where(kept, torch.randn_like(parameter), 0))
    return module.eval()


@pytest.fixture
def backend():
    """The function that PyTorch finds by the entry point."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    home, name = project["entry-points"]["torch_dynamo_backends"]["tvm_sparse"].split(":")
    torch._dynamo.reset()
    return getattr(import_module(home), name)


@pytest.fixture
def mlp():
    return prune(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def assert_weights_are_known(engine):
    """Assert that the compiler saw two weights as constants, and their zeros."""
    densities = [layer.density for layer in engine.report.layers]
    assert densities == pytest.approx([0.1, 0.1], abs=0.05)


class TestCompile:
    def test_a_module(self, mlp):
        x = torch.randn(4, 64)
        engine = tvm_sparse.compile(mlp, (x,), threads=1)
        (output,) = engine.run([x]).values()
        close(output, mlp(x).numpy())
        assert_weights_are_known(engine)

    def test_arguments_by_name_and_several_outputs(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(64, 48)

            def forward(self, x, scale):
                y = self.layer(x) * scale
                return y, torch.relu(y)

        module = prune(Two())
        x, scale = torch.randn(8, 64), torch.randn(48)
        engine = tvm_sparse.compile(module, {"scale": scale, "x": x}, threads=1)
        assert {spec.name for spec in engine.inputs} == {"x", "scale"}
        outputs = engine.run({"x": x, "scale": scale}).values()
        for output, expected in zip(outputs, module(x, scale), strict=True):
            close(output, expected.numpy())

    def test_an_exported_program_keeps_its_dynamic_dimensions(self, mlp):
        rows = torch.export.Dim("rows", max=9)
        shapes = ({0: rows},)
        program = torch.export.export(mlp, (torch.randn(4, 64),), dynamic_shapes=shapes)
        engine = tvm_sparse.compile(program, hints={"input_0": 2}, threads=1)
        assert engine.inputs[0].shape == ("input_0", 64)
        for count in (1, 5, 9):
            x = torch.randn(count, 64)
            (output,) = engine.run([x]).values()
            close(output, mlp(x).numpy())
        assert_weights_are_known(engine)
        with pytest.raises(
            InputError, match="'input_0' is 10, and the library was compiled for up"
        ):
            engine.run([torch.randn(10, 64)])
        with pytest.raises(InputError, match="lets 'input_0' be up to 10"):
            tvm_sparse.compile(program, bounds={"input_0": 10})
        with pytest.raises(InputError, match="give no example inputs"):
            tvm_sparse.compile(program, (torch.randn(4, 64),))

    def test_an_image_network(self):
        module = prune(
            nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                nn.Flatten(), nn.Linear(32, 10),
            )
        )  # fmt: skip
        x = torch.randn(1, 3, 32, 32)
        (output,) = tvm_sparse.compile(module, (x,), threads=1).run([x]).values()
        close(output, module(x).numpy())

    def test_mistakes(self, mlp):
        with pytest.raises(InputError, match="give a tuple or a dict of tensors"):
            tvm_sparse.compile(mlp)
        with pytest.raises(InputError, match="give a tuple or a dict of tensors"):
            tvm_sparse.compile(mlp, {"x": (4, 64)})
        with pytest.raises(InputError, match="in training mode"):
            tvm_sparse.compile(mlp.train(), (torch.randn(4, 64),))

        class Branch(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(ModelError, match="Branch cannot be exported"):
            tvm_sparse.compile(Branch().eval(), (torch.randn(4),))


class TestBackend:
    def test_parameters_are_constants_and_dynamic_sizes_stay_open(self, mlp, backend):
        made = []

        def remember(graph, inputs, **options):
            made.append(backend(graph, inputs, options={"threads": 1}))
            return made[-1]

        compiled = torch.compile(mlp, backend=remember)
        for rows in (4, 2, 4, 7):
            x = torch.randn(rows, 64)
            close(compiled(x).numpy(), mlp(x).numpy())
        engines = [engine for graph in made for engine in graph._engines.values()]
        # PyTorch captures the graph again, for any number of rows.
        fixed, of_any = (engine.inputs[0].shape for engine in engines)
        assert fixed == (4, 64)
        assert isinstance(of_any[0], str)
        for engine in engines:
            assert_weights_are_known(engine)

    def test_one_library_for_all_dynamic_sizes(self, backend, caplog):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 48), nn.ReLU())
                self.scale = 0.5

            def forward(self, x, y):
                return (self.layers(x + y) * self.scale).view(-1, y.shape[1] * 48)

        made, module = [], prune(Scaled())

        def remember(graph, inputs):
            made.append(backend(graph, inputs, options={"threads": 1}))
            return made[-1]

        compiled = torch.compile(module, backend=remember, dynamic=True)
        with caplog.at_level(logging.WARNING, "tvm_sparse"):
            for rows, tokens in ((3, 7), (2, 20), (4, 5)):
                x, y = torch.randn(rows, tokens, 32), torch.randn(1, tokens, 32)
                close(compiled(x, y).numpy(), module(x, y).numpy())
        assert not caplog.records
        ((engine,),) = (graph._engines.values() for graph in made)
        assert [layer.density for layer in engine.report.layers] == pytest.approx([0.1], abs=0.05)

    def test_changed_parameters_are_seen(self, mlp, backend):
        compiled = torch.compile(mlp, backend=backend, options={"threads": 1})
        x = torch.randn(4, 64)
        compiled(x)
        mlp[0].weight.mul_(2)
        close(compiled(x).numpy(), mlp(x).numpy())

    def test_graph_breaks_stay_in_pytorch(self, mlp, backend):
        def function(x):
            y = mlp(x)
            if y.sum() > 1e9:
                return y
            return torch.tanh(y) * 2

        x = torch.randn(4, 64)
        compiled = torch.compile(function, backend=backend)
        close(compiled(x).numpy(), function(x).numpy())

    def test_what_cannot_be_compiled_runs_in_pytorch_with_a_warning(self, backend, caplog):
        def function(x):
            return torch.linalg.slogdet(x)[1] + 1

        x = torch.eye(3) * 2
        with caplog.at_level(logging.WARNING, "tvm_sparse"):
            found = torch.compile(function, backend=backend)(x)
        assert found == function(x)
        assert "PyTorch runs a graph of torch.compile, since" in caplog.text

    def test_gradients_come_from_pytorch(self, mlp, backend, caplog):
        compiled = torch.compile(mlp, backend=backend)
        with torch.enable_grad(), caplog.at_level(logging.WARNING, "tvm_sparse"):
            compiled(torch.randn(4, 64)).sum().backward()
        assert mlp[0].weight.grad is not None
        assert "gradients are asked for" in caplog.text

    def test_unknown_options(self, backend):
        with pytest.raises(InputError, match="unknown option 'speed'"):
            backend(None, [], options={"speed": 2})
