"""Forecasts of cards beside what is known: real steps on a CPU, published runs, recipes on cards.

`python -m tests.benchmarks.forecasting JOB`, a job as JSON, computes one in a process of its own.
"""

import json
import resource
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.benchmarks.measure import in_own_process

GIB = 2**30

# --- simulated steps beside real ones of a CPU: (geometry, settings, sizes of the pictures) ---

REAL: dict[str, tuple[str, dict[str, Any], list[tuple[int, int]]]] = {
    "Qwen2-VL, adapters, checkpointing, batch 1": (
        "mid_qwen2_vl",
        {"gradient_checkpointing": True},
        [(640, 480)],
    ),
    "Qwen2-VL, adapters, batch 4 of unequal pictures": (
        "mid_qwen2_vl",
        {},
        [(640, 480), (420, 420), (800, 140), (300, 300)],
    ),
    "Qwen2.5-VL, adapters, batch 2": ("mid_qwen2_5_vl", {}, [(640, 480), (420, 420)]),
    "Qwen2.5-VL, adapters, checkpointing, batch 3": (
        "mid_qwen2_5_vl",
        {"gradient_checkpointing": True},
        [(640, 480)] * 3,
    ),
    "Qwen3-VL, adapters, batch 2": ("mid_qwen3_vl", {}, [(640, 480)] * 2),
    "Qwen3-VL, adapters, checkpointing, batch 1": (
        "mid_qwen3_vl",
        {"gradient_checkpointing": True},
        [(960, 720)],
    ),
    "Qwen2-VL, every weight, batch 2": ("mid_qwen2_vl", {"use_peft": False}, [(640, 480)] * 2),
}


def blank_rows(sizes: list[tuple[int, int]], completion: int) -> list[dict[str, Any]]:
    """Rows with blank pictures of these sizes and answers of about so many tokens."""
    from PIL import Image

    return [
        {
            "id": str(number),
            "prompt": [{"role": "user", "content": "Transcribe the text in the image."}],
            "completion": [{"role": "assistant", "content": "x" * completion}],
            "sizes": [size],
            "images": [Image.new("L", size, 255)],
        }
        for number, size in enumerate(sizes)
    ]


def step_and_peak(config: Any, sizes: list[tuple[int, int]], completion: int) -> tuple[Any, int]:
    """(simulated step, bytes of the real one) of a batch of blank pictures, on this CPU."""
    import torch

    from ocrkit.data.collate import Collator
    from ocrkit.models.base import TINY
    from ocrkit.models.load import load_configs, load_model
    from ocrkit.training.simulation import FakeModel
    from tests.helpers.allocated import allocated_peak

    base = str(TINY) if config.model_name_or_path == "tiny" else config.model_name_or_path
    model_config, processor = load_configs(base, config)
    batch = Collator(processor, config.image_height)(blank_rows(sizes, completion))
    batch = {name: value for name, value in batch.items() if torch.is_tensor(value)}
    step = FakeModel(config, model_config, base == str(TINY), cuda=False).step(batch)
    model, _ = load_model(config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=config.optim == "adamw_torch")
    return step, allocated_peak(model, batch, config, optimizer)


def beside_real() -> dict[str, dict[str, float]]:
    """Peaks, in MiB, of the configurations of `REAL`: simulated and by the allocator's events."""
    return in_own_process(__name__, json.dumps({"real": list(REAL)}))


def _real(name: str, folder: Path) -> dict[str, float]:
    import torch

    from ocrkit import TrainConfig
    from tests.benchmarks.geometry import build

    geometry, changes, sizes = REAL[name]
    build(geometry, folder, torch.float32)
    settings = {"dtype": "float32", "load_in_4bit": False, "gradient_checkpointing": False}
    settings |= {"min_pixels": 50_176, "max_pixels": 602_112, "backend": "transformers"}
    config = TrainConfig(model_name_or_path=str(folder), **settings | changes)
    step, peak = step_and_peak(config, sizes, completion=60)
    return {"simulated": step.peak / 2**20, "real": peak / 2**20}


# --- simulated steps beside published runs ---


@dataclass(frozen=True)
class Run:
    """Published run on a T4, with what the outputs that are saved in its notebook say.

    Attributes:
        peak: GiB that torch's allocator had reserved at most.
        seconds: of training, by its progress bar, which begins after the first step.
        trained: weights that were trained.
        notebook: its file in https://github.com/unslothai/notebooks, with the commit.
        made: version of Unsloth that made the outputs, which is year and month.
        settings: where they differ from `SETTINGS`.
        size: of the picture that the notebook shows.
        tower_in_4_bits: whether the size of the file of weights tells that the vision tower is.
        all_logits: whether its loss makes the logits of all positions, as transformers' does.
        known: whether the step is known well enough to be forecast.
        note: what else differs from the simulated step.
    """

    geometry: str
    peak: float
    seconds: float
    trained: int
    notebook: str
    made: str
    settings: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (320, 50)
    tower_in_4_bits: bool = False
    all_logits: bool = False
    known: bool = True
    note: str = ""


