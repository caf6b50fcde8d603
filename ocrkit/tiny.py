"""The embedded model: a Qwen3-VL of 3.1 million parameters that reads lines of four scripts.

`python -m ocrkit.tiny build` draws lines, trains on them from scratch and writes
`ocrkit/assets/tiny`: weights in bf16, tokenizer, processor and chat template.
`python -m ocrkit.tiny measure` reads with it and writes its model card.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from data_prep.schema import PROMPTS
from ocrkit.collate import Collator
from ocrkit.tiny_lines import FONTS, HEIGHT, HELD_OUT, SCRIPTS, characters, frequent

FOLDER = Path(__file__).parent / "assets" / "tiny"
PROMPT = PROMPTS["transcription"]

_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
).split()
_TAGS = "<table> </table> <tr> </tr> <td> </td>".split()
_WORDS = ["user", "assistant", "system", *PROMPTS.values(), *_TAGS]
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each character and, so that nothing is unspeakable, for each byte of the rest."""
    tokens = [*_SPECIAL, *_WORDS, "\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += "".join(characters().values())
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
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


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids that a Qwen's config names, of a tokenizer that has Qwen's special tokens."""
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
    pictures = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 1,
        "image_mean": [1.0] * 3,
        "image_std": [0.3] * 3,
        # A token covers 16 x 16 pixels.
        "size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 512 * 16 * 16},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pictures),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pictures),
        chat_template=_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Any:
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
    """A row as the collator takes it."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [image],
    }


@torch.no_grad()
def read_lines(model: Any, processor: Any, images: list[Image.Image]) -> list[str]:
    """Greedy transcriptions of the pictures, in their order."""
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


def save(model: Any, processor: Any, history: dict, folder: Path) -> None:
    """Write weights in bf16, processor and `curve.json` (parts, learning curve, fonts)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("measured.json", "README.md"):  # what was measured of earlier weights
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


def write_card(folder: Path) -> None:
    """Measure the model in a folder; write `measured.json` and the card that shows it."""
    from ocrkit.tiny_measure import measure

    measured = measure(folder)
    text = json.dumps(measured, indent=1, ensure_ascii=False)
    (folder / "measured.json").write_text(text + "\n", encoding="utf-8")
    history = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(card(history, measured), encoding="utf-8")


def card(history: dict, measured: dict) -> str:
    """The model card, in Markdown: how it was trained and what was measured."""

    def cell(reader: str, kind: str, metric: str) -> str:
        figure = measured.get(reader, {}).get(kind, {}).get(metric)
        return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure) if figure else "not measured"

    rows = []
    for script, name in SCRIPTS.items():
        cells = [cell("model", f"known/{script}", "cer"), cell("model", f"unseen/{script}", "cer")]
        cells += [cell("model", f"unseen/{script}", "exact_match")]
        cells += [cell("tesseract", f"unseen/{script}", "cer"), ", ".join(HELD_OUT[script])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    command = (
        "`python -m ocrkit.tiny build --minutes {minutes:g} --learning_rate {learning_rate:g} "
        "--seed {seed}` "
        "({steps:,} steps{note})"
    )
    packages = {package for families in FONTS.values() for package in families.values()}
    parts = [
        f"`python -m ocrkit.tiny average` of the last {part['averaged']}"
        if "averaged" in part
        else command.format(**{"note": "", **part})
        for part in history["parts"]
    ]
    names = history["fonts"].items()
    classes = history["curve"][-1]["classes"]
    reached = f"the {classes:,} most frequent; rarer ones it has hardly seen"
    template = (FOLDER.parent / "tiny_card.md").read_text(encoding="utf-8")
    return template.format(
        **history["curve"][-1],
        reached="all of them" if classes >= len(frequent("zh")) else reached,
        parameters=history["parameters"],
        rows="\n".join(rows),
        count=measured["lines"],
        milliseconds=measured["milliseconds"],
        parts=", then ".join(parts),
        packages=", ".join(sorted(packages)),
        fonts="\n".join(f"* {SCRIPTS[script]}: {', '.join(found)}" for script, found in names),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m ocrkit.tiny`."""
    parser = argparse.ArgumentParser(prog="python -m ocrkit.tiny", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build", help="train the model and write it; `measure` makes its card"
    )
    build.add_argument("--minutes", type=float, default=60, help="how long (default %(default)s)")
    build.add_argument("--steps", type=int, help="stop after so many steps, if that is sooner")
    build.add_argument("--start", type=Path, help="go on from this earlier build")
    build.add_argument("--learning_rate", type=float, default=2e-3, help="peak (%(default)s)")
    build.add_argument("--seed", type=int, default=0, help="seed of weights and lines")
    build.add_argument("--out", type=Path, default=FOLDER, help="folder (default %(default)s)")
    measured = commands.add_parser(
        "measure", help="read lines in known and unseen fonts beside Tesseract; write the card"
    )
    measured.add_argument("--folder", type=Path, default=FOLDER, help="default %(default)s")
    mean = commands.add_parser("average", help="the mean of builds that share a beginning")
    mean.add_argument("folders", type=Path, nargs="+", help="folders of builds")
    mean.add_argument("--out", type=Path, default=FOLDER, help="folder (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "measure":
        write_card(options.folder)
        return 0

    from ocrkit.tiny_train import average, train_reader

    if options.command == "average":
        average(options.folders, options.out)
        return 0
    train_reader(
        options.minutes,
        options.steps,
        options.start,
        options.out,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
