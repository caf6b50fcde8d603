"""Models of published geometries with random weights: GEOMETRY FOLDER.

The numbers are those of the checkpoints' config.json. The tokenizer of a Qwen-VL is the embedded
model's, whose ids fit into any vocabulary; processor and tokenizer of the others are those of the
tests' tiny model of the same architecture, with the checkpoint's pictures.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

# As their config.json and preprocessor_config.json on the Hub say, for a person's own copy; what is
# not named has the default of transformers' config class, which is the checkpoint's value.
# "tiny_qwen2_vl", "mid_..." have the same parts, and fit a CPU.
_QWEN2 = {
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    },
}
_QWEN3 = {
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
_PICTURES2 = {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
_PICTURES3 = {
    "patch_size": 16,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
}
_VISION2_5 = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "hidden_act": "silu",
}


def _layers(width: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, int]:
    """Sizes of a language model under the names of its config."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }


GEOMETRIES: dict[str, dict[str, Any]] = {
    "qwen2_vl_2b": {
        "kind": "Qwen2VL",
        "text": {**_QWEN2, **_layers(1536, 8960, 28, 12, 2)},
        "vision": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
        "pictures": _PICTURES2,
    },
    "qwen2_vl_7b": {
        "kind": "Qwen2VL",
        "text": {**_QWEN2, "vocab_size": 152_064, **_layers(3584, 18_944, 28, 28, 4)},
        "vision": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
        "pictures": _PICTURES2,
        "tied": False,
    },
    "qwen2_5_vl_3b": {
        "kind": "Qwen2_5_VL",
        "text": {**_QWEN2, **_layers(2048, 11_008, 36, 16, 2)},
        "vision": {**_VISION2_5, "out_hidden_size": 2048},
        "pictures": _PICTURES2,
    },
    "qwen2_5_vl_7b": {
        "kind": "Qwen2_5_VL",
        "text": {**_QWEN2, "vocab_size": 152_064, **_layers(3584, 18_944, 28, 28, 4)},
        "vision": {**_VISION2_5, "out_hidden_size": 3584},
        "pictures": _PICTURES2,
        "tied": False,
    },
    "qwen3_vl_2b": {
        "kind": "Qwen3VL",
        "text": {**_QWEN3, **_layers(2048, 6144, 28, 16, 8)},
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "pictures": _PICTURES3,
    },
    "qwen3_vl_8b": {
        "kind": "Qwen3VL",
        "text": {**_QWEN3, **_layers(4096, 12_288, 36, 32, 8)},
        "vision": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "pictures": _PICTURES3,
        "tied": False,
    },
    "qwen3_5_2b": {
        "tiny": "qwen3_5",
        "text": {
            "vocab_size": 248_320,
            **_layers(2048, 6144, 24, 8, 2),
            "head_dim": 256,
            "linear_num_value_heads": 16,
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10],
                "mrope_interleaved": True,
            },
        },
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2048,
        },
        "pictures": _PICTURES3,
    },
    "glm_ocr": {
        "tiny": "glm_ocr",
        "text": {
            **_layers(1536, 4608, 16, 16, 8),
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 1.0,
                "mrope_section": [16, 24, 24],
            },
        },
        "vision": {},
        "pictures": {
            "patch_size": 14,
            "size": {"shortest_edge": 12_544, "longest_edge": 9_633_792},
        },
        "tied": False,
    },
    "paddleocr_vl": {
        "tiny": "paddleocr_vl",
        "text": {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e5,
                "mrope_section": [16, 24, 24],
            }
        },
        "vision": {},
        "pictures": {
            "patch_size": 14,
            "size": {"shortest_edge": 147_456, "longest_edge": 2_359_296},
        },
        "tied": False,
    },
    "llama3_2_11b_vision": {
        "tiny": "mllama",
        "text": {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            }
        },
        "vision": {"image_size": 560},
        "pictures": {"size": {"height": 560, "width": 560}},
        "tied": False,
    },
    "gemma3_4b": {
        "tiny": "gemma3",
        "text": {**_layers(2560, 10_240, 34, 8, 4), "sliding_window": 1024},
        "vision": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 896,
            "vision_use_head": False,
        },
        "pictures": {"size": {"height": 896, "width": 896}},
        "processor": {"image_seq_length": 256},
    },
    "tiny_qwen2_vl": {
        "kind": "Qwen2VL",
        "text": {
            "vocab_size": 512,
            **_layers(64, 96, 2, 4, 2),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        },
        "vision": {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4},
        "pictures": {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 100_352}},
    },
    "mid_qwen2_vl": {
        "kind": "Qwen2VL",
        "text": {**_QWEN2, "vocab_size": 32_000, **_layers(768, 2048, 4, 6, 2)},
        "vision": {"depth": 4, "embed_dim": 384, "hidden_size": 768, "num_heads": 6},
        "pictures": _PICTURES2,
    },
    "mid_qwen2_5_vl": {
        "kind": "Qwen2_5_VL",
        "text": {**_QWEN2, "vocab_size": 32_000, **_layers(768, 2048, 4, 6, 2)},
        "vision": {
            **_VISION2_5,
            "depth": 4,
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_heads": 6,
            "fullatt_block_indexes": [3],
            "out_hidden_size": 768,
        },
        "pictures": _PICTURES2,
    },
    "mid_qwen3_vl": {
        "kind": "Qwen3VL",
        "text": {**_QWEN3, "vocab_size": 32_000, **_layers(512, 2048, 4, 4, 2)},
        "vision": {
            "depth": 4,
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_heads": 6,
            "out_hidden_size": 512,
            "deepstack_visual_indexes": [1, 2, 3],
        },
        "pictures": _PICTURES3,
    },
}