SETTINGS = {
    "backend": "unsloth",
    "load_in_4bit": True,
    "gradient_checkpointing": True,
    "lora_r": 16,
    "lora_alpha": 16,
    "optim": "adamw_8bit",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_steps": 30,
}
# Tokens of the answer to the picture that most of the notebooks show, as written there.
FORMULA = 90

PUBLISHED = {
    "Qwen2-VL-7B": Run(
        "qwen2_vl_7b",
        peak=7.508,
        seconds=260,
        trained=50_855_936,
        notebook="03b0cdaddd50001962cbc4e65adf88def50dfa4d/nb/Qwen2_VL_(7B)-Vision.ipynb",
        made="2024.11.9",
        tower_in_4_bits=True,
        all_logits=True,
        note="simulated with transformers' loss, which it had, over the logits of all positions",
    ),
    "Qwen2.5-VL-7B": Run(
        "qwen2_5_vl_7b",
        peak=6.484,
        seconds=179,
        trained=51_521_536,
        notebook="016b8dce8bee9ec8d94efc84863d5c327aa8956c/nb/Qwen2.5_VL_(7B)-Vision.ipynb",
        made="2025.3.19",
        tower_in_4_bits=True,
    ),
    "Qwen3-VL-8B": Run(
        "qwen3_vl_8b",
        peak=8.213,
        seconds=172,
        trained=51_346_944,
        notebook="0a4dc4e77da28047b1f20d72810e69bc261c5e03/nb/Qwen3_VL_(8B)-Vision.ipynb",
        made="2025.10.2",
        note="its checkpoint, quantized dynamically, keeps further layers in 16 bits",
    ),
    "Qwen3.5-2B, 16 bits": Run(
        "qwen3_5_2b",
        peak=5.146,
        seconds=122,
        trained=23_110_656,
        notebook="0c6268b8c23bb6e4377e0f8ccc4bbfce4876a3c4/nb/Qwen3_5_(2B)_Vision.ipynb",
        made="2026.2.1",
        settings={"load_in_4bit": False},
        note="it had kernels for linear attention; simulated is torch's way",
    ),
    "Gemma-3-4B": Run(
        "gemma3_4b",
        peak=6.061,
        seconds=611,
        trained=38_497_792,
        notebook="03b0cdaddd50001962cbc4e65adf88def50dfa4d/nb/Gemma3_(4B)-Vision.ipynb",
        made="2025.6.6",
        settings={"per_device_train_batch_size": 1, "optim": "adamw_torch_fused"},
        note="it computed in float32, which no setting of the kit does to a model in 4 bits",
    ),
    "PaddleOCR-VL, every weight": Run(
        "paddleocr_vl",
        peak=13.59,
        seconds=759,
        trained=958_588_736,
        notebook="03b0cdaddd50001962cbc4e65adf88def50dfa4d/nb/Paddle_OCR_(1B)_Vision.ipynb",
        made="2025.12.5",
        settings={
            "use_peft": False,
            "load_in_4bit": False,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 60,
        },
        all_logits=True,
        note="simulated with transformers' loss over the logits of all positions, as in the code "
        "that comes with the model; 53 million weights of that code, which transformers' class "
        "lacks, take 0.5 GiB more",
    ),
    "Llama-3.2-11B-Vision": Run(
        "llama3_2_11b_vision",
        peak=10.287,
        seconds=895,
        trained=67_174_400,
        notebook="03b0cdaddd50001962cbc4e65adf88def50dfa4d/nb/Llama3.2_(11B)-Vision.ipynb",
        made="2024.11.9",
        size=(657, 442),
        known=False,
    ),
}


def beside_published(name: str) -> dict[str, Any]:
    """The forecast of a published run on a T4: its peak, and seconds by the roofline."""
    run = PUBLISHED[name]
    differs = {"tower_in_4_bits": run.tower_in_4_bits, "all_logits": run.all_logits}
    settings = SETTINGS | run.settings
    told = simulated(run.geometry, settings, run.size, FORMULA, "t4", **differs)
    (card,) = told.pop("cards")
    seconds = card["hours"] and 3600 * card["hours"][0]
    return {"peak": card["peak_gib"], "seconds": seconds, "parts": card["parts"], **told}


# --- the recipes ---

CARDS = "t4,l4,rtx4090,a100-40,a100-80,h100"
# Rows of the data set that the hours are of.
ROWS = 10_000


@dataclass(frozen=True)
class Recipe:
    """What a recipe is forecast with: a geometry, and a row of its data.

    Attributes:
        size: of a picture, one of those that the recipe's file names.
        completion: tokens of the answer.
    """

    model: str
    geometry: str
    row: str
    size: tuple[int, int]
    completion: int


