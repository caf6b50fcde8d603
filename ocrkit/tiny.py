"""The embedded model: a Qwen3-VL of 2.3 million parameters that reads printed lines.

`python -m ocrkit.tiny build` draws lines, trains on them from scratch and writes
`ocrkit/assets/tiny`: weights in bf16, tokenizer, processor, chat template and a model card.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from data_prep.receipts import TILL_FONTS, line_of
from data_prep.render import (
    covers,
    crop_to_ink,
    draw_line,
    fit_height,
    load_font,
    shipped_fonts,
    soften,
)
from ocrkit.collate import Collator
from ocrkit.metrics import cer, exact_match

FOLDER = Path(__file__).parent / "assets" / "tiny"
PROMPT = "Transcribe the text in the image."
CHARACTERS = "".join(map(chr, range(32, 127)))
HEIGHT = 32
MAX_LENGTH = 48

_SHIPPED_FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSerif DejaVuSerif-Bold STIXGeneral "
    "STIXGeneralBol cmr10 cmss10"
).split()
# Used where the machine has them, by file name; the Debian packages stand in the model card.
_SYSTEM_FONTS = """
AnonymousPro C059-Roman C059-Bold Cantarell-Regular Cantarell-Bold Carlito-Regular Carlito-Bold
CourierPrime CourierPrime-Bold CourierPrimeSans DejaVuSansCondensed DejaVuSansCondensed-Bold
FreeMono FreeMonoBold FreeSans FreeSansBold FreeSerif FreeSerifBold Inconsolata
JetBrainsMono-Regular JetBrainsMono-Bold Lato-Regular Lato-Bold LiberationMono-Regular
LiberationMono-Bold LiberationSans-Regular LiberationSans-Bold LiberationSans-Italic
LiberationSerif-Regular LiberationSerif-Bold NimbusMonoPS-Regular NimbusMonoPS-Bold
NimbusSansNarrow-Regular NimbusSansNarrow-Bold NotoMono-Regular NotoSansMono-Bold OCRB
OpenSans-CondLight OpenSans-CondBold OpenSans-Regular OpenSans-Semibold P052-Roman Roboto-Regular
Roboto-Bold RobotoCondensed-Regular RobotoCondensed-Bold RobotoCondensed-Light TlwgTypewriter
TlwgTypewriter-Bold URWGothic-Book texgyrecursor-bold
""".split()

_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
).split()
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """A token for each character and, so that nothing is unspeakable, for each byte of the rest."""
    words = ["user", "assistant", "system", PROMPT]
    tokens = [*_SPECIAL, *words, "\n", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
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
    token = tokenizer.convert_tokens_to_ids
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
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    return model


def training_fonts() -> list[Path]:
    """The fonts to train on that this machine has, without the held-out ones."""
    listed: list[str] = []
    if shutil.which("fc-list"):
        command = ["fc-list", "--format", "%{file}\n"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
    found = {Path(line).stem.replace(" ", ""): Path(line) for line in sorted(listed) if line}
    paths = [*shipped_fonts(*_SHIPPED_FONTS), *(found[s] for s in _SYSTEM_FONTS if s in found)]
    return [path for path in paths if covers(path, CHARACTERS)]


def draw_sample(text: str, font: Path, rng: random.Random, variety: float) -> Image.Image:
    """One training picture, 32 pixels high.

    `variety` grows from 0 (one size, on the baseline, black on white) to 1 (sizes, tight boxes as
    annotators draw them, stretched, softened as by a scanner).
    """
    if rng.random() >= variety:
        return draw_line(text, load_font(font, 21), HEIGHT)
    image = draw_line(
        text,
        load_font(font, rng.randint(18, 25)),
        HEIGHT + 8,
        left=rng.randint(0, 6),
        right=rng.randint(0, 6),
        ink=rng.randint(0, 60),
    )
    if rng.random() < 0.5:
        image = fit_height(crop_to_ink(image, tuple(rng.randint(0, 4) for _ in range(4))), HEIGHT)
    else:
        top = rng.randint(2, 6)
        image = image.crop((0, top, image.width, top + HEIGHT))
    width = max(8, round(image.width * rng.uniform(0.8, 1.15)))
    image = image.resize((width, HEIGHT), Image.Resampling.BICUBIC)
    return soften(image, rng) if rng.random() < 0.7 else image


def sample_row(text: str, image: Image.Image) -> dict:
    """A row as the collator takes it."""
    return {
        "prompt": [{"role": "user", "content": PROMPT}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [image],
    }


class _Lines(torch.utils.data.IterableDataset):
    """Endless batches, drawn in a worker so that drawing and training overlap.

    `limits` is shared memory: the longest line in characters, and the variety in thousandths.
    """

    def __init__(
        self, processor: Any, fonts: list[Path], limits: torch.Tensor, batch: int, seed: str
    ):
        self.collator, self.fonts, self.limits = Collator(processor), fonts, limits
        self.batch, self.seed = batch, seed

    def __iter__(self):
        torch.set_num_threads(1)
        rng = random.Random(self.seed)
        while True:
            # Lines of like length share a batch, so little of it is padding.
            longest, variety = int(self.limits[0]), int(self.limits[1]) / 1000
            high = rng.randint(1, longest) if rng.random() < 0.6 else longest
            low = max(1, high - 6)
            rows = []
            for _ in range(self.batch):
                text = line_of(rng, low, high)
                rows.append(
                    sample_row(text, draw_sample(text, rng.choice(self.fonts), rng, variety))
                )
            yield self.collator(rows)


def _optimizer(model: Any, learning_rate: float) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


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
        ids = model.generate(**batch, max_new_tokens=MAX_LENGTH + 16, do_sample=False)
        decoded = processor.tokenizer.batch_decode(
            ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for i, text in zip(chosen, decoded):
            texts[i] = text
    model.train()
    return texts


def held_out_lines(fonts: list[Path], count: int, variety: float, seed: int) -> tuple[list, list]:
    """Pictures and texts of lines that training does not see (another stream of the generator)."""
    rng = random.Random(seed)
    texts = [line_of(rng, 1, MAX_LENGTH) for _ in range(count)]
    return [draw_sample(text, rng.choice(fonts), rng, variety) for text in texts], texts


def train_reader(
    minutes: float,
    steps: int | None = None,
    start: Path | None = None,
    batch: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[Any, Any, dict]:
    """Train on freshly drawn lines; returns model, processor and what `curve.json` holds.

    The longest line starts at one character and grows whenever the loss falls under 0.8; variety
    comes in afterwards. The rate is constant after 50 steps of warm-up and falls linearly over
    the last 40 % of the time.

    Args:
        minutes: how long; more reads better.
        steps: stop after so many steps even if there is time left.
        start: folder of an earlier build to go on from, instead of from scratch.
    """
    tokenizer = build_tokenizer()
    processor, model = build_processor(tokenizer), build_model(tokenizer, seed)
    fonts = training_fonts()
    history: dict = {"parts": [], "curve": []}
    if start:
        model.load_state_dict(load_file(start / "model.safetensors"), strict=False)
        history = json.loads((start / "curve.json").read_text())
    history["fonts"] = [path.stem for path in fonts]
    history["parts"].append({"minutes": minutes, "learning_rate": learning_rate, "seed": seed})
    curve = history["curve"]
    last = curve[-1] if curve else {"step": 0, "minutes": 0, "longest": 1, "variety": 0}
    limits = torch.tensor([last["longest"], round(last["variety"] * 1000)]).share_memory_()
    # Seeds differ from those of earlier parts, so no part repeats another's lines.
    lines = _Lines(processor, fonts, limits, batch, f"{seed}/{last['step']}")
    batches = iter(torch.utils.data.DataLoader(lines, batch_size=None, num_workers=1))
    optimizer = _optimizer(model, learning_rate)
    tests = {
        "plain": held_out_lines(fonts, 150, 0.0, seed=777),
        "varied": held_out_lines(fonts, 150, 1.0, seed=778),
        "held_out_fonts": held_out_lines(shipped_fonts(*TILL_FONTS), 150, 0.0, seed=779),
    }
    losses, grown, began, step = [], 0, time.time(), 0
    progress = tqdm(desc="tiny", mininterval=10)
    while (done := _done(began, minutes, step, steps)) < 1:
        rate = learning_rate * min(1, (step + 1) / 50) * min(1, max(0.02, (1 - done) / 0.4))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step += 1
        recent = losses[-10:]
        if step - grown >= 10 and sum(recent) / len(recent) < 0.8:
            grown = step
            if limits[0] < MAX_LENGTH:
                limits[0] = min(MAX_LENGTH, math.ceil(int(limits[0]) * 1.15))
            elif limits[1] < 900:
                limits[1] += 30
        progress.update()
        progress.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", length=int(limits[0]))
        if step % 500 == 0 or _done(began, minutes, step, steps) >= 1:
            entry = {"step": last["step"] + step, "loss": round(sum(losses[-200:]) / 200, 4)}
            entry["minutes"] = round(last["minutes"] + (time.time() - began) / 60, 1)
            entry["longest"], entry["variety"] = int(limits[0]), int(limits[1]) / 1000
            for name, (images, texts) in tests.items():
                entry |= _scores(name, texts, read_lines(model, processor, images))
            curve.append(entry)
            tqdm.write(json.dumps(entry), file=sys.stderr)
            save(model, processor, history, Path("runs/tiny"))
    return model, processor, history


def _done(began: float, minutes: float, step: int, steps: int | None) -> float:
    return max((time.time() - began) / 60 / minutes, step / steps if steps else 0)


def _scores(name: str, texts: list[str], read: list[str]) -> dict[str, float]:
    rates = {"cer": cer(texts, read), "exact": exact_match(texts, read)}
    return {f"{metric}_{name}": round(rate, 4) for metric, rate in rates.items()}


def save(model: Any, processor: Any, history: dict, folder: Path) -> None:
    """Write weights in bf16, processor, `curve.json` (parts, learning curve, fonts) and card."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    model.save_pretrained(folder, state_dict=state)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "curve.json").write_text(json.dumps(history, indent=1) + "\n")
    parameters = sum(weight.numel() for weight in model.parameters())
    (folder / "README.md").write_text(card(history, parameters), encoding="utf-8")


