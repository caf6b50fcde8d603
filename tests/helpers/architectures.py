"""Tiny random models of the recipes' five architectures, saved with their processors.

All sizes are small and every token is a byte or a special token, but classes, processors, picture
inputs and the style of the chat template are the real ones, so a failure here is one on a GPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLImageProcessor,
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from ocrkit import TrainConfig
from tests.tools.tiny_model.build import SPECIAL_TOKENS, TEMPLATE, token_ids

ARCHITECTURES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paddleocr_vl", "mllama")

_PADDLE_TOKENS = (
    "<unk> <|begin_of_sentence|> </s> <|IMAGE_START|> <|IMAGE_END|> <|IMAGE_PLACEHOLDER|> "
    "<|video_pad|>"
).split()
# The image token comes last: Mllama's output layer has no row for it.
_LLAMA_TOKENS = (
    "<|begin_of_text|> <|end_of_text|> <|finetune_right_pad_id|> <|start_header_id|> "
    "<|end_header_id|> <|eot_id|> <|python_tag|> <|image|>"
).split()

_PADDLE_TEMPLATE = (
    "<|begin_of_sentence|>{% for message in messages %}{% if message.role == 'user' %}User: "
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>{% endif %}{% endfor %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}\n{% else %}Assistant:\n{% for part in message.content %}{{ part.text }}"
    "{% endfor %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
_LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|image|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

# Vision tower and language model, both tiny.
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
# Pixels of 4 to 64 tokens, which cover 2 x 2 patches of 8 x 8 pixels each.
_SIZE = {"shortest_edge": 4 * 16 * 16, "longest_edge": 64 * 16 * 16}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of the architecture `name` with its processor and return its folder."""
    processor, model = make(name, seed)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # In 16 bits, as checkpoints come: a merge rounds only what it changes.
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make(name: str, seed: int = 0) -> tuple[Any, Any]:
    """Processor and random model in float32 of the architecture `name`."""
    other = {"paddleocr_vl": _paddleocr_vl, "mllama": _mllama}
    return other[name](seed) if name in other else _qwen(name, seed)


def byte_tokenizer(
    special: Sequence[str],
    merges: Sequence[tuple[str, str]] = (("t", "h"),),
    plain: Sequence[str] = (),
    **named: Any,
) -> PreTrainedTokenizerFast:
    """Tokenizer of bytes and a few merges (llama.cpp refuses a vocabulary without merges).

    Args:
        special: special tokens.
        merges: pairs of symbols that become a token.
        plain: added tokens that are not special.
        named: settings of the tokenizer, such as the names of its special tokens.
    """
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {symbol: n for n, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[*merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named
    )


def random_model(kind: Any, config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return kind._from_config(config, attn_implementation="eager")


def _qwen_parts() -> tuple[PreTrainedTokenizerFast, dict, dict]:
    """Tokenizer, image processor settings and token ids of a Qwen config."""
    tokenizer = byte_tokenizer(
        SPECIAL_TOKENS,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    pictures = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": dict(_SIZE),
    }
    ids = {**token_ids(tokenizer), "tie_word_embeddings": True}
    return tokenizer, pictures, ids


def text_config(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict:
    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {**TEXT, "vocab_size": len(tokenizer), **tokens, **more}


# Classes of each Qwen model, and settings of its own for text model and vision tower.
_QWEN = {
    "qwen2_vl": (
        (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, Qwen2VLVideoProcessor),
        {"rope_parameters": _MROPE},
        {"embed_dim": 64, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": (
        (
            Qwen2_5_VLConfig,
            Qwen2_5_VLForConditionalGeneration,
            Qwen2_5_VLProcessor,
            Qwen2VLVideoProcessor,
        ),
        {"rope_parameters": _MROPE},
        # Windows of 2 x 2 tokens in one layer, all of the picture in the other.
        {
            "intermediate_size": 96,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
    ),
    "qwen3_vl": (
        (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor),
        {"head_dim": 16, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
        {
            "intermediate_size": 96,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    ),
}


def _qwen(name: str, seed: int) -> tuple[Any, Any]:
    (config, model, processor, video), text, vision = _QWEN[name]
    tokenizer, pictures, ids = _qwen_parts()
    # llama.cpp finds the layers between tower and language model by numbers below the depth.
    sizes = {"depth": 3, "hidden_size": 64, "num_heads": 4, "patch_size": 8}
    config = config(
        text_config=text_config(tokenizer, **text),
        vision_config={**sizes, **vision, "initializer_range": 0.2},
        **ids,
    )
    processor = processor(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=video(**pictures),
        chat_template=TEMPLATE,
    )
    return processor, random_model(model, config, seed)


def _paddleocr_vl(seed: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        _PADDLE_TOKENS,
        unk_token="<unk>",
        bos_token="<|begin_of_sentence|>",
        eos_token="</s>",
        pad_token="<unk>",
        extra_special_tokens={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    )
    token = tokenizer.convert_tokens_to_ids
    config = PaddleOCRVLConfig(
        text_config=text_config(tokenizer, head_dim=16, rope_parameters=_MROPE),
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_id=token("<|IMAGE_PLACEHOLDER|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|IMAGE_START|>"),
        vision_end_token_id=token("<|IMAGE_END|>"),
    )
    processor = PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessor(patch_size=8, size=dict(_SIZE)),
        tokenizer=tokenizer,
        chat_template=_PADDLE_TEMPLATE,
    )
    return processor, random_model(PaddleOCRVLForConditionalGeneration, config, seed)


def _mllama(seed: int) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        _LLAMA_TOKENS,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
    )
    config = MllamaConfig(
        text_config=text_config(
            tokenizer,
            vocab_size=len(tokenizer) - 1,
            num_hidden_layers=3,
            cross_attention_layers=[1],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        ),
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 128,
            "initializer_range": 0.2,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=4),
        tokenizer=tokenizer,
        chat_template=_LLAMA_TEMPLATE,
    )
    model = random_model(MllamaForConditionalGeneration, config, seed)
    # The gates are initialised to 0, which would hide pictures from the model.
    with torch.no_grad():
        for parameter_name, weight in model.named_parameters():
            if "gate" in parameter_name.rpartition(".")[2] and weight.numel() == 1:
                weight.fill_(1.0)
    return processor, model


def numbered_rows(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Rows with pictures of these sizes, and prompts and answers of unlike lengths."""
    rows = []
    for number, size in enumerate(sizes):
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).text((2, 2), f"No. {number}", fill="black")
        image.save(folder / f"{number}.png")
        rows.append(
            {
                "id": str(number),
                "images": [str(folder / f"{number}.png")],
                "sizes": [list(size)],
                "width": size[0],
                "height": size[1],
                "prompt": [{"role": "user", "content": "Read." + " Well." * (number % 3)}],
                "completion": [{"role": "assistant", "content": f"No. {number}" + "x" * number}],
                "language": "en",
            }
        )
    return rows


def tiny_config(folder: Path, output_dir: Path, batch_size: int, **changes: Any) -> TrainConfig:
    """Settings to train a tiny model exactly; every row is in every step, so losses compare."""
    settings = {
        "model_name_or_path": str(folder),
        "output_dir": str(output_dir),
        "backend": "transformers",
        "load_in_4bit": False,
        "dtype": "float32",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": batch_size,
        "warmup_steps": 0,
        "per_device_eval_batch_size": batch_size,
        "learning_rate": 0.005,
        "logging_steps": 1,
    }
    return TrainConfig.from_dict({**settings, **changes})
