"""Tiny random models of further vision-language architectures, saved with their processors.

Config, model and processor classes are those of the installed transformers, all sizes are small.
The chat templates are short ones of the shape that each model's own has: where it puts pictures,
what it writes between the assistant's header and the answer, and how a turn ends. The file is
long because it is one table, a few lines an architecture.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedTokenizerFast

from tests.helpers.architectures import TEXT, byte_tokenizer, random_model, text_config

# Two patches are merged in each direction: a token is 16 x 16 pixels.
_SIZE = {"shortest_edge": 4 * 16 * 16, "longest_edge": 64 * 16 * 16}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_HALF_MROPE = {**_MROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_channels": 3,
    "patch_size": 8,
    "initializer_range": 0.2,
}
# The same tower in the terms of Qwen-VL's and GLM's configs.
_QWEN_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "depth": 2,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
    "initializer_range": 0.2,
}
_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


class Tokens(NamedTuple):
    """Special tokens of a tokenizer: those with a role, those that a processor names, others."""

    eos: str
    pad: str
    bos: str | None = None
    named: Mapping[str, str] = MappingProxyType({})
    others: tuple[str, ...] = ()
    # Added tokens that are not special, such as <think>.
    plain: tuple[str, ...] = ()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer of bytes with these tokens; a space and an N are merged to one token."""
        special = [self.bos, self.eos, self.pad, *self.named.values(), *self.others]
        special = [*dict.fromkeys(token for token in special if token)]
        roles = {"eos_token": self.eos, "pad_token": self.pad}
        tokenizer = byte_tokenizer(
            special,
            merges=[("t", "h"), ("Ġ", "N")],
            plain=self.plain,
            **roles | ({"bos_token": self.bos} if self.bos else {}),
            extra_special_tokens=dict(self.named),
        )
        return tokenizer


