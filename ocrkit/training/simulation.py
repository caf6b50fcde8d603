"""Simulated training step: memory and kernels of a step on a GPU, without one and without weights.

The model is built from its config on "meta" and its tensors are made fake ones of a "cpu" device
(torch's FakeTensorMode: shapes without storage). The kit's own loss, PEFT's adapters, gradient
checkpointing, autograd and the optimizer's step then really run, under a meter of live bytes.

torch's own estimators were tried and do not serve: MemTracker fails on frozen parameters,
RuntimeEstimator assumes 150 % of a card's peak and gives an L4 3,350 GB/s instead of 300, and
FakeTensors on "cuda" have no backward pass on a machine without CUDA. So the device is "cpu", and
where CUDA differs (`as_on_cuda`, `meter.workspace`) the difference is added.
"""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

from ocrkit.config import TrainConfig
from ocrkit.models.adapters import add_lora
from ocrkit.models.backend import weights_dtype
from ocrkit.models.budget import fit_tiles
from ocrkit.models.kernels import (
    batch_windows,
    checkpoint_vision_layers,
    convert_patch_embedding,
)
from ocrkit.models.load import IN_16_BITS, quantization
from ocrkit.training.losses import loss_terms, supervised_loss
from ocrkit.training.meter import Meter, RealIntegers, register_costs
from ocrkit.training.probe import training_mode

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Bytes of optimizer state for a trained weight, by a part of the optimizer's name; the first that
# matches counts. 8-bit optimizers keep a float32 scale for every 256 numbers, and tensors of fewer
# than 4,096 numbers in float32, which are few.
_STATE_BYTES = {
    "8bit_layerwise": 2.0,
    "ademamix_8bit": 3.05,
    "lion_8bit": 1.02,
    "rmsprop_bnb_8bit": 1.02,
    "8bit": 2.03,
    "4bit": 1.07,
    "ademamix": 12.0,
    "lion": 4.0,
    "rmsprop": 4.0,
    "adagrad": 4.0,
    "sgd": 0.0,
    "lomo": 0.0,
    "adafactor": 0.1,
}
_ADAM_BYTES = 8.0


@dataclass
class SimulatedStep:
    """Simulated step of a batch: bytes at its peak, by what holds them, and its kernels.

    Attributes:
        samples: rows of the batch.
        tokens: tokens of the batch, with padding.
        peak: bytes at the highest point.
        parts: {weights, adapters, gradients, optimizer, logits, activations: bytes of the peak}.
        kernels: (floating-point operations, bytes moved) of each kernel.
    """

    samples: int
    tokens: int
    peak: int
    parts: dict[str, int]
    kernels: list[tuple[float, float]] = field(repr=False)