def write_config(name: str, folder: Path) -> Any:
    """Write config and processor of a geometry, without weights; returns the config."""
    if "tiny" in GEOMETRIES[name]:
        return _write_from_tiny(name, folder)
    import transformers
    from transformers import AutoTokenizer, Qwen2VLImageProcessor

    from ocrkit.models.base import TINY
    from tests.tools.tiny_model.build import token_ids

    geometry = GEOMETRIES[name]
    kind, pictures = geometry["kind"], geometry["pictures"]
    tied = {"tie_word_embeddings": geometry.get("tied", True)}
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = {**token_ids(tokenizer), **tied}
    ends = {key: ids[key] for key in ("pad_token_id", "eos_token_id")}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**geometry["text"], **ends, "bos_token_id": None, **tied},
        vision_config={**geometry["vision"], "patch_size": pictures["patch_size"]},
        architectures=[f"{kind}ForConditionalGeneration"],
        **ids,
    )
    config.save_pretrained(folder)
    # The processors and video processors of Qwen2.5-VL's checkpoints are Qwen2-VL's.
    videos = "Qwen3VL" if kind == "Qwen3VL" else "Qwen2VL"
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{videos}VideoProcessor")(
            patch_size=pictures["patch_size"]
        ),
        chat_template=(TINY / "chat_template.jinja").read_text(encoding="utf-8"),
    )
    processor.save_pretrained(folder)
    return config


def _write_from_tiny(name: str, folder: Path) -> Any:
    """Write the sizes of a geometry with token ids and processor of a tiny model of its kind."""
    from tests.helpers import architectures, tiny_architectures

    geometry = GEOMETRIES[name]
    tiny = geometry["tiny"]
    known = tiny in architectures.ARCHITECTURES
    processor, model = (architectures if known else tiny_architectures).make(tiny)
    tied = {"tie_word_embeddings": geometry.get("tied", True)}
    config = type(model.config)(
        text_config={**geometry["text"], **_ids(model.config.text_config), **tied},
        vision_config=geometry["vision"],
        architectures=[type(model).__name__],
        **_ids(model.config),
        **tied,
    )
    config.save_pretrained(folder)
    for part in ("image_processor", "video_processor"):
        for key, value in geometry["pictures"].items():
            if hasattr(processor, part):
                setattr(getattr(processor, part), key, value)
    if own := geometry.get("processor"):
        template = processor.chat_template
        parts = (processor.image_processor, processor.tokenizer)
        processor = type(processor)(*parts, chat_template=template, **own)
    processor.save_pretrained(folder)
    return config


def _ids(config: Any) -> dict[str, int]:
    """Token ids that a config names."""
    ends = ("_token_id", "_token_index")
    return {key: value for key, value in config.to_dict().items() if key.endswith(ends)}


def build(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write model and processor of a Qwen-VL; in bfloat16, as checkpoints come."""
    import transformers

    config = write_config(name, folder)
    torch.manual_seed(0)
    kind = getattr(transformers, f"{GEOMETRIES[name]['kind']}ForConditionalGeneration")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = kind._from_config(config, dtype=dtype)
    ends = {key: getattr(config.text_config, key) for key in ("pad_token_id", "eos_token_id")}
    model.generation_config.update(**ends)
    model.save_pretrained(folder)


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({"built": sys.argv[1]}))
