"""Unsloth as a peer to measure; only for processes of their own, since importing it changes them.

On a CPU Unsloth's questions about the graphics card are answered before it is imported; what it
then does to rows and batches is its real code.
"""

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


def stand_in_for_card() -> None:
    """Answer Unsloth's questions about the graphics card where there is none."""
    import torch

    if not torch.cuda.is_available():
        os.environ |= {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_DISABLE_PINNED_MEMORY": "1"}
        # A CPU's compiler takes minutes for what is computed in seconds.
        os.environ.setdefault("UNSLOTH_COMPILE_DISABLE", "1")
        card = SimpleNamespace(
            name="none",
            total_memory=16 << 30,
            major=9,
            minor=0,
            multi_processor_count=1,
            gcnArchName="",
        )
        torch.cuda.get_device_properties = lambda *a, **k: card
        torch.cuda.mem_get_info = lambda *a, **k: (16 << 30, 16 << 30)
        torch.cuda.current_device = lambda: 0


def import_unsloth() -> None:
    """Import Unsloth, which has to come before transformers, trl and peft."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    stand_in_for_card()
    import unsloth  # noqa: F401


def collator(processor: Any) -> Callable[[Sequence[dict]], dict]:
    """Unsloth's stock collator over rows of `prompt`, `completion` and `images`.

    It is told to leave sizes to the processor: its own default would shrink lines to 512 pixels.
    """
    import torch
    from unsloth.trainer import UnslothVisionDataCollator

    from ocrkit.data.conversation import with_image_parts

    vision = SimpleNamespace(patch_size=processor.image_processor.patch_size)
    # What the collator asks of a model.
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, dtype=torch.float32),
        get_input_embeddings=lambda: SimpleNamespace(weight=torch.zeros(1)),
    )
    theirs = UnslothVisionDataCollator(model, processor, resize="max")
    prompts: dict[str, list[dict]] = {}

    def collate(rows: Sequence[dict]) -> dict:
        prepared = []
        for row in rows:
            text = row["prompt"][0]["content"]
            if text not in prompts:
                prompts[text] = with_image_parts(row["prompt"], len(row["images"]))
            answer = [{"type": "text", "text": row["completion"][0]["content"]}]
            prepared.append(
                {
                    "prompt": prompts[text],
                    "completion": [{"role": "assistant", "content": answer}],
                    "images": row["images"],
                }
            )
        return theirs(prepared)

    return collate