class FakeModel:
    """Model on fake tensors, with the adapters that the settings ask for.

    Args:
        config: settings of the run.
        model_config: the base model's config.
        embedded: whether it is the embedded model.
        cuda: whether to simulate what a GPU does: 16 bits, 4-bit weights, its autocast.
        adapter: folder of trained adapters; None: new ones where `use_peft` is set.
    """

    def __init__(
        self,
        config: TrainConfig,
        model_config: "PreTrainedConfig",
        embedded: bool = False,
        cuda: bool = True,
        adapter: str | None = None,
    ) -> None:
        name = weights_dtype(config, embedded) or ("bfloat16" if cuda else "float32")
        self.config, self.cuda = config, cuda
        self.half = torch.bfloat16 if cuda and config.dtype != "float32" else None
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        register_costs()
        model = _meta_model(config, model_config, getattr(torch, name))
        vocabulary = model.config.get_text_config().vocab_size
        with torch.device("meta"):
            if config.load_in_4bit and cuda:
                _to_4_bits(model, getattr(torch, name))
            if adapter or config.use_peft:
                model = add_lora(model, config, adapter, meta=True)
            for weight in model.parameters():
                if not (adapter or config.use_peft):
                    weight.requires_grad_(True)
                elif weight.requires_grad:
                    weight.data = weight.data.float()
        self.states = _to_fake(model, self.fake)
        self.model = model
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.meter = Meter(vocabulary)
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        for tensor in (*frozen, *model.buffers(), *self.states):
            self.meter.add(tensor, "weights")
        adapted = "adapters" if adapter or config.use_peft else "weights"
        for weight in self.trained:
            self.meter.add(weight, adapted)
            weight.register_post_accumulate_grad_hook(self._label_gradient)
        self.averages: list[torch.Tensor] = []
        with self.fake:
            self.optimizer = self._optimizer()
            if config.weight_averaging:
                self.averages = [torch.empty_like(weight) for weight in self.trained]
        for tensor in self.averages:
            self.meter.add(tensor, "optimizer")

    def _label_gradient(self, weight: torch.Tensor) -> None:
        if weight.grad is not None:
            self.meter.add(weight.grad, "gradients")

    def _optimizer(self) -> torch.optim.Optimizer | list[torch.Tensor]:
        """torch's AdamW, or for other optimizers tensors as large as their state."""
        if self.config.optim in ("adamw_torch", "adamw_torch_fused"):
            optimizer = torch.optim.AdamW(self.trained, foreach=self.config.optim == "adamw_torch")
            for weight in self.trained:
                weight.grad = torch.zeros_like(weight)
            optimizer.step()
            optimizer.zero_grad()
            for state in optimizer.state.values():
                for tensor in state.values():
                    self.meter.add(tensor, "optimizer")
            return optimizer
        # transformers keeps 32 bits of state for embeddings where the others have 8.
        optim = self.config.optim
        layers = [m for m in self.model.modules() if isinstance(m, torch.nn.Embedding)]
        embeddings = {id(weight) for layer in layers for weight in layer.parameters()}
        size = sum(
            weight.numel()
            * state_bytes(optim.replace("8bit", "32bit") if id(weight) in embeddings else optim)
            for weight in self.trained
        )
        state = torch.empty(int(size), dtype=torch.uint8)
        self.meter.add(state, "optimizer")
        return [state]

    def step(self, batch: dict[str, torch.Tensor], copies: int = 1) -> SimulatedStep:
        """Simulate forward, backward and optimizer step on a batch of the collator.

        Args:
            copies: how many times the rows of the batch are in the simulated one.
        """
        fake, meter, model = self.fake, self.meter, self.model
        rows, width = batch["input_ids"].shape
        rows *= copies
        # Numbers of pictures are fake; token ids, grids and masks stay real, since models compute
        # shapes from them.
        inputs = {
            name: fake.from_tensor(value) if value.is_floating_point() else value
            for name, value in batch.items()
            if torch.is_tensor(value)
        }
        if copies > 1:
            inputs = {name: torch.cat([value] * copies) for name, value in inputs.items()}
        on_cuda = as_on_cuda() if self.cuda else contextlib.nullcontext()
        half = torch.autocast("cpu", self.half, enabled=self.half is not None)
        with fake, RealIntegers(), training_mode(model, self.config), on_cuda:
            for value in inputs.values():
                meter.add(value, "activations")
            if self.config.gradient_accumulation_steps > 1:
                # All batches of an optimizer step but the first find gradients.
                for weight in self.trained:
                    weight.grad = torch.zeros_like(weight)
                    meter.add(weight.grad, "gradients")
            meter.reset()
            with meter:
                with half:
                    loss = supervised_loss(model, inputs, **loss_terms(self.config))
                loss.backward()
                if isinstance(self.optimizer, torch.optim.Optimizer):
                    self.optimizer.step()
            for weight in self.trained:
                weight.grad = None
        return SimulatedStep(rows, rows * width, meter.peak, dict(meter.at_peak), meter.kernels)


def state_bytes(optim: str) -> float:
    """Bytes of state that an optimizer of transformers keeps for a trained weight."""
    return next((size for part, size in _STATE_BYTES.items() if part in optim), _ADAM_BYTES)