RECIPES = {
    "quickstart": Recipe("the embedded reader", "tiny", "line", (300, 32), 24),
    "tiny": Recipe("the embedded reader", "tiny", "line", (300, 32), 24),
    "receipts": Recipe("the embedded reader", "tiny", "line", (300, 32), 24),
    "bangla": Recipe("Qwen3-VL-2B", "qwen3_vl_2b", "line", (1500, 96), 60),
    "korean": Recipe("Qwen2-VL-2B", "qwen2_vl_2b", "photograph", (1280, 960), 60),
    "chinese": Recipe("Qwen3-VL-2B", "qwen3_vl_2b", "line", (2000, 120), 40),
    "financial": Recipe("PaddleOCR-VL-1.6", "paddleocr_vl", "page", (1654, 2339), 1000),
    "glm_ocr": Recipe("GLM-OCR", "glm_ocr", "page", (1654, 2339), 1000),
    "qwen3_5": Recipe("Qwen3.5-2B", "qwen3_5_2b", "page", (1654, 2339), 1000),
    "vqa": Recipe("Llama-3.2-Vision-11B", "llama3_2_11b_vision", "photograph", (1280, 960), 10),
}


def of_recipe(name: str) -> dict[str, Any]:
    """The forecast of a recipe on `CARDS`, for `ROWS` rows that are all alike."""
    recipe = RECIPES[name]
    settings = {"recipe": name}
    return simulated(recipe.geometry, settings, recipe.size, recipe.completion, CARDS)


# Budgets of the korean recipe for photographs of 12 megapixels: cards that it is forecast on.
PHOTOGRAPH = (4032, 3024)
BUDGETS: dict[str, dict[str, Any]] = {
    "the model's own": {"min_pixels": None, "max_pixels": None},
    "the recipe's": {},
}


def of_photographs(budget: str) -> dict[str, Any]:
    """The forecast of the korean recipe on photographs of 12 megapixels at a pixel budget."""
    settings = {"recipe": "korean", **BUDGETS[budget]}
    return simulated("qwen2_vl_2b", settings, PHOTOGRAPH, 60, "t4,24GB,a100-40,a100-80")


# --- a simulation in a process of its own ---


def simulated(
    geometry: str,
    settings: dict[str, Any],
    size: tuple[int, int],
    completion: int,
    on: str,
    tower_in_4_bits: bool = False,
    all_logits: bool = False,
) -> dict[str, Any]:
    """What `ocrkit.training.forecast.simulated` returns for rows that are all alike.

    With `cpu_seconds` and `gigabytes` that its process took.

    Args:
        geometry: of tests.benchmarks.geometry, or "tiny".
        settings: of a TrainConfig, or with `recipe` changes of a recipe's.
        completion: tokens of an answer.
        on: cards, as `forecast` takes them.
        tower_in_4_bits: whether the vision tower is in 4 bits too, which the kit never does.
        all_logits: whether the loss is transformers', over the logits of all positions.
    """
    job = {"geometry": geometry, "settings": settings, "size": size, "completion": completion}
    job |= {"on": on, "tower_in_4_bits": tower_in_4_bits, "all_logits": all_logits}
    return in_own_process(__name__, json.dumps(job))


def _simulated(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from datasets import Dataset

    from ocrkit import TrainConfig
    from ocrkit.training import forecast, simulation
    from tests.benchmarks.geometry import write_config

    # The tiny models' chat templates lack the variables of the checkpoints'.
    settings = {**job["settings"], "model_name_or_path": "tiny", "chat_template_kwargs": {}}
    if job["geometry"] != "tiny":
        write_config(job["geometry"], folder)
        settings["model_name_or_path"] = str(folder)
    recipe = settings.pop("recipe", None)
    config = TrainConfig.from_recipe(recipe, **settings) if recipe else TrainConfig(**settings)
    row = blank_rows([tuple(job["size"])], job["completion"])[0]
    columns = ("id", "prompt", "completion", "sizes")
    rows = Dataset.from_dict({name: [row[name]] * ROWS for name in columns})
    cards = forecast.parse_cards(job["on"])
    others: dict[str, Any] = {}
    if job["tower_in_4_bits"]:
        others["IN_16_BITS"] = ["lm_head"]
    if job["all_logits"]:
        others["supervised_loss"] = lambda model, inputs, **terms: model(**inputs).loss
    began = time.process_time()
    with mock.patch.multiple(simulation, **others) if others else nullcontext():
        told = forecast.simulated(config, rows, cards, stage=lambda text: None)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **{name: told[name] for name in ("longest", "steps", "cards", "notes")},
        "seconds_of_simulation": round(time.process_time() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "gigabytes": round(used.ru_maxrss / 1e6, 2),
    }


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Compute a job in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        if "real" in job:
            return {name: _real(name, Path(folder, str(n))) for n, name in enumerate(job["real"])}
        return _simulated(job, Path(folder))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