def card(history: dict, parameters: int) -> str:
    """The model card: what the last measurement of `curve.json` says."""
    last = history["curve"][-1]
    rows = "\n".join(
        f"| {what} | {last[f'cer_{name}']:.1%} | {last[f'exact_{name}']:.1%} |"
        for name, what in (
            ("plain", "clean lines, training fonts"),
            ("varied", "sizes, tight boxes, scanner noise, training fonts"),
            ("held_out_fonts", f"clean lines, fonts never seen ({', '.join(TILL_FONTS)})"),
        )
    )
    command = (
        "`python -m ocrkit.tiny build --minutes {minutes:g} --learning_rate {learning_rate:g}`"
    )
    parts = ", then ".join(command.format(**part) for part in history["parts"])
    template = (FOLDER.parent / "tiny_card.md").read_text(encoding="utf-8")
    fonts = ", ".join(history["fonts"])
    return template.format(parameters=parameters, rows=rows, parts=parts, fonts=fonts, **last)


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m ocrkit.tiny`."""
    parser = argparse.ArgumentParser(prog="python -m ocrkit.tiny", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="train the model and write it")
    build.add_argument("--minutes", type=float, default=60, help="how long (default %(default)s)")
    build.add_argument("--steps", type=int, help="stop after so many steps, if that is sooner")
    build.add_argument("--start", type=Path, help="go on from this earlier build")
    build.add_argument("--learning_rate", type=float, default=2e-3, help="peak (%(default)s)")
    build.add_argument("--seed", type=int, default=0, help="seed of weights and lines")
    build.add_argument("--out", type=Path, default=FOLDER, help="folder (default %(default)s)")
    options = parser.parse_args(arguments)
    model, processor, history = train_reader(
        options.minutes,
        options.steps,
        options.start,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    save(model, processor, history, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