def chat_template(
    image: str,
    user: tuple[str, str],
    assistant: tuple[str, str],
    generation: str | None = None,
    start: str = "",
    between: str = "",
    thinking: str = "",
    thought: str = "",
) -> str:
    """Write a chat template.

    Args:
        image: the placeholder of a picture.
        user: text before and after a user's turn; likewise `assistant`.
        generation: the generation prompt; None: the text before an assistant's turn.
        start: text before the conversation.
        between: text between a picture and the text after it.
        thinking: an empty thought, which ends the generation prompt where `enable_thinking` is
            false.
        thought: the beginning of a thought, which ends it elsewhere.
    """
    if generation is None:
        generation = assistant[0]
    parts = (
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{% if part.type == 'image' %}"
        + _write(image + between)
        + ""
        "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    )
    by_thinking = "{% if enable_thinking|default(true) %}" + _write(thought) + "{% else %}"
    by_thinking += _write(thinking) + "{% endif %}"
    return (
        _write(start)
        + "{% for message in messages %}{% if message.role == 'assistant' %}"
        + (_write(assistant[0]) + parts + _write(assistant[1]))
        + "{% else %}"
        + (_write(user[0]) + parts + _write(user[1]))
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + _write(generation)
        + (by_thinking if thinking else "")
        + "{% endif %}"
    )


def _write(text: str) -> str:
    """Jinja that writes a text; a line break after a block would be left out."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


class Architecture(NamedTuple):
    """Parts of a tiny model: tokens, template, processor, and settings of its config.

    Attributes:
        processor: makes the processor of a tokenizer and a template.
        config: makes the settings of the config.
    """

    tokens: Tokens
    template: str
    processor: Callable[[Any, str], Any]
    config: Callable[["Ids"], dict[str, Any]]


class Ids:
    """Token ids of a tokenizer, and the text model's settings with them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, token: str) -> int:
        """Number of a token."""
        return self.tokenizer.convert_tokens_to_ids(token)

    def text(self, **more: Any) -> dict[str, Any]:
        """Settings of a tiny language model with this tokenizer."""
        return text_config(self.tokenizer, **more)


def _kind(name: str) -> Any:
    return getattr(transformers, name)


_CHATML = (("<|im_start|>user\n", "<|im_end|>\n"), ("<|im_start|>assistant\n", "<|im_end|>\n"))
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_NO_THOUGHT = "<think>\n\n</think>\n\n"


def _qwen_tokens(**more: Any) -> Tokens:
    return Tokens(
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
        others=("<|im_start|>",),
        **more,
    )


def _qwen_ids(ids: Ids) -> dict[str, int]:
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _patches(**more: Any) -> dict[str, Any]:
    return {"patch_size": 8, "merge_size": 2, "size": dict(_SIZE), **more}


def _qwen_processor(tokenizer: Any, template: str) -> Any:
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    pictures = _patches(temporal_patch_size=2)
    return _kind("Qwen3VLProcessor")(
        image_processor=_kind("Qwen2VLImageProcessor")(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pictures),
        chat_template=template,
    )


_GLM_TOKENS = Tokens(
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    named={"image_token": "<|image|>", "video_token": "<|video|>"},
    others=(
        *("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>"),
        *("<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    ),
    plain=("<think>", "</think>"),
)
_GLM_IMAGE = "<|begin_of_image|><|image|><|end_of_image|>"


def _glm_ids(ids: Ids) -> dict[str, int]:
    return {
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "image_start_token_id": ids("<|begin_of_image|>"),
        "image_end_token_id": ids("<|end_of_image|>"),
        "video_start_token_id": ids("<|begin_of_video|>"),
        "video_end_token_id": ids("<|end_of_video|>"),
    }


def _glm_processor(name: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        # The area is counted with its two frames.
        size = {key: 2 * pixels for key, pixels in _SIZE.items()}
        pictures = _patches(temporal_patch_size=2, size=size)
        return _kind(f"{name}Processor")(
            image_processor=_kind(f"{name}ImageProcessor")(**pictures),
            tokenizer=tokenizer,
            video_processor=_kind(f"{name}VideoProcessor")(**pictures),
            chat_template=template,
        )

    return make


def _glm_config(**more: Any) -> Callable[[Ids], dict[str, Any]]:
    def make(ids: Ids) -> dict[str, Any]:
        rope = {**_MROPE, "mrope_section": [2, 3, 3]}
        text = ids.text(rope_parameters=rope, pad_token_id=ids("<|endoftext|>"), head_dim=16)
        vision = {**_QWEN_VISION, "image_size": 64}
        return {"text_config": text | more, "vision_config": vision, **_glm_ids(ids)}

    return make


def _idefics_tokens() -> Tokens:
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)]
    return Tokens(
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        bos="<|im_start|>",
        named={"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"},
        others=("<global-img>", *rows),
    )


_IDEFICS_TEMPLATE = chat_template(
    "<image>",
    ("User:", "<end_of_utterance>\n"),
    ("Assistant: ", "<end_of_utterance>\n"),
    generation="Assistant:",
    start="<|im_start|>",
)


def _idefics_processor(name: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        size = {"longest_edge": 128}, {"longest_edge": 32}
        pictures = {"size": size[0], "max_image_size": size[1]}
        more = {}
        if name == "SmolVLM":
            more["video_processor"] = _kind("SmolVLMVideoProcessor")(
                **pictures, num_frames=2, fps=1
            )
        return _kind(f"{name}Processor")(
            _kind(f"{name}ImageProcessor")(**pictures),
            tokenizer,
            image_seq_len=4,
            chat_template=template,
            **more,
        )

    return make


def _idefics_config(ids: Ids) -> dict[str, Any]:
    text = ids.text(model_type="llama", head_dim=16)
    return {
        "text_config": text,
        "vision_config": {**_VISION, "image_size": 32},
        "image_token_id": ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": ids("<|im_end|>"),
    }


def _lfm2_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("Lfm2VlImageProcessor")(
        min_image_tokens=4,
        max_image_tokens=16,
        tile_size=32,
        encoder_patch_size=8,
        downsample_factor=2,
        min_tiles=2,
        max_tiles=4,
        size={"height": 32, "width": 32},
    )
    return _kind("Lfm2VlProcessor")(pictures, tokenizer, chat_template=template)


def _lfm2_config(ids: Ids) -> dict[str, Any]:
    vision = {**_VISION, "model_type": "siglip2_vision_model", "num_patches": 64}
    text = ids.text(
        model_type="lfm2",
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
    )
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids("<image>"),
        "projector_hidden_size": 64,
        "downsample_factor": 2,
    }


_PIXTRAL_VISION = {
    **_VISION,
    "model_type": "pixtral",
    "image_size": 128,
    "head_dim": 16,
}


def _lighton_processor(tokenizer: Any, template: str) -> Any:
    # The processor aligns pictures to whole tokens only where patch and token are the same size.
    pictures = _kind("PixtralImageProcessor")(
        patch_size={"height": 16, "width": 16}, size={"longest_edge": 128}
    )
    return _kind("LightOnOcrProcessor")(
        pictures, tokenizer, patch_size=8, spatial_merge_size=2, chat_template=template
    )


def _lighton_config(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": ids.text(model_type="qwen3", head_dim=16),
        "vision_config": _PIXTRAL_VISION,
        "image_token_id": ids("<|image_pad|>"),
        "spatial_merge_size": 2,
    }


def _mistral_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("PixtralImageProcessor")(patch_size=8, size={"longest_edge": 128})
    return _kind("PixtralProcessor")(
        pictures, tokenizer, patch_size=8, spatial_merge_size=2, chat_template=template
    )


def _mistral_config(ids: Ids) -> dict[str, Any]:
    return {
        "text_config": ids.text(model_type="mistral", head_dim=16),
        "vision_config": _PIXTRAL_VISION,
        "image_token_index": ids("[IMG]"),
        "spatial_merge_size": 2,
    }


def _qwen3_5_text(ids: Ids) -> dict[str, Any]:
    return ids.text(
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        rope_parameters={**_HALF_MROPE, "mrope_interleaved": True},
    )


def _minicpm_processor(tokenizer: Any, template: str) -> Any:
    pictures = {"patch_size": 8, "scale_resolution": 64, "max_slice_nums": 4}
    return _kind("MiniCPMV4_6Processor")(
        image_processor=_kind("MiniCPMV4_6ImageProcessor")(**pictures),
        tokenizer=tokenizer,
        video_processor=_kind("MiniCPMV4_6VideoProcessor")(**pictures),
        chat_template=template,
    )


def _minicpm_config(ids: Ids) -> dict[str, Any]:
    vision = {**_VISION, "image_size": 64, "insert_layer_id": 0}
    return {
        "text_config": {**_qwen3_5_text(ids), "model_type": "qwen3_5_text"},
        "vision_config": vision,
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "image_size": 64,
        "patch_size": 8,
        "insert_layer_id": 0,
    }


def _deepseek_processor(tokenizer: Any, template: str) -> Any:
    # The queries of the vision encoder are 144 a tile and 256 a page, whatever the sizes: 768 and
    # 1024 pixels in 16 x 16 patches, 4 x 4 of which make a token.
    pictures = _kind("DeepseekOcr2ImageProcessor")(
        size={"height": 1024, "width": 1024}, tile_size=768, max_patches=2
    )
    return _kind("DeepseekOcr2Processor")(pictures, tokenizer, chat_template=template)


def _deepseek_config(ids: Ids) -> dict[str, Any]:
    sam = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "mlp_ratio": 2.0,
        "downsample_channels": [16, 32],
        "global_attn_indexes": [],
        "image_size": 1024,
        "initializer_range": 0.2,
    }
    encoder = {**TEXT, "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 8}
    text = ids.text(
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        mlp_layer_types=["dense", "sparse"],
        max_position_embeddings=2048,
        head_dim=16,
        num_key_value_heads=4,
    )
    return {
        "text_config": text,
        "vision_config": {"sam_config": sam, "encoder_config": encoder},
        "image_token_id": ids("<image>"),
    }


_GEMMA_TOKENS = Tokens(
    eos="<eos>",
    pad="<pad>",
    bos="<bos>",
    named={
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    },
    others=("<start_of_turn>", "<end_of_turn>"),
)


def _gemma3_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("Gemma3ImageProcessor")(size={"height": 64, "width": 64})
    return _kind("Gemma3Processor")(
        pictures, tokenizer, chat_template=template, image_seq_length=16
    )


def _sliding(ids: Ids, **more: Any) -> dict[str, Any]:
    return ids.text(
        head_dim=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=16,
        **more,
    )


def _gemma3_config(ids: Ids) -> dict[str, Any]:
    vision = {**_VISION, "model_type": "siglip_vision_model", "image_size": 64}
    return {
        "text_config": _sliding(ids),
        "vision_config": {**vision, "vision_use_head": False},
        "mm_tokens_per_image": 16,
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "image_token_index": ids("<image_soft_token>"),
    }


_GEMMA4_TOKENS = Tokens(
    eos="<eos>",
    pad="<pad>",
    bos="<bos>",
    named={
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    },
    others=("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|video|>"),
)


def _gemma4_processor(tokenizer: Any, template: str) -> Any:
    pictures = {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    return _kind("Gemma4Processor")(
        feature_extractor=_kind("Gemma4AudioFeatureExtractor")(),
        image_processor=_kind("Gemma4ImageProcessor")(**pictures),
        tokenizer=tokenizer,
        video_processor=_kind("Gemma4VideoProcessor")(**pictures),
        chat_template=template,
        image_seq_length=70,
    )


def _gemma4_config(ids: Ids) -> dict[str, Any]:
    vision = {
        **_VISION,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "pooling_kernel_size": 2,
        "position_embedding_size": 128,
        "default_output_length": 70,
    }
    text = _sliding(
        ids,
        global_head_dim=16,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=len(ids.tokenizer),
    )
    return {
        "text_config": text,
        "vision_config": vision,
        "boi_token_id": ids("<|image>"),
        "eoi_token_id": ids("<image|>"),
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "boa_token_id": ids("<|audio>"),
        "audio_token_id": ids("<|audio|>"),
    }


def _intern_tokens() -> Tokens:
    return Tokens(
        eos="<|im_end|>",
        pad="<|endoftext|>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        others=("<|im_start|>", "<image>"),
    )


def _intern_processor(name: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        pictures = _kind("GotOcr2ImageProcessor")(
            size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4
        )
        more = {}
        if name == "InternVL":
            more["video_processor"] = _kind("InternVLVideoProcessor")(
                size={"height": 32, "width": 32}
            )
        return _kind(f"{name}Processor")(
            image_processor=pictures,
            tokenizer=tokenizer,
            image_seq_length=4,
            chat_template=template,
            **more,
        )

    return make


def _intern_config(text_type: str) -> Callable[[Ids], dict[str, Any]]:
    def make(ids: Ids) -> dict[str, Any]:
        vision = {**_VISION, "image_size": [32, 32], "patch_size": [8, 8]}
        return {
            "text_config": ids.text(model_type=text_type, head_dim=16),
            "vision_config": vision,
            "image_token_id": ids("<IMG_CONTEXT>"),
            "image_seq_length": 4,
        }

    return make


_GRANITE_GRID = [[64, 128], [128, 64], [128, 128], [192, 64], [64, 192]]


def _granite_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("LlavaNextImageProcessor")(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_grid_pinpoints=_GRANITE_GRID,
    )
    return _kind("Granite4VisionProcessor")(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=template,
        downsample_rate="1/2",
    )


def _granite_config(ids: Ids) -> dict[str, Any]:
    text = ids.text(num_hidden_layers=4, head_dim=16)
    # LlamaConfig's attention scale is derived, Granite's is given.
    text |= {"attention_multiplier": 0.25}
    qformer = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "cross_attention_frequency": 1,
        "encoder_hidden_size": 64,
        "use_qformer_text_input": False,
        "initializer_range": 0.2,
    }
    vision = {**_VISION, "model_type": "siglip_vision_model", "image_size": 64}
    return {
        "text_config": text,
        "vision_config": {**vision, "vision_use_head": False},
        "qformer_config": qformer,
        "image_token_index": ids("<image>"),
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": _GRANITE_GRID,
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 0]],
        "spatial_target_layers": [0, 1, 2, 3],
        "spatial_vision_layer": -1,
    }


def _got_processor(tokenizer: Any, template: str) -> Any:
    # A picture is 256 tokens, whatever its size: 1024 pixels, 16 x 16 patches, 4 x 4 a token.
    pictures = _kind("GotOcr2ImageProcessor")(size={"height": 1024, "width": 1024})
    return _kind("GotOcr2Processor")(pictures, tokenizer, chat_template=template)


def _got_config(ids: Ids) -> dict[str, Any]:
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "global_attn_indexes": [],
        "initializer_range": 0.2,
    }
    return {
        "text_config": ids.text(model_type="qwen2"),
        "vision_config": vision,
        "image_token_index": ids("<imgpad>"),
        "image_seq_length": 256,
    }


