"""Embedded model: build tokenizer, processor and architecture; transcribe lines; save."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from data_prep.dataset.schema import PROMPTS
from ocrkit.data.collate import Collator
from tests.tools.tiny_model.lines import HEIGHT, characters

PROMPT = PROMPTS["transcription"]

SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
).split()
_TAGS = "<table> </table> <tr> </tr> <td> </td>".split()
_WORDS = ["user", "assistant", "system", *PROMPTS.values(), *_TAGS]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with a token for each character, and byte tokens for every other character."""
    tokens = [*SPECIAL_TOKENS, *_WORDS, "\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += "".join(characters().values())
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Token ids of a Qwen config, from a tokenizer with Qwen's special tokens."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Qwen3-VL's processor with 8-pixel patches; white paper becomes 0 (mean 1.0, std 0.3)."""
    pictures: dict[str, Any] = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 1,
        "image_mean": [1.0] * 3,
        "image_std": [0.3] * 3,
        # An image token covers 16 x 16 pixels.
        "size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 512 * 16 * 16},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pictures),
        chat_template=TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> Qwen3VLForConditionalGeneration:
    """An untrained Qwen3-VL, 128 wide with 3 layers of vision and 3 of text, in float32."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "initializer_range": 0.06,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "out_hidden_size": 128,
            "num_position_embeddings": 1024,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.06,
        },
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    return model


def sample_row(text: str, image: Image.Image, prompt: str = PROMPT) -> dict:
    """A dataset row in the form that the collator takes."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [image],
    }


@torch.no_grad()
def read_lines(
    model: PreTrainedModel, processor: ProcessorMixin, images: list[Image.Image]
) -> list[str]:
    """Transcribe pictures by greedy decoding, in their order."""
    collate = Collator(processor, image_height=HEIGHT, generation=True)
    order = sorted(range(len(images)), key=lambda i: images[i].width)
    texts = [""] * len(images)
    model.eval()
    for start in range(0, len(order), 50):
        chosen = order[start : start + 50]
        batch = collate([sample_row("", images[i]) for i in chosen])
        ids = model.generate(**batch, max_new_tokens=96, do_sample=False)
        decoded = processor.tokenizer.batch_decode(
            ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(chosen, decoded):
            texts[i] = text
    model.train()
    return texts


def save(model: PreTrainedModel, processor: ProcessorMixin, history: dict, folder: Path) -> None:
    """Write weights in bf16, processor and `curve.json` (parts, learning curve, fonts)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("measured.json", "README.md"):  # they describe the replaced weights
        (folder / name).unlink(missing_ok=True)
    processor.save_pretrained(folder)
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    model.save_pretrained(folder, state_dict=state)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "curve.json").write_text(json.dumps(history, indent=1, ensure_ascii=False) + "\n")
