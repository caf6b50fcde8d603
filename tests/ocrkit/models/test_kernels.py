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
    batch_windows,
    checkpoint_vision_layers,
    clamp_float16,
    compiler_error,
    convert_patch_embedding,
    try_kernels,
    turn_off_compilation,
)
from ocrkit.models.load import _load_with_transformers, _read_one_line, load_model
from ocrkit.models.read import predict
from ocrkit.training.probe import try_step
from ocrkit.training.train import make_trainer
from tests.helpers.architectures import build


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


def test_equal_windows_are_one_call_of_attention_and_the_same_numbers(tmp_path, monkeypatch):
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl as qwen
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = build("qwen2_5_vl", tmp_path)
    load = Qwen2_5_VLForConditionalGeneration.from_pretrained
    tower = load(folder, dtype=torch.float32, attn_implementation="sdpa").model.visual
    grid = torch.tensor([(1, 8, 12), (1, 6, 4), (1, 8, 12)])  # windows of several sizes
    torch.manual_seed(1)
    pixels = torch.randn(int(grid.prod(dim=1).sum()), 3 * 2 * 8 * 8)
    calls = []
    interface = qwen.ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)

    def counted(*args, **kwargs):
        calls.append(args)
        return interface(*args, **kwargs)

    monkeypatch.setitem(qwen.ALL_ATTENTION_FUNCTIONS, "sdpa", counted)

    def run():
        calls.clear()
        tower.zero_grad()
        output = tower(pixels, grid_thw=grid).pooler_output
        output = output if torch.is_tensor(output) else torch.cat(output)
        output.square().sum().backward()
        gradient = next(iter(tower.blocks)).attn.qkv.weight.grad.clone()
        return output.detach(), gradient, len(calls)

    before, before_gradient, many = run()
    batch_windows(tower)
    after, after_gradient, few = run()
    assert torch.allclose(before, after, atol=1e-5, rtol=1e-5)
    assert torch.allclose(before_gradient, after_gradient, atol=1e-4, rtol=1e-4)
    assert few < many / 3


def test_flash_attention_keeps_its_own_windows():
    class Qwen2_5_VLVisionAttention(torch.nn.Module):
        config = SimpleNamespace(_attn_implementation="flash_attention_2")

    layer = Qwen2_5_VLVisionAttention()
    batch_windows(layer)
    assert type(layer) is Qwen2_5_VLVisionAttention


def test_blocks_that_overflow_float16_are_clamped():
    class Block(torch.nn.Module):
        def forward(self, states):
            return states * 1e4

    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.blocks = torch.nn.ModuleList([Block()])
    model.config = SimpleNamespace(model_type="qwen2_vl")
    states = torch.tensor([1.0, 100.0, -100.0], dtype=torch.float16)
    clamp_float16(model)
    assert torch.isinf(model.visual.blocks[0](states)).tolist() == [False, True, True]
    model.config.model_type = "qwen2_5_vl"
    clamp_float16(model)
    assert model.visual.blocks[0](states).tolist() == [1e4, 65504, -65504]
    assert model.visual.blocks[0](states.float()).tolist() == [1e4, 1e6, -1e6]


def test_layers_of_llamas_vision_tower_are_recomputed(tmp_path):
    from transformers import MllamaForConditionalGeneration

    model = MllamaForConditionalGeneration.from_pretrained(
        build("mllama", tmp_path), dtype=torch.float32
    )
    encoder = model.model.vision_model.transformer
    calls = []
    encoder.layers[0].register_forward_pre_hook(lambda *args: calls.append(1))
    states = torch.randn(1, 20, 64, requires_grad=True)

    def run():
        calls.clear()
        states.grad = None
        encoder(states).last_hidden_state.square().sum().backward()
        return states.grad.clone(), len(calls)

    model.train()
    model.gradient_checkpointing_enable()
    plain, once = run()
    names = list(model.state_dict())
    checkpoint_vision_layers(model)
    model.gradient_checkpointing_enable()
    recomputed, twice = run()
    assert (once, twice) == (1, 2)
    assert torch.equal(plain, recomputed) and list(model.state_dict()) == names