_ERNIE_TOKENS = Tokens(
    eos="</s>",
    pad="<unk>",
    bos="<s>",
    named={
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    },
    others=("<|begin_of_sentence|>", "<|end_of_sentence|>"),
)


def _ernie_processor(tokenizer: Any, template: str) -> Any:
    pictures = _patches()
    return _kind("Ernie4_5_VLMoeProcessor")(
        image_processor=_kind("Ernie4_5_VLMoeImageProcessor")(**pictures),
        tokenizer=tokenizer,
        # A font, which the model's folder brings, would be written onto frames.
        video_processor=_kind("Ernie4_5_VLMoeVideoProcessor")(**pictures, draw_on_frames=False),
        chat_template=template,
    )


def _ernie_config(ids: Ids) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]}
    text = ids.text(
        moe_intermediate_size=[32, 16],
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=1,
        mlp_layer_types=["dense", "sparse"],
        rope_parameters=rope,
    )
    names = ("image_token", "image_start_token", "image_end_token")
    names += ("video_token", "video_start_token", "video_end_token")
    tower = {key: value for key, value in _QWEN_VISION.items() if key != "out_hidden_size"}
    return {
        "text_config": text,
        "vision_config": tower | {"temporal_merge_size": 2},
        **{f"{name}_id": ids(_ERNIE_TOKENS.named[name]) for name in names},
    }


