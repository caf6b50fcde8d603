"""One collator beside the kit's, in a process of its own: PEER ROUNDS TEMP JOBS.

JOBS are in JSON, each a dataset, a processor's folder and a batch size. A process of its own,
because importing Unsloth changes transformers for good.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import in_turns


def main(peer: str, rounds: int, temporary: str, jobs: list[list]) -> list[dict]:
    """Seconds of both sides for every job, and whether they made the same batches."""
    if peer == "unsloth":
        from tests.benchmarks.unsloth_peer import import_unsloth

        import_unsloth()
    return [_measured(peer, rounds, temporary, *job) for job in jobs]


def _measured(
    peer: str, rounds: int, temporary: str, dataset: str, folder: str, batch: int
) -> dict[str, Any]:
    import torch
    from datasets import load_dataset
    from transformers import AutoProcessor

    from ocrkit.config import TrainConfig
    from ocrkit.data.collate import Collator
    from ocrkit.data.load import load_data
    from ocrkit.data.order import TrainRows

    torch.set_num_threads(1)
    config = TrainConfig(dataset=dataset, output_dir=temporary)
    own = TrainRows(load_data(config)["train"])
    collate = Collator(AutoProcessor.from_pretrained(folder))
    stock = load_dataset("imagefolder", data_dir=dataset, cache_dir=temporary)["train"]
    theirs = _peer(peer, AutoProcessor.from_pretrained(folder))
    starts = range(0, len(own) - batch + 1, batch)

    def ours() -> None:
        for start in starts:
            collate(own.__getitems__(list(range(start, start + batch))))

    def other() -> None:
        for start in starts:
            theirs(stock.__getitems__(list(range(start, start + batch))))

    same, largest = True, 0.0
    for start in starts[:2]:
        places = list(range(start, start + batch))
        kit_batch, two = collate(own.__getitems__(places)), theirs(stock.__getitems__(places))
        same = same and _same_ids(kit_batch, two)
        difference = kit_batch["pixel_values"] - two["pixel_values"].float()
        largest = max(largest, float(difference.abs().max()))
    seconds = in_turns({"ours": ours, "theirs": other}, rounds, time.process_time)
    return {**seconds, "pictures": len(starts) * batch, "same ids": same, "pixels": largest}


def _peer(peer: str, processor: Any) -> Callable[[Sequence[dict]], dict]:
    if peer == "trl":
        from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

        return DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    from tests.benchmarks.unsloth_peer import collator

    return collator(processor)


def _same_ids(ours: dict, theirs: dict) -> bool:
    """Whether theirs are ours, but for what a template writes after the end of turn."""
    for row, mask, other, other_mask in zip(
        ours["input_ids"], ours["attention_mask"], theirs["input_ids"], theirs["attention_mask"]
    ):
        ids, others = row[mask == 1].tolist(), other[other_mask == 1].tolist()
        if others[: len(ids)] != ids or len(others) - len(ids) > 1:
            return False
    return True


if __name__ == "__main__":
    peer, rounds, temporary, jobs = sys.argv[1:]
    Path(temporary).mkdir(parents=True, exist_ok=True)
    print(json.dumps(main(peer, int(rounds), temporary, json.loads(jobs))))
