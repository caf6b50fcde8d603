"""Model evaluation: measure the embedded model and OCR engines on unseen lines and fonts.

`python -m tests.tools.tiny_model measure` writes `measured.json` and the model card into the
model's folder.
"""

import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import GenerationConfig

from data_prep.dataset.schema import PROMPTS, Item, Picture
from data_prep.dataset.write import write_dataset
from data_prep.synthetic.receipts import line_of
from ocrkit.config import TrainConfig
from ocrkit.data.collate import Collator
from ocrkit.data.load import load_data
from ocrkit.data.rows import select_rows, text_of, without_images
from ocrkit.evaluation.baseline import MOST_UNKNOWN
from ocrkit.evaluation.engines import unknown_letters
from ocrkit.evaluation.evaluate import evaluate, evaluate_engine
from ocrkit.models.load import load_model
from tests.tools.tiny_model.build import sample_row
from tests.tools.tiny_model.lines import (
    FONTS,
    HEIGHT,
    HELD_OUT,
    SCRIPTS,
    body_of,
    draw_sample,
    fonts,
    held_out_lines,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

READERS = ("model", "tesseract", "rapidocr")
KINDS = {"known": FONTS, "unseen": HELD_OUT}


def measure(
    folder: Path, count: int = 200, seed: int = 1, readers: Sequence[str] = READERS
) -> dict:
    """Measure CER and exact match on clean lines: `count` for each script and kind of font.

    Fonts of the kind "known" were trained on, "unseen" fonts were not; no line was trained on.
    Random strings use the Hangul and Han classes that training reached.

    Args:
        readers: some of `READERS`, the model and engines.

    Returns:
        {"lines": count, "classes": count, "milliseconds": of a line of 24 characters (with the
        reader "model"), and for each reader {kind/script: {metric: {value, low, high}}}}; none
        for an engine that is not installed, and no script that RapidOCR's package has no model for.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "lines"
        options = {"count": count, "seed": seed, "layout": "prompt_completion"}
        history = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
        classes = history["curve"][-1]["classes"]
        items = partial(_items, count, seed, classes)
        write_dataset(items, data, "held-out-lines", [], options, (0.0, 0.0, 1.0))
        config = TrainConfig.from_recipe(
            "quickstart",
            model_name_or_path=str(folder),
            use_peft=False,
            dataset=str(data),
            output_dir=scratch,
        )
        rows = load_data(config)["test"]
        measured: dict[str, Any] = {"lines": count, "classes": classes}
        evaluations = {}
        if "model" in readers:
            model, processor = load_model(config)
            measured["milliseconds"] = milliseconds_a_line(model, processor)
            evaluations["model"] = evaluate(model, processor, rows, config, name="tiny")
        if "tesseract" in readers and shutil.which("tesseract"):
            evaluations["tesseract"] = evaluate_engine("tesseract", rows, scratch)
        if "rapidocr" in readers and find_spec("rapidocr"):
            known = rows_of_known_scripts(rows)
            evaluations["rapidocr"] = evaluate_engine("rapidocr", known, scratch)
    for name, evaluation in evaluations.items():
        measured[name] = {
            kind: {metric: figures[metric] for metric in ("cer", "exact_match")}
            for kind, figures in evaluation.by["lines"].items()
        }
    return measured


def rows_of_known_scripts(rows: Any) -> Any:
    """The rows in languages most of whose letters RapidOCR's model can write."""
    numbers = []
    for language in SCRIPTS:
        own = [n for n, of in enumerate(rows["language"]) if of == language]
        texts = [text_of(row["completion"]) for row in without_images(select_rows(rows, own))]
        if unknown_letters(texts)[0] <= MOST_UNKNOWN:
            numbers += own
    return select_rows(rows, numbers)


def _items(count: int, seed: int, classes: int) -> Iterator[Item]:
    for kind, families in KINDS.items():
        for script in SCRIPTS:
            images, texts = held_out_lines(script, families[script], count, seed, classes)
            for number, (image, text) in enumerate(zip(images, texts)):
                yield Item(
                    key=f"{kind}-{script}-{number:04d}",
                    where=f"{kind} {script}, line {number}",
                    text=text,
                    pictures=[Picture(load=partial(Image.Image.copy, image))],
                    group=f"{kind}-{script}-{number:04d}",
                    language=script,
                    prompt=PROMPTS["transcription"],
                    meta={"lines": f"{kind}/{script}"},
                )


@torch.inference_mode()
def milliseconds_a_line(
    model: "PreTrainedModel", processor: "ProcessorMixin", most: int = 20
) -> float:
    """Median milliseconds on one core to read a line of 24 Latin characters, one at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    collate = Collator(processor, image_height=HEIGHT, generation=True)
    # One GenerationConfig: transformers validates single settings again at each call.
    settings = GenerationConfig(max_new_tokens=48, do_sample=False)
    rng, times = random.Random("24 characters"), []
    for font in fonts("en", FONTS["en"])[: most + 3]:
        body = body_of("en", rng, 0.0)
        image = draw_sample(line_of(rng, 24, 24), "en", font, body, rng, 0.0)
        began = time.perf_counter()
        model.generate(**collate([sample_row("", image)]), generation_config=settings)
        times.append(1000 * (time.perf_counter() - began))
    torch.set_num_threads(threads)
    # The first three are slower, because they include one-time set-up.
    return statistics.median(times[3:])