def _paligemma_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("SiglipImageProcessor")(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    return _kind("PaliGemmaProcessor")(pictures, tokenizer, chat_template=template)


def _paligemma_config(ids: Ids) -> dict[str, Any]:
    vision = {**_VISION, "model_type": "siglip_vision_model", "image_size": 32}
    return {
        "text_config": ids.text(model_type="gemma", head_dim=16),
        "vision_config": {**vision, "vision_use_head": False, "projection_dim": 64},
        "image_token_index": ids("<image>"),
        "projection_dim": 64,
        "hidden_size": 64,
    }


_HUNYUAN_TOKENS = Tokens(
    eos="<|hy_eos|>",
    pad="<|hy_pad|>",
    bos="<|hy_bos|>",
    named={
        "image_token": "<|hy_image|>",
        "image_start_token": "<|hy_image_start|>",
        "image_end_token": "<|hy_image_end|>",
    },
    others=("<|hy_user|>", "<|hy_newline|>"),
)


def _hunyuan_processor(tokenizer: Any, template: str) -> Any:
    pictures = _kind("HunYuanVLImageProcessor")(**_patches())
    return _kind("HunYuanVLProcessor")(pictures, tokenizer, chat_template=template)


def _hunyuan_config(ids: Ids) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2, 2]}
    vision = {
        **_VISION,
        "num_key_value_heads": 4,
        "out_hidden_size": 64,
        "text_hidden_size": 64,
        "max_image_size": 256,
        "spatial_merge_size": 2,
    }
    return {
        "text_config": ids.text(
            head_dim=16, rope_parameters={**rope, "alpha": 1000.0, "factor": 1.0}
        ),
        "vision_config": vision,
        "image_token_id": ids("<|hy_image|>"),
        "im_start_id": ids("<|hy_image_start|>"),
        "im_end_id": ids("<|hy_image_end|>"),
        "im_newline_id": ids("<|hy_newline|>"),
    }


