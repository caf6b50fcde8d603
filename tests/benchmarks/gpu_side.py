"""One way to train a whole model, in a process of its own: a job as JSON.

The job holds `side`, `model`, `dataset`, `recipe`, `output`, and how many steps to measure
(`steps`) after how many that warm up (`warm`). Without CUDA the same code runs on the CPU, in
float32 and without 4 bits: for tests, not for figures.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ocrkit.training.forecast import CARDS

# Dense half-precision FLOP/s that the makers state, by a part of the device's name.
PEAKS = {
    name.partition("-")[0].removeprefix("rtx").upper(): 1e12 * (card.tflops or 0)
    for name, card in sorted(CARDS.items(), key=lambda item: -len(item[0]))
}


def main(job: dict[str, Any]) -> dict[str, float | None] | None:
    """What `measure` says; None for a side that does not fit the memory of the GPU."""
    import torch

    try:
        return measure(job)
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, torch.cuda.OutOfMemoryError):
                return None
            link = link.__cause__ or link.__context__
        raise


def measure(job: dict[str, Any]) -> dict[str, float | None]:
    """Samples per second, peak memory, share of waiting, FLOPs utilisation and more of a side."""
    if job["side"] == "unsloth":
        from tests.benchmarks.unsloth_peer import import_unsloth

        import_unsloth()
    # The kit imports Unsloth itself, first, where there is CUDA.
    build = {"trl": trl, "unsloth": unsloth}.get(job["side"], kit)
    trainer, smallest = build(job)
    import torch

    meter = meter_of(job["warm"])
    trainer.add_callback(meter)
    hook = trainer.model.register_forward_pre_hook(meter.see, with_kwargs=True)
    with _busy() as busy:
        trainer.train()
    hook.remove()
    read = _seconds_to_read(trainer, job["read"]) if job.get("read") else None
    cuda = torch.cuda.is_available()
    samples, flops = meter.work(job["model"])
    peak = next((f for n, f in PEAKS.items() if cuda and n in torch.cuda.get_device_name()), None)
    return {
        "samples_per_second": samples / meter.seconds,
        "peak_gb": _peak(cuda),
        "data_wait": meter.waited / meter.seconds,
        "model_flops_utilization": flops / meter.seconds / peak if peak else None,
        "gpu_utilization": sum(busy) / len(busy) if busy else None,
        "tokens_per_sample": meter.tokens / samples,
        "smallest_text": smallest,
        "first_step_seconds": meter.first,
        "seconds_to_read": read,
    }


def _seconds_to_read(trainer: Any, count: int) -> float:
    """Seconds that the kit takes to read some of its training rows."""
    from ocrkit import predict

    rows = trainer.train_dataset.select(range(count))
    began = _now()
    predict(trainer.model, trainer.processing_class, rows, trainer.config)
    return _now() - began


# --- the sides: (trainer, pixels that the smallest line of text keeps) ---


def kit(job: dict[str, Any]) -> tuple[Any, float]:
    """The kit's recipe, also at the stock pixel budget, and in float16 as on a T4."""
    from ocrkit import load_data, load_model
    from ocrkit.training.train import make_trainer

    if job["side"] == "kit as on a T4":
        _without_flash()
    config = kit_config(job)
    model, processor = load_model(config)
    data = load_data(config)
    return make_trainer(model, processor, data, config, []), smallest_text(data, processor, config)


def kit_config(job: dict[str, Any]) -> Any:
    """Settings of a side of the kit."""
    from ocrkit import TrainConfig

    changes: dict[str, Any] = {}
    if job["side"] == "kit at the stock budget":
        changes = {"min_pixels": None, "max_pixels": None}
    if job["side"] == "kit as on a T4":
        changes = {"dtype": "float16", "attn_implementation": "sdpa"}
    config = TrainConfig.from_recipe(
        job["recipe"],
        model_name_or_path=job["model"],
        dataset=job["dataset"],
        output_dir=job["output"],
        max_steps=job["warm"] + job["steps"],
        eval_steps=None,
        load_best_model_at_end=False,
        augmentation={},
        sft_kwargs={"save_strategy": "no"},
        **changes,
    )
    if not _cuda():
        config.backend, config.optim, config.gradient_checkpointing = (
            "transformers",
            "adamw_torch",
            False,
        )
        config.dtype = "float32"
    return config


