"""One task on so many rows, in a process of its own: TASK INPUT OUT ROWS."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.measure import peak_memory

if TYPE_CHECKING:
    from datasets import Dataset

    from ocrkit.config import TrainConfig


def main(task: str, input_path: str, out: str, size: int) -> dict[str, float]:
    """Seconds, without imports, and MB resident at most."""
    began = time.perf_counter()
    if task == "convert":
        from data_prep.convert import convert

        source = "hwdb-gnt" if Path(input_path).suffix == ".gnt" else "hwdb-dgrl"
        convert(source, input_path, out, split="1,0,0", progress=False)
    elif task == "evaluate":
        from ocrkit.evaluation.evaluation import score
        from tests.benchmarks.drawn import noisy_pairs

        pairs = zip(*noisy_pairs(size, 0.1))
        records = [
            {"id": str(n), "reference": true, "prediction": read, "group": str(n // 10)}
            for n, (true, read) in enumerate(pairs)
        ]
        began = time.perf_counter()
        score(records)
    else:
        from ocrkit.config import TrainConfig
        from ocrkit.data.load import load_data

        config = TrainConfig(dataset=input_path, output_dir=out, image_height=32)
        import datasets  # noqa: F401

        began = time.perf_counter()
        rows = load_data(config)["train"]
        if task in ("whole plan", "first step"):
            began = with_model(task, config, rows)
        elif task == "plan":
            from transformers import AutoProcessor

            from ocrkit.data.lengths import token_lengths
            from ocrkit.models.base import TINY

            processor = AutoProcessor.from_pretrained(TINY)
            began = time.perf_counter()
            token_lengths(rows, processor, config)
    return {"seconds": time.perf_counter() - began, "MB": peak_memory()}


def with_model(task: str, config: "TrainConfig", rows: "Dataset") -> float:
    """Plan a run of one step of the embedded model, or train it; returns when that began."""
    from dataclasses import replace

    from datasets import DatasetDict

    from ocrkit.models.base import TINY
    from ocrkit.models.load import load_model
    from ocrkit.training.plan import plan
    from ocrkit.training.train import train

    config = replace(config, model_name_or_path=str(TINY), max_steps=1, report_to="none")
    data = DatasetDict(train=rows)
    model, processor = load_model(config)
    began = time.perf_counter()
    if task == "first step":
        train(model, processor, data, config)
    else:
        plan(config, data, model, processor, probe_steps=1)
    return began


if __name__ == "__main__":
    task, input_path, out, size = sys.argv[1:]
    print(json.dumps(main(task, input_path, out, int(size))))