_ASSISTANT_THINKS = (_CHATML[1][0] + _NO_THOUGHT, _CHATML[1][1])
_GLM = {
    # Nothing but the header in the generation prompt, an empty thought in the conversation.
    "template": chat_template(
        _GLM_IMAGE,
        ("<|user|>\n", ""),
        ("<|assistant|>\n<think></think>\n", ""),
        generation="<|assistant|>\n",
        start="[gMASK]<sop>",
    ),
}

ARCHITECTURES: dict[str, Architecture] = {
    "qwen3_5": Architecture(
        _qwen_tokens(plain=("<think>", "</think>")),
        chat_template(
            _QWEN_IMAGE,
            _CHATML[0],
            _ASSISTANT_THINKS,
            generation="<|im_start|>assistant\n",
            thinking=_NO_THOUGHT,
            thought="<think>\n",
        ),
        _qwen_processor,
        lambda ids: {
            "text_config": _qwen3_5_text(ids),
            "vision_config": {**_QWEN_VISION, "num_position_embeddings": 64},
            **_qwen_ids(ids),
        },
    ),
    "glm_ocr": Architecture(
        _GLM_TOKENS, _GLM["template"], _glm_processor("Glm46V"), _glm_config(num_key_value_heads=4)
    ),
    "glm4v": Architecture(
        _GLM_TOKENS,
        chat_template(
            _GLM_IMAGE,
            ("<|user|>\n", ""),
            ("<|assistant|>\n", ""),
            start="[gMASK]<sop>",
        ),
        _glm_processor("Glm4v"),
        _glm_config(),
    ),
    "glm46v": Architecture(
        _GLM_TOKENS,
        chat_template(
            _GLM_IMAGE,
            ("<|user|>\n", ""),
            ("<|assistant|>\n<think></think>\n", ""),
            generation="<|assistant|>",
            start="[gMASK]<sop>",
            thinking="\n<think></think>\n",
        ),
        _glm_processor("Glm46V"),
        lambda ids: _with_types(_glm_config()(ids), "glm4v_text", "glm4v_vision"),
    ),
    "qwen3_vl_moe": Architecture(
        _qwen_tokens(),
        chat_template(_QWEN_IMAGE, *_CHATML),
        _qwen_processor,
        lambda ids: {
            "text_config": ids.text(
                head_dim=16, rope_parameters={**_MROPE, "mrope_interleaved": True}, **_EXPERTS
            ),
            "vision_config": {
                **_QWEN_VISION,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
            **_qwen_ids(ids),
        },
    ),
    "idefics3": Architecture(
        _idefics_tokens(), _IDEFICS_TEMPLATE, _idefics_processor("Idefics3"), _idefics_config
    ),
    "smolvlm": Architecture(
        _idefics_tokens(), _IDEFICS_TEMPLATE, _idefics_processor("SmolVLM"), _idefics_config
    ),
    "lfm2_vl": Architecture(
        Tokens(
            eos="<|im_end|>",
            pad="<|pad|>",
            bos="<|startoftext|>",
            named={
                "image_token": "<image>",
                "image_start_token": "<|image_start|>",
                "image_end_token": "<|image_end|>",
                "image_thumbnail_token": "<|img_thumbnail|>",
            },
            others=(
                "<|im_start|>",
                *(f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5)),
            ),
        ),
        chat_template("<image>", *_CHATML, start="<|startoftext|>"),
        _lfm2_processor,
        _lfm2_config,
    ),
    "lighton_ocr": Architecture(
        Tokens(
            eos="<|im_end|>",
            pad="<|endoftext|>",
            named={
                "image_token": "<|image_pad|>",
                "image_break_token": "<|vision_pad|>",
                "image_end_token": "<|vision_end|>",
            },
            others=("<|im_start|>",),
        ),
        chat_template("<|image_pad|>", *_CHATML, start="<|im_start|>system<|im_end|>\n"),
        _lighton_processor,
        _lighton_config,
    ),
    "mistral3": Architecture(
        Tokens(
            eos="</s>",
            pad="<pad>",
            bos="<s>",
            others=("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        ),
        chat_template("[IMG]", ("[INST]", "[/INST]"), ("", "</s>"), start="<s>"),
        _mistral_processor,
        _mistral_config,
    ),
    "minicpmv4_6": Architecture(
        Tokens(
            eos="<|im_end|>",
            pad="<|endoftext|>",
            named={
                "image_token": "<|image_pad|>",
                "video_token": "<|video_pad|>",
                "image_start_token": "<image>",
                "image_end_token": "</image>",
                "slice_start_token": "<slice>",
                "slice_end_token": "</slice>",
                "image_id_start_token": "<image_id>",
                "image_id_end_token": "</image_id>",
            },
            others=("<|im_start|>",),
            plain=("<think>", "</think>"),
        ),
        chat_template(
            "<|image_pad|>",
            _CHATML[0],
            _ASSISTANT_THINKS,
            generation=_CHATML[1][0],
            between="\n",
            thinking=_NO_THOUGHT,
        ),
        _minicpm_processor,
        _minicpm_config,
    ),
    "deepseek_ocr2": Architecture(
        Tokens(
            eos="<｜end▁of▁sentence｜>",
            pad="<｜▁pad▁｜>",
            bos="<｜begin▁of▁sentence｜>",
            named={"image_token": "<image>"},
            others=("<|grounding|>",),
        ),
        # No roles: a picture, the instruction, the answer.
        chat_template(
            "<image>",
            ("", ""),
            ("", "<｜end▁of▁sentence｜>"),
            start="<｜begin▁of▁sentence｜>",
            between="\n",
        ),
        _deepseek_processor,
        _deepseek_config,
    ),
    "gemma3": Architecture(
        _GEMMA_TOKENS,
        chat_template(
            "<start_of_image>",
            ("<start_of_turn>user\n", "<end_of_turn>\n"),
            ("<start_of_turn>model\n", "<end_of_turn>\n"),
            start="<bos>",
        ),
        _gemma3_processor,
        _gemma3_config,
    ),
    "gemma4": Architecture(
        _GEMMA4_TOKENS,
        # The generation prompt holds an empty thought, which the conversation lacks.
        chat_template(
            "<|image|>",
            ("<|turn>user\n", "<turn|>\n"),
            ("<|turn>model\n", "<turn|>\n"),
            start="<bos>",
            thinking="<|channel>thought\n<channel|>",
        ),
        _gemma4_processor,
        _gemma4_config,
    ),
    "internvl": Architecture(
        _intern_tokens(),
        chat_template("<IMG_CONTEXT>", *_CHATML, between="\n"),
        _intern_processor("InternVL"),
        _intern_config("qwen2"),
    ),
    "qianfan_ocr": Architecture(
        _intern_tokens(),
        chat_template("<image>", *_CHATML, between="\n"),
        _intern_processor("QianfanOCR"),
        _intern_config("qwen3"),
    ),
    "granite4_vision": Architecture(
        Tokens(
            eos="<|end_of_text|>",
            pad="<|pad|>",
            named={"image_token": "<image>"},
            others=("<|start_of_role|>", "<|end_of_role|>"),
        ),
        chat_template(
            "<image>",
            ("<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"),
            ("<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"),
            between="\n",
        ),
        _granite_processor,
        _granite_config,
    ),
    "got_ocr2": Architecture(
        Tokens(
            eos="<|im_end|>",
            pad="<|endoftext|>",
            others=("<|im_start|>", "<img>", "</img>", "<imgpad>"),
        ),
        chat_template(
            "<img><imgpad></img>",
            ("<|im_start|>user\n", "<|im_end|>"),
            ("<|im_start|>assistant\n", "<|im_end|>"),
            start="<|im_start|>system\nFollow the instructions.<|im_end|>",
            between="\n",
        ),
        _got_processor,
        _got_config,
    ),
    "ernie4_5_vl_moe": Architecture(
        _ERNIE_TOKENS,
        chat_template(
            "Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
            ("User: ", ""),
            ("\nAssistant: ", "<|end_of_sentence|>"),
            start="<|begin_of_sentence|>",
            thinking=_NO_THOUGHT,
        ),
        _ernie_processor,
        _ernie_config,
    ),
    "paligemma": Architecture(
        Tokens(eos="<eos>", pad="<pad>", bos="<bos>", named={"image_token": "<image>"}),
        chat_template("<image>", ("", ""), ("", "<eos>")),
        _paligemma_processor,
        _paligemma_config,
    ),
    "hunyuan_vl": Architecture(
        _HUNYUAN_TOKENS,
        chat_template(
            "<|hy_image_start|><|hy_image|><|hy_image_end|>",
            ("", "<|hy_user|>"),
            ("", "<|hy_eos|>"),
            start="<|hy_bos|>",
        ),
        _hunyuan_processor,
        _hunyuan_config,
    ),
}


def _with_types(config: dict[str, Any], text: str, vision: str) -> dict[str, Any]:
    config["text_config"]["model_type"] = text
    config["vision_config"]["model_type"] = vision
    return config


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of the architecture `name` with its processor and return its folder."""
    processor, model = make(name, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make(name: str, seed: int = 0) -> tuple[Any, Any]:
    """Processor and random model in float32 of the architecture `name`."""
    parts = ARCHITECTURES[name]
    tokenizer = parts.tokens.tokenizer()
    processor = parts.processor(tokenizer, parts.template)
    # A processor may have added tokens of its own.
    settings = parts.config(Ids(processor.tokenizer))
    config = CONFIG_MAPPING[name](**settings)
    kind = AutoModelForImageTextToText._model_mapping[type(config)]
    model = random_model(kind, config, seed)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return processor, model


# Encoder-decoders, which read no conversation.
ENCODER_DECODERS = ("donut", "trocr", "florence2")


def build_encoder_decoder(name: str, folder: Path) -> Path:
    """Write a random encoder-decoder (Donut, TrOCR or Florence-2) and return its folder."""
    named = {"image_token": "<image>"} if name == "florence2" else {}
    tokenizer = Tokens(eos="</s>", pad="<pad>", bos="<s>", named=named).tokenizer()
    sizes = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2}
    sizes |= {"decoder_ffn_dim": 32, "vocab_size": len(tokenizer)}
    small = {"height": 32, "width": 32}
    if name == "florence2":
        text = {**sizes, "model_type": "bart", "encoder_layers": 1, "encoder_attention_heads": 2}
        vision = {
            "embed_dim": [16, 16, 16, 32],
            "depths": [1, 1, 1, 1],
            "num_heads": [2, 2, 2, 2],
            "num_groups": [2, 2, 2, 2],
            "projection_dim": 32,
        }
        text |= {"encoder_ffn_dim": 32, "is_encoder_decoder": True}
        config = _kind("Florence2Config")(
            text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id
        )
        model = _kind("Florence2ForConditionalGeneration")(config)
        pictures = _kind("CLIPImageProcessor")(size=small, crop_size=small)
        processor = _kind("Florence2Processor")(pictures, tokenizer)
    elif name == "donut":
        encoder = _kind("DonutSwinConfig")(
            image_size=32, patch_size=4, embed_dim=16, depths=[1], num_heads=[2], window_size=4
        )
        decoder = _kind("MBartConfig")(**sizes, is_decoder=True, add_cross_attention=True)
        model = _encoder_decoder(encoder, decoder)
        pictures = _kind("DonutImageProcessor")(size=small)
        processor = _kind("DonutProcessor")(pictures, tokenizer)
    else:
        encoder = _kind("ViTConfig")(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
        decoder = _kind("TrOCRConfig")(**sizes, is_decoder=True, add_cross_attention=True)
        model = _encoder_decoder(encoder, decoder)
        processor = _kind("TrOCRProcessor")(_kind("ViTImageProcessor")(size=small), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _encoder_decoder(encoder: Any, decoder: Any) -> Any:
    config = _kind("VisionEncoderDecoderConfig").from_encoder_decoder_configs(encoder, decoder)
    return _kind("VisionEncoderDecoderModel")(config=config)