def _without_flash() -> None:
    """Leave torch's attention the kernels that a T4 has."""
    import torch

    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def trl(job: dict[str, Any]) -> tuple[Any, float]:
    """TRL, PEFT and bitsandbytes as their documentation has it: 4 bits, every linear layer."""
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": "auto"}
    if _cuda():
        import torch

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        options["device_map"] = {"": 0}
    return _stock(job, options)


def _stock(job: dict[str, Any], options: dict[str, Any], **settings: Any) -> tuple[Any, float]:
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer
    from trl import SFTConfig, SFTTrainer

    class OnCpu(SFTTrainer):
        # TRL's own loss asks for a GPU.
        compute_loss = Trainer.compute_loss

    if not _cuda():
        options["dtype"] = "float32"
        settings |= {"bf16": False, "use_cpu": True}
    rows = load_dataset(
        "imagefolder", data_dir=job["dataset"], cache_dir=str(Path(job["output"]) / "cache")
    )
    processor = AutoProcessor.from_pretrained(job["model"])
    trainer = (SFTTrainer if _cuda() else OnCpu)(
        model=AutoModelForImageTextToText.from_pretrained(job["model"], **options),
        args=SFTConfig(
            output_dir=job["output"],
            max_steps=job["warm"] + job["steps"],
            # The default would cut pictures.
            max_length=None,
            save_strategy="no",
            report_to="none",
            **settings,
        ),
        train_dataset=rows["train"],
        processing_class=processor,
        peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"),
    )
    return trainer, stock_text(trainer, rows["train"], processor)


