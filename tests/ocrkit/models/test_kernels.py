import ast
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.data.read_rows import drawn_rows
from ocrkit.errors import ModelError
from ocrkit.models.kernels import (
    compiler_error,
    convert_patch_embedding,
    try_kernels,
    turn_off_compilation,
)
from ocrkit.models.load import _load_with_transformers, _read_one_line, load_model
from ocrkit.models.read import predict
from ocrkit.training.probe import try_step
from ocrkit.training.train import make_trainer


@pytest.fixture
def compiling(monkeypatch):
    """Allow compilation, and restore it after the test."""
    monkeypatch.setenv("UNSLOTH_COMPILE_DISABLE", "0")
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


def _broken(graph, inputs):
    """torch.compile backend of a GPU on which nothing compiles."""
    raise RuntimeError("no kernel image is available for execution on the device")


def _triton_error() -> Exception:
    errors = pytest.importorskip("triton.compiler.errors")
    node = ast.parse("a = b").body[0]
    return errors.CompilationError("a = b", node, "ptxas: unsupported sm_75 feature")


def _raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def _attempt(training, model, processor, config):
    return lambda: (try_step if training else _read_one_line)(model, processor, config)


def test_compiler_errors_are_distinguished_from_other_errors():
    inner = RuntimeError("no image\nmore")
    message = compiler_error(BackendCompilerFailed(_broken, inner, first_useful_frame=None))
    assert message == "RuntimeError: no image"
    message = compiler_error(InductorError(inner, first_useful_frame=None))
    assert message == "RuntimeError: no image"
    message = compiler_error(_raised(RuntimeError("a step failed"), _triton_error()))
    assert message == "CompilationError: ptxas: unsupported sm_75 feature"
    assert compiler_error(ValueError("a shape")) is None
    assert compiler_error(_raised(RuntimeError("memory"), ValueError("a shape"))) is None


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_that_does_not_compile_runs_in_eager_mode(training, config, compiling, capsys):
    model, processor = load_model(config)
    rows = drawn_rows(2)
    texts = predict(model, processor, rows, config)
    tower = model.get_base_model().model.visual
    tower.forward = torch.compile(tower.forward, backend=_broken, fullgraph=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    random = torch.get_rng_state()
    capsys.readouterr()

    try_kernels(_attempt(training, model, processor, config))

    printed = capsys.readouterr().out
    assert "does not compile on this machine (RuntimeError: no kernel image" in printed
    assert "compilation is turned off" in printed and printed.count("\n") == 1
    # Unsloth compiles nothing that it loads from now on.
    assert os.environ["UNSLOTH_COMPILE_DISABLE"] == "1"
    assert predict(model, processor, rows, config) == texts
    assert torch.equal(torch.get_rng_state(), random)
    for name, weight in model.named_parameters():
        assert torch.equal(before[name], weight) and weight.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_that_fails_in_eager_mode_too_is_an_error(training, config, compiling, capsys):
    model, processor = load_model(config)

    def forward(*args, **kwargs):
        raise _triton_error()

    model.get_base_model().model.visual.forward = forward
    with pytest.raises(ModelError, match="start a new one with backend=transformers") as raised:
        try_kernels(_attempt(training, model, processor, config))
    assert "\n" not in str(raised.value)
    assert "compilation is turned off" in capsys.readouterr().out


def test_other_errors_pass_through(config, compiling):
    model, processor = load_model(config)

    def forward(*args, **kwargs):
        raise ValueError("shapes do not match")

    model.get_base_model().model.visual.forward = forward
    with pytest.raises(ValueError, match="shapes do not match"):
        try_kernels(_attempt(False, model, processor, config))


def test_kernels_that_compile_change_nothing(config, compiling, capsys):
    model, processor = load_model(config)
    capsys.readouterr()
    try_kernels(_attempt(False, model, processor, config))
    try_kernels(_attempt(True, model, processor, config))
    assert capsys.readouterr().out == "" and os.environ["UNSLOTH_COMPILE_DISABLE"] == "0"


def test_unsloth_modes_leave_compilation_off(compiling, monkeypatch):
    vision = SimpleNamespace(torch_compiler_set_stance=torch.compiler.set_stance)
    monkeypatch.setitem(sys.modules, "unsloth.models.vision", vision)
    turn_off_compilation()
    # for_inference and for_training set the stance wherever this name is not None.
    assert vision.torch_compiler_set_stance is None


def test_out_of_memory_in_the_trial_step_is_left_to_the_run(config, monkeypatch, capsys):
    model, processor = load_model(config)

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("ocrkit.training.probe.probe_step", full)
    capsys.readouterr()
    try_kernels(_attempt(True, model, processor, config))
    assert capsys.readouterr().out == ""


def test_kernels_of_unsloth_models_alone_are_tried(config, monkeypatch):
    tried = []
    monkeypatch.setattr("ocrkit.models.load.try_kernels", lambda attempt: tried.append("read"))
    # `ocrkit.train` is the function, not the package.
    train_module = sys.modules["ocrkit.training.train"]
    monkeypatch.setattr(train_module, "try_kernels", lambda attempt: tried.append("step"))
    model, processor = load_model(config)
    make_trainer(model, processor, load_data(config), config, [])
    assert tried == []
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    monkeypatch.setattr("ocrkit.models.load.load_with_unsloth", _load_with_transformers)
    model, _ = load_model(TrainConfig.from_dict({**config.to_dict(), "backend": "unsloth"}))
    assert tried == ["read"]
    make_trainer(model, processor, load_data(config), config, [])
    assert tried == ["read", "step"]


# --- patch embedding


def _convolution(dimensions: int, **options) -> torch.nn.Module:
    kind = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dimensions]
    kernel = (2, 4, 4)[-dimensions:]
    torch.manual_seed(0)
    return kind(3, 5, **{"kernel_size": kernel, "stride": kernel, **options})


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_patch_embedding_gives_the_outputs_and_gradients_of_the_convolution(dimensions, bias):
    layer, plain = (_convolution(dimensions, bias=bias) for _ in range(2))
    convert_patch_embedding(layer)
    assert type(layer) is not type(plain) and isinstance(layer, type(plain))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    patches = torch.randn(7, 3, *layer.kernel_size)
    ours, theirs = layer(patches), plain(patches)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


def test_pictures_larger_than_a_patch_are_convolved():
    layer, plain = _convolution(2), _convolution(2)
    convert_patch_embedding(layer)
    picture = torch.randn(1, 3, 8, 12)
    torch.testing.assert_close(layer(picture), plain(picture), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"stride": 1}, {"padding": 1}, {"groups": 1, "stride": 2}])
def test_sliding_convolutions_are_not_converted(options):
    layer = _convolution(2, **options)
    convert_patch_embedding(layer)
    assert type(layer) is torch.nn.Conv2d