def _meta_model(
    config: TrainConfig, model_config: "PreTrainedConfig", dtype: torch.dtype
) -> "PreTrainedModel":
    """The base model on "meta", with the kit's changes to its modules."""
    from transformers import AutoModelForImageTextToText

    # A base that is stored in 4 bits is built in 16 first, and then quantized as any other.
    vars(model_config).pop("quantization_config", None)
    # Flash attention needs a GPU; sdpa takes as much memory and does the same products.
    attention = "eager" if config.attn_implementation == "eager" else "sdpa"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            model_config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=config.trust_remote_code,
        )
        fit_tiles(model, config.max_image_tiles)
    convert_patch_embedding(model)
    batch_windows(model)
    checkpoint_vision_layers(model)
    return cast("PreTrainedModel", model)


def _to_4_bits(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Replace linear layers by bitsandbytes' with packed weights, as a load in 4 bits does."""
    import bitsandbytes as bnb
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(model, IN_16_BITS, quantization(dtype))
    functional = bnb.functional
    code, book = torch.empty(256), torch.empty(16)
    for layer in model.modules():
        if not isinstance(layer, bnb.nn.Linear4bit):
            continue
        # NF4 in blocks of 64, whose scales are 8 bits in blocks of 256: two weights a byte.
        # bitsandbytes' own quantization reads numbers, which fake tensors do not have.
        count = layer.weight.numel()
        scales = functional.QuantState(
            absmax=torch.empty(-(-count // 64 // 256)),
            code=code,
            blocksize=256,
            dtype=torch.float32,
        )
        state = functional.QuantState(
            absmax=torch.empty(count // 64, dtype=torch.uint8),
            shape=torch.Size((layer.out_features, layer.in_features)),
            code=book,
            blocksize=64,
            quant_type="nf4",
            dtype=dtype,
            offset=torch.empty(()),
            state2=scales,
        )
        # Params4bit would lose the fake tensor; a Parameter with its attributes keeps it.
        packed = torch.empty((-(-count // 2), 1), dtype=torch.uint8)
        weight: Any = torch.nn.Parameter(packed, requires_grad=False)
        weight.quant_state, weight.compress_statistics, weight.quant_type = state, True, "nf4"
        weight.bnb_quantized, weight.quant_storage, weight.blocksize = True, torch.uint8, 64
        vars(layer).update(
            quant_state=state,
            compute_dtype=dtype,
            compute_type_is_set=True,
            support_avx512bf16_for_cpu=False,
        )
        layer.weight = weight
        if layer.bias is not None:
            layer.bias = torch.nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    vars(model)["is_loaded_in_4bit"] = True


def _to_fake(model: torch.nn.Module, fake: FakeTensorMode) -> list[torch.Tensor]:
    """Replace tensors on "meta" by fake ones on "cpu", tied ones once; returns scales of weights.

    The model is not built under FakeTensorMode, where PEFT cannot cast its adapters.
    """
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def faked(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor) or tensor.device.type != "meta":
            return tensor
        if id(tensor) not in made:
            new: torch.Tensor = FakeTensor(fake, tensor.detach(), torch.device("cpu"))
            if isinstance(tensor, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
                vars(new).update(vars(tensor))
            # The original is kept: another tensor could take its id.
            made[id(tensor)] = (new, tensor)
        return made[id(tensor)][0]

    states: list[torch.Tensor] = []
    for module in model.modules():
        for tensors in cast("list[dict[str, Any]]", [module._parameters, module._buffers]):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = faked(tensor)
        state = vars(module).get("quant_state")
        for part in (state, getattr(state, "state2", None)):
            for name, value in list(vars(part).items()) if part is not None else ():
                if torch.is_tensor(value):
                    vars(part)[name] = faked(value)
                    states.append(vars(part)[name])
    return states


@contextlib.contextmanager
def as_on_cuda() -> Generator[None]:
    """Compute layer norms and softmax in float32 under autocast, as CUDA does and a CPU does not.

    A TorchFunctionMode would be off in the backward pass, where checkpoints are recomputed.
    """
    functional = torch.nn.functional
    own = {name: getattr(functional, name) for name in ("layer_norm", "softmax")}

    def in_float32(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                args, kwargs = tree_map(_float, args), tree_map(_float, kwargs)
            return function(*args, **kwargs)

        return call

    for name, function in own.items():
        setattr(functional, name, in_float32(function))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(functional, name, function)


def _float(value: object) -> object:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
