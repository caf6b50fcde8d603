"""Models of published geometries with random weights: GEOMETRY FOLDER.

The numbers are those of the checkpoints' config.json; the tokenizer is the embedded model's, whose
ids fit into any vocabulary.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

# Of Qwen/Qwen2-VL-2B-Instruct and Qwen/Qwen3-VL-2B-Instruct; the picture sizes are those of their
# preprocessor_config.json. "tiny_qwen2_vl" has the same parts, and fits a CPU.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "qwen2_vl_2b": {
        "kind": "Qwen2VL",
        "text": {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        "vision": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
        "pictures": {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}},
    },
    "qwen3_vl_2b": {
        "kind": "Qwen3VL",
        "text": {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "pictures": {
            "patch_size": 16,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        },
    },
    "tiny_qwen2_vl": {
        "kind": "Qwen2VL",
        "text": {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        },
        "vision": {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4},
        "pictures": {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 100_352}},
    },
}


def build(name: str, folder: Path) -> None:
    """Write model and processor; in bfloat16, as checkpoints come."""
    import transformers
    from transformers import AutoTokenizer, Qwen2VLImageProcessor

    from ocrkit.models.base import TINY
    from tests.tools.tiny_model.build import token_ids

    geometry = GEOMETRIES[name]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = {**token_ids(tokenizer), "tie_word_embeddings": True}
    ends = {key: ids[key] for key in ("pad_token_id", "eos_token_id")}
    config = getattr(transformers, f"{geometry['kind']}Config")(
        text_config={**geometry["text"], **ends, "bos_token_id": None, "tie_word_embeddings": True},
        vision_config={**geometry["vision"], "patch_size": geometry["pictures"]["patch_size"]},
        **ids,
    )
    torch.manual_seed(0)
    kind = getattr(transformers, f"{geometry['kind']}ForConditionalGeneration")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = kind._from_config(config, dtype=torch.bfloat16)
    model.generation_config.update(**ends)
    model.save_pretrained(folder)
    pictures = geometry["pictures"]
    processor = getattr(transformers, f"{geometry['kind']}Processor")(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=_video_processor(geometry["kind"])(patch_size=pictures["patch_size"]),
        chat_template=(TINY / "chat_template.jinja").read_text(encoding="utf-8"),
    )
    processor.save_pretrained(folder)


def _video_processor(kind: str) -> Any:
    import transformers

    return getattr(transformers, f"{kind}VideoProcessor")


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({"built": sys.argv[1]}))
