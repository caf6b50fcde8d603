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
from ocrkit.data.rows import drawn_rows
from ocrkit.errors import ModelError
from ocrkit.models.kernels import not_compiled, try_kernels, turn_off_compilation
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.training.train import make_trainer


@pytest.fixture
def compiling(monkeypatch):
    """A process that compiles, and does so again after the test."""
    monkeypatch.setenv("UNSLOTH_COMPILE_DISABLE", "0")
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


def _broken(graph, inputs):
    """A compiler of a card on which nothing compiles."""
    raise RuntimeError("no kernel image is available for execution on the device")


def _triton_error() -> Exception:
    errors = pytest.importorskip("triton.compiler.errors")
    node = ast.parse("a = b").body[0]
    return errors.CompilationError("a = b", node, "ptxas: unsupported sm_75 feature")


def _raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_errors_of_compilers_are_known_from_others():
    inner = RuntimeError("no image\nmore")
    found = not_compiled(BackendCompilerFailed(_broken, inner, first_useful_frame=None))
    assert found == "RuntimeError: no image"
    found = not_compiled(InductorError(inner, first_useful_frame=None))
    assert found == "RuntimeError: no image"
    found = not_compiled(_raised(RuntimeError("a step failed"), _triton_error()))
    assert found == "CompilationError: ptxas: unsupported sm_75 feature"
    assert not_compiled(ValueError("a shape")) is None
    assert not_compiled(_raised(RuntimeError("memory"), ValueError("a shape"))) is None


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_that_does_not_compile_is_gone_round(training, config, compiling, capsys):
    model, processor = load_model(config)
    rows = drawn_rows(2)
    texts = predict(model, processor, rows, config)
    tower = model.get_base_model().model.visual
    tower.forward = torch.compile(tower.forward, backend=_broken, fullgraph=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    random = torch.get_rng_state()
    capsys.readouterr()

    try_kernels(model, processor, config, training)

    said = capsys.readouterr().out
    assert "does not compile on this machine (RuntimeError: no kernel image" in said
    assert "compilation is turned off" in said and said.count("\n") == 1
    # Unsloth compiles nothing that it loads from now on.
    assert os.environ["UNSLOTH_COMPILE_DISABLE"] == "1"
    assert predict(model, processor, rows, config) == texts
    assert torch.equal(torch.get_rng_state(), random)
    for name, weight in model.named_parameters():
        assert torch.equal(before[name], weight) and weight.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_that_fails_without_compilation_too(training, config, compiling, capsys):
    model, processor = load_model(config)

    def forward(*args, **kwargs):
        raise _triton_error()

    model.get_base_model().model.visual.forward = forward
    with pytest.raises(ModelError, match="start a new one with backend=transformers") as raised:
        try_kernels(model, processor, config, training)
    assert "\n" not in str(raised.value)
    assert "compilation is turned off" in capsys.readouterr().out


def test_other_errors_are_not_taken_for_a_compilers(config, compiling):
    model, processor = load_model(config)

    def forward(*args, **kwargs):
        raise ValueError("shapes do not match")

    model.get_base_model().model.visual.forward = forward
    with pytest.raises(ValueError, match="shapes do not match"):
        try_kernels(model, processor, config)


def test_kernels_that_compile_are_left_alone(config, compiling, capsys):
    model, processor = load_model(config)
    capsys.readouterr()
    try_kernels(model, processor, config)
    try_kernels(model, processor, config, training=True)
    assert capsys.readouterr().out == "" and os.environ["UNSLOTH_COMPILE_DISABLE"] == "0"


def test_unsloths_modes_do_not_turn_compilation_on_again(compiling, monkeypatch):
    vision = SimpleNamespace(torch_compiler_set_stance=torch.compiler.set_stance)
    monkeypatch.setitem(sys.modules, "unsloth.models.vision", vision)
    turn_off_compilation()
    # They set it wherever torch has such a thing.
    assert vision.torch_compiler_set_stance is None


def test_a_step_without_memory_is_left_to_the_run(config, monkeypatch, capsys):
    model, processor = load_model(config)

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("ocrkit.models.kernels.probe_step", full)
    capsys.readouterr()
    try_kernels(model, processor, config, training=True)
    assert capsys.readouterr().out == ""


def test_only_unsloths_models_are_tried(config, monkeypatch):
    tried = []
    monkeypatch.setattr("ocrkit.models.kernels.try_kernels", lambda *args: tried.append(args[0]))
    stepped = []
    # `ocrkit.training.train` is the function.
    module = sys.modules["ocrkit.training.train"]
    monkeypatch.setattr(module, "try_kernels", lambda *args, training: stepped.append(training))
    model, processor = load_model(config)
    make_trainer(model, processor, load_data(config), config, [])
    assert tried == stepped == []
    monkeypatch.setenv("UNSLOTH_ALLOW_CPU", "1")
    from ocrkit.models.load import _load_transformers

    monkeypatch.setattr("ocrkit.models.load._load_unsloth", _load_transformers)
    model, _ = load_model(TrainConfig.from_dict({**config.to_dict(), "backend": "unsloth"}))
    assert tried == [model]
    make_trainer(model, processor, load_data(config), config, [])
    assert stepped == [True]
