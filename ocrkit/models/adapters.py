"""LoRA adapters: which linear layers they go on, by tower and block, and what the flags select."""

import re
from collections import Counter
from typing import TYPE_CHECKING, cast

import torch

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parts of module names, as they are called in the models of transformers.
_TOWERS = {"vision tower": "vision|visual|image|patch", "language model": "language|text"}
_BLOCKS = {"attention": "attn|attention", "feed-forward": "mlp|feed_forward|ffn"}


def add_lora(
    model: "PreTrainedModel", config: TrainConfig, adapter: str | None = None, meta: bool = False
) -> "PreTrainedModel":
    """Add LoRA adapters, in float32, to a model of transformers, whose weights keep their dtype.

    PEFT's prepare_model_for_kbit_training is not called: it turns everything of a 4-bit model that
    is in 16 bits into float32, the vision tower too (Qwen2-VL-2B: 1.9 GiB more at the peak).

    Args:
        adapter: folder of trained adapters whose shapes are taken; None: those of the settings.
        meta: whether the model is on "meta", without numbers.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model

    torch.manual_seed(config.seed)
    if adapter:
        trained = get_peft_model(model, PeftConfig.from_pretrained(adapter), low_cpu_mem_usage=meta)
        return cast("PreTrainedModel", trained)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=lora_targets(model, config),
        task_type="CAUSAL_LM",
    )
    # PEFT's wrapper passes every attribute of the model on.
    return cast("PreTrainedModel", get_peft_model(model, lora, low_cpu_mem_usage=meta))


def lora_targets(model: torch.nn.Module, config: TrainConfig) -> list[str]:
    """LoRA target modules: the config's own list, or full names that the finetune_* flags select.

    The flags select linear layers of attention and feed-forward blocks, in the vision tower and in
    the language model, as Unsloth does for the same flags.

    Raises:
        ConfigError: the flags select no layer.
    """
    if config.lora_target_modules:
        return config.lora_target_modules
    towers, blocks = _flags(config)
    pattern = re.compile(
        rf".*({'|'.join(_TOWERS[t] for t in towers)}).*({'|'.join(_BLOCKS[b] for b in blocks)}).*\."
    )
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and towers and blocks and pattern.match(name)
    ]
    if not names:
        raise ConfigError(
            "The finetune_* settings select no layer of this model; set at least one of "
            "finetune_vision_layers and finetune_language_layers, and one of "
            "finetune_attention_modules and finetune_mlp_modules."
        )
    return names


def describe_adapters(model: torch.nn.Module, config: TrainConfig, new: bool = False) -> str:
    """Count the layers that adapters are on, by tower and block, and name what selects none.

    Args:
        model: with adapters of PEFT, loaded by either backend.
        new: whether the adapters were just added to the base, and so change no reading.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            counts[_tower(name), _block(name)] += 1
    parts = []
    for tower in sorted({tower for tower, _ in counts}, reverse=True):
        blocks = {block: count for (place, block), count in counts.items() if place == tower}
        listed = ", ".join(f"{count} {block}" for block, count in sorted(blocks.items()))
        parts.append(f"{sum(blocks.values())} layers of the {tower} ({listed})")
    title = "New LoRA adapters, without effect until they are trained" if new else "LoRA adapters"
    lines = [f"{title}: {'; '.join(parts)}"]
    if config.lora_target_modules:
        names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
        for target in config.lora_target_modules:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                lines.append(f"lora_target_modules: no layer is called {target!r}")
        return "\n".join(lines)
    towers, blocks = _flags(config)
    for tower in towers:
        for block in blocks:
            if not counts[tower, block]:
                lines.append(f"the finetune_* flags select no {block} layer of the {tower}")
    experts = [name for name, weight in model.named_parameters() if _is_experts(name, weight)]
    if "feed-forward" in blocks and experts:
        lines.append(
            f"the experts of its mixture get no adapters ({len(experts)} tensors, no linear layers)"
        )
    return "\n".join(lines)


def _flags(config: TrainConfig) -> tuple[list[str], list[str]]:
    """Towers and blocks that the finetune_* flags select."""
    flags = {
        "vision tower": config.finetune_vision_layers,
        "language model": config.finetune_language_layers,
        "attention": config.finetune_attention_modules,
        "feed-forward": config.finetune_mlp_modules,
    }
    return [name for name in _TOWERS if flags[name]], [name for name in _BLOCKS if flags[name]]


def _tower(name: str) -> str:
    """Tower of a module, by the first word in its name that says so."""
    places = {
        tower: match.start()
        for tower, words in _TOWERS.items()
        if (match := re.search(words, name))
    }
    return min(places, key=places.__getitem__) if places else "parts between"


def _block(name: str) -> str:
    """Block of a module, by the last word in its name that says so."""
    places = {
        block: [match.start() for match in re.finditer(words, name)][-1:]
        for block, words in _BLOCKS.items()
    }
    block = max(places, key=lambda block: places[block])
    return block if places[block] else "other"


def _is_experts(name: str, weight: torch.Tensor) -> bool:
    """Whether a parameter holds the matrices of all experts of a mixture."""
    return weight.ndim == 3 and ".experts." in name and "lora_" not in name
