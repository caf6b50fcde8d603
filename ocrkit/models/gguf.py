"""GGUF, the files of llama.cpp and Ollama: written by Unsloth, read back by llama.cpp itself."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ocrkit.config import TrainConfig
from ocrkit.data.collate import scaled_pictures
from ocrkit.data.patches import cuts, fitted
from ocrkit.data.rows import IMAGE_MARK, text_of
from ocrkit.errors import ModelError

# Kinds of model that Unsloth and llama.cpp make no files of that read pictures, and why.
WITHOUT_GGUF = {
    "mllama": "llama.cpp knows no Llama-3.2-Vision",
    "paddleocr_vl": "Unsloth converts the language model of PaddleOCR-VL only",
}
# What reads pictures in llama.cpp, one prompt a start.
_PROGRAM = "llama-mtmd-cli"


def write_gguf(model: Any, processor: Any, output_dir: Path) -> None:
    """Write the .gguf files, of the language model in 8 bits and of the vision tower, and a
    Modelfile where Unsloth knows one for the model.

    Args:
        model: one that Unsloth loaded.

    Raises:
        ModelError: llama.cpp cannot be had, or cannot convert the model or its vision tower.
    """
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent) as beside:
        try:
            # Unsloth merges into this folder, and writes what was asked for beside it.
            made = model.save_pretrained_gguf(
                str(Path(beside) / "merged"), processor, quantization_method="q8_0"
            )
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp gives no GGUF of this model ({_said(str(error))}); export "
                "merged_16bit, which can also be converted elsewhere."
            ) from None
        paths = [Path(path) for path in made["gguf_files"]]
        # Unsloth only prints where a vision tower was not converted.
        if not any("mmproj" in path.name for path in paths):
            raise ModelError(
                "llama.cpp cannot convert the vision tower of this model (the reason stands "
                "above), and without it the files would read no picture; export merged_16bit."
            )
        output_dir.mkdir(exist_ok=True)
        for path in [*paths, made["modelfile_location"]]:
            if path:
                shutil.move(path, output_dir / Path(path).name)


def _said(text: str) -> str:
    """The line of a report that names the cause."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"fatal: |\w*(Error|Exception): ", line)]
    # The first line quotes what was run; a converter's own error is the last one that it quotes.
    return (causes or lines or ["no reason given"])[-1][:300]


def llama_cpp_reader() -> str | None:
    """llama.cpp's program that reads pictures, on the PATH or where Unsloth puts it, if any."""
    home = Path(os.environ.get("UNSLOTH_LLAMA_CPP_PATH") or Path.home() / ".unsloth" / "llama.cpp")
    for folder in (None, home, home / "build" / "bin"):
        if program := shutil.which(_PROGRAM, path=folder and str(folder)):
            return program
    return None


def read_gguf(
    program: str, folder: Path, processor: Any, rows: Sequence[dict], config: TrainConfig
) -> list[str]:
    """What llama.cpp reads on each row from the files that `write_gguf` wrote, greedily.

    Pictures are given to it in the size that the model was trained on: llama.cpp would lay others
    on black ground, where the model never saw any, and bound them by a budget of its own.

    Raises:
        ModelError: llama.cpp fails on a row, or a row is more than one question.
    """
    vision = next(folder.glob("*mmproj*.gguf"))
    language = next(path for path in sorted(folder.glob("*.gguf")) if path != vision)
    texts = []
    with tempfile.TemporaryDirectory() as beside:
        for row in tqdm(rows, desc="llama.cpp", delay=2):
            asked = _arguments(row, processor, config, Path(beside))
            done = subprocess.run(
                [program, "-m", language, "--mmproj", vision, *asked],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                raise ModelError(
                    f"The files in {folder} are written, but llama.cpp cannot read row "
                    f"{row['id']!r} with them ({(lines or ['no reason given'])[-1].strip()[:300]});"
                    " try another version of it, or export merged_16bit."
                )
            texts.append(done.stdout.strip())
    return texts


def _arguments(row: dict, processor: Any, config: TrainConfig, beside: Path) -> list[str]:
    """What a row is to llama.cpp: its pictures, written to the folder, its prompt, its limits."""
    pictures = scaled_pictures(row, config.image_height)
    # As many as a model of another kind may make of its pictures.
    tokens, arguments = [4096], []
    if pictures and cuts(processor.image_processor):
        pictures = [fitted(picture, processor.image_processor) for picture in pictures]
        side = processor.image_processor.patch_size * processor.image_processor.merge_size
        tokens = [picture.width * picture.height // side**2 for picture in pictures]
        # As they are, be they few or many.
        arguments += ["--image-min-tokens", min(tokens), "--image-max-tokens", max(tokens)]
    for number, picture in enumerate(pictures):
        path = beside / f"{number}.png"
        picture.save(path)
        arguments += ["--image", path]
    *before, question = row["prompt"]
    if len(before) > 1 or any(message["role"] != "system" for message in before):
        raise ModelError(
            f"Row {row['id']!r} is a conversation of {len(row['prompt'])} messages, which "
            f"{_PROGRAM} cannot be given, so the files were not compared; export with samples=0."
        )
    # Where a picture stands between words, the program has a mark of its own for it.
    arguments += ["-p", text_of([question]).replace(IMAGE_MARK, "<__media__>")]
    if before:
        arguments += ["-sys", text_of(before)]
    # A model's own context can take more memory than there is; a token is a byte at least.
    context = sum(tokens) + config.max_new_tokens + len(str(row["prompt"]).encode()) + 256
    arguments += ["-c", context, "-n", config.max_new_tokens, "--temp", 0]
    # The model's own chat template, and a backslash is one.
    return [*map(str, arguments), "--jinja", "--no-escape", "--no-warmup"]
