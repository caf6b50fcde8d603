"""Collating: pictures from files to batches, in one worker with one thread, beside two peers."""

import json
from pathlib import Path
from typing import Any

from tests.benchmarks.drawn import printed_lines, street_signs, write_pages
from tests.benchmarks.measure import in_own_process, ratio_row

PEERS = {
    "trl": "TRL's DataCollatorForVisionLanguageModeling",
    "unsloth": "UnslothVisionDataCollator, resize='max'",
}


def collating(
    folder: Path,
    rounds: int = 5,
    lines: int = 320,
    photos: int = 40,
    peers: tuple[str, ...] = ("trl", "unsloth"),
) -> list[dict[str, Any]]:
    """CPU seconds of the kit's collator and two others for the same rows, batch by batch.

    Lines of print pass through the embedded model's processor; handwriting and photographs through
    Qwen2-VL's with the budget of its checkpoint's class, 1,003,520 pixels.
    """
    from data_prep.convert import convert
    from ocrkit.models.base import TINY

    printed_lines(folder / "lines", lines)
    write_pages(folder / "pages", max(20, lines // 2))
    convert("hwdb-dgrl", folder / "pages", folder / "writing", split="1,0,0", progress=False)
    street_signs(folder / "photos", photos)
    large = qwen2_vl_processor(folder / "processor")
    kinds = {
        "lines of print": (folder / "lines", TINY, 32, 2.0),
        "lines of handwriting": (folder / "writing", large, 16, 2.0),
        "photographs 1280x960": (folder / "photos", large, 4, 1.5),
    }
    jobs = [[str(data), str(processor), batch] for data, processor, batch, _ in kinds.values()]
    rows = []
    for peer in peers:
        request = json.dumps(jobs)
        module = "tests.benchmarks.collators"
        for (kind, (_, _, batch, aim)), rates in zip(
            kinds.items(), in_own_process(module, peer, rounds, folder / peer, request)
        ):
            row = ratio_row(
                f"collating {kind}",
                PEERS[peer],
                rates["ours"],
                rates["theirs"],
                aim,
                unit="pictures/s",
                count=rates["pictures"],
                inputs=f"{rates['pictures']} pictures, batches of {batch}, one thread, CPU time",
            )
            row["same ids"] = rates["same ids"]
            row["largest difference of a pixel"] = rates["pixels"]
            rows.append(row)
    return rows


def qwen2_vl_processor(folder: Path) -> Path:
    """A folder with a processor that cuts pictures as Qwen2-VL's does."""
    from transformers import AutoProcessor, Qwen2VLImageProcessor

    from ocrkit.models.base import TINY

    processor = AutoProcessor.from_pretrained(TINY)
    processor.image_processor = Qwen2VLImageProcessor()
    processor.save_pretrained(folder)
    return folder