def unsloth(job: dict[str, Any]) -> tuple[Any, float]:
    """Unsloth with its stock collator and the settings of its notebooks for vision."""
    import torch
    from unsloth import FastVisionModel
    from unsloth.trainer import UnslothVisionDataCollator

    model, processor = FastVisionModel.from_pretrained(
        job["model"],
        load_in_4bit=_cuda(),
        load_in_16bit=not _cuda(),
        use_gradient_checkpointing="unsloth" if _cuda() else False,
    )
    model = FastVisionModel.get_peft_model(model, r=16, lora_alpha=16)
    FastVisionModel.for_training(model)
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    from ocrkit.training.losses import supervised_loss

    class OnCpu(SFTTrainer):
        # Unsloth's own loss asks for a GPU, and its models return no logits beside it.
        def compute_loss(
            self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch=None
        ) -> Any:
            """The kit's, so that the rest can be run."""
            loss = supervised_loss(model, dict(inputs), num_items_in_batch)
            return (loss, {}) if return_outputs else loss

    rows = load_dataset(
        "imagefolder", data_dir=job["dataset"], cache_dir=str(Path(job["output"]) / "cache")
    )["train"]
    bf16 = _cuda() and torch.cuda.is_bf16_supported(False)
    trainer = (SFTTrainer if _cuda() else OnCpu)(
        model=model,
        processing_class=processor,
        data_collator=UnslothVisionDataCollator(model, processor),
        train_dataset=rows.with_transform(_conversations),
        args=SFTConfig(
            output_dir=job["output"],
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            max_steps=job["warm"] + job["steps"],
            optim="adamw_8bit" if _cuda() else "adamw_torch",
            bf16=bf16,
            fp16=_cuda() and not bf16,
            use_cpu=not _cuda(),
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
            dataset_text_field="",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
    )
    return trainer, stock_text(trainer, rows, processor)


def _conversations(rows: dict[str, list]) -> dict[str, list]:
    """Rows as Unsloth's notebooks make them, their pictures in the messages."""
    conversations = []
    for prompt, images, completion in zip(rows["prompt"], rows["images"], rows["completion"]):
        question = {"type": "text", "text": prompt[0]["content"]}
        user = [question, {"type": "image", "image": images[0]}]
        answer = [{"type": "text", "text": completion[0]["content"]}]
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        conversations.append(messages)
    return {"messages": conversations}


# --- what is measured ---


def meter_of(warm: int) -> Any:
    """A callback that times steps after the first `warm`, and sees what passes the model."""
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        seconds, waited, tokens, steps, first = 0.0, 0.0, 0, 0, 0.0

        def __init__(self) -> None:
            self.seen: list[tuple[Any, Any]] = []

        def see(self, module: Any, args: Any, inputs: dict[str, Any]) -> None:
            if self.steps >= warm and module.training:
                lengths = inputs["attention_mask"].sum(dim=1)
                self.seen.append((lengths, inputs.get("image_grid_thw")))

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            now = _now()
            if self.steps >= warm:
                self.waited += now - self.last
                self.seconds += now - self.last
            self.last = now

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = _now()
            if self.steps >= warm:
                self.seconds += now - self.last
            if not self.steps:  # kernels are compiled in it
                self.first = now - self.last
            self.steps, self.last = self.steps + 1, now

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.last = _now()

        def work(self, folder: str) -> tuple[int, float]:
            """Samples, and FLOPs that training adapters on them takes, recomputing left out."""
            samples, flops = 0, 0.0
            count = flops_of(folder)
            for lengths, grids in self.seen:
                patches = grids.prod(dim=1).tolist() if grids is not None else []
                samples, self.tokens = samples + len(lengths), self.tokens + int(lengths.sum())
                flops += count(lengths.tolist(), patches)
            return samples, flops

    return Meter()


def flops_of(folder: str) -> Any:
    """A function of tokens and patches of samples: FLOPs of a forward and a backward pass.

    Frozen weights cost 2 a token forwards and 2 backwards (none for their own gradients), attention
    its two products once forwards and twice backwards, half of that where it is causal.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    vision = sum(size for name, size in sizes.items() if "visual" in name)
    text = sum(n for name, n in sizes.items() if "visual" not in name and "embed" not in name)
    language = config.get_text_config()
    seeing = config.vision_config
    width = getattr(seeing, "embed_dim", None) or seeing.hidden_size

    def count(tokens: list[int], patches: list[int]) -> float:
        matrices = 4.0 * (text * sum(tokens) + vision * sum(patches))
        reading = language.num_hidden_layers * language.hidden_size * sum(n * n for n in tokens)
        looking = seeing.depth * width * sum(n * n for n in patches)
        return matrices + 3 * (2.0 * reading + 4.0 * looking)

    return count


def smallest_text(data: Any, processor: Any, config: Any, lowest: int = 20) -> float:
    """Pixels that a line of text of `lowest` pixels keeps in the picture that shrinks most."""
    from ocrkit.models.sizes import picture_fits, row_scale

    return lowest * min(map(row_scale, picture_fits(data["train"], processor, config)))


def stock_text(trainer: Any, rows: Any, processor: Any, lowest: int = 20, count: int = 8) -> float:
    """The same as a stock collator leaves it, of the first `count` pictures."""
    patch, scales = processor.image_processor.patch_size, []
    for number in range(min(count, len(rows))):
        batch = trainer.data_collator([trainer.train_dataset[number]])
        _, height, width = batch["image_grid_thw"][0].tolist()
        picture = rows[number]["images"][0]
        scales.append(patch * (height * width / (picture.height * picture.width)) ** 0.5)
    return lowest * min(1.0, *scales)


def _now() -> float:
    if _cuda():
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _peak(cuda: bool) -> float:
    from tests.benchmarks.measure import peak_memory

    if cuda:
        import torch

        return torch.cuda.max_memory_reserved() / 1e9
    return peak_memory() / 1e3


class _busy:
    """Collects the GPU's utilisation in percent while its block runs, where it can be asked for."""

    def __enter__(self) -> list[float]:
        self.shares: list[float] = []
        self.end = threading.Event()
        if _cuda():
            threading.Thread(target=self._ask, daemon=True).start()
        return self.shares

    def __exit__(self, *error: Any) -> None:
        self.end.set()

    def _ask(self) -> None:
        from ocrkit.training.tracking import gpu_utilization

        while not self.end.wait(0.2) and (share := gpu_utilization()) is not None:
            self.shares.append(share)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
