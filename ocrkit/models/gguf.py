"""GGUF files for llama.cpp and Ollama: write them with Unsloth, read rows with llama.cpp."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm.auto import tqdm

from ocrkit.config import TrainConfig
from ocrkit.data.collate import scaled_pictures
from ocrkit.data.patches import fitted, supports_cut_patches
from ocrkit.data.rows import IMAGE_MARK, Row, text_of
from ocrkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# Model types for which Unsloth and llama.cpp make no GGUF files that read pictures, and the reason.
WITHOUT_GGUF = {
    "mllama": "llama.cpp knows no Llama-3.2-Vision",
    "paddleocr_vl": "Unsloth converts the language model of PaddleOCR-VL only",
}
# Program of llama.cpp that reads pictures; it takes a single prompt and exits.
_PROGRAM = "llama-mtmd-cli"


def write_gguf(model: "PreTrainedModel", processor: "ProcessorMixin", output_dir: Path) -> None:
    """Write .gguf files of the language model in 8 bits and of the vision tower.

    Ollama's Modelfile is written as well where Unsloth has a template for the model.

    Args:
        model: a model that Unsloth loaded.
        processor: from `load_model`.
        output_dir: folder for the files.

    Raises:
        ModelError: llama.cpp cannot be installed, or cannot convert the model or its vision tower.
    """
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent) as folder:
        # Unsloth adds this method to the models that it loads.
        save = cast(Any, model).save_pretrained_gguf
        try:
            # Unsloth writes merged weights to this folder, and the .gguf files to its parent.
            saved = save(str(Path(folder) / "merged"), processor, quantization_method="q8_0")
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp gives no GGUF of this model ({_error_line(str(error))}); export "
                "merged_16bit, which can also be converted elsewhere."
            ) from None
        paths = [Path(path) for path in saved["gguf_files"]]
        # Unsloth only prints where a vision tower was not converted.
        if not any("mmproj" in path.name for path in paths):
            raise ModelError(
                "llama.cpp cannot convert the vision tower of this model (the reason is printed "
                "above), and without it the files would read no picture; export merged_16bit."
            )
        output_dir.mkdir(exist_ok=True)
        for path in [*paths, saved["modelfile_location"]]:
            if path:
                shutil.move(path, output_dir / Path(path).name)


def _error_line(text: str) -> str:
    """Line of a converter's output that names the cause."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"fatal: |\w*(Error|Exception): ", line)]
    # The first line quotes the command; the converter's own error comes last.
    return (causes or lines or ["no reason given"])[-1][:300]


def llama_cpp_reader() -> str | None:
    """Path of llama.cpp's program that reads pictures, on PATH or in Unsloth's folder, or None."""
    home = Path(os.environ.get("UNSLOTH_LLAMA_CPP_PATH") or Path.home() / ".unsloth" / "llama.cpp")
    for folder in (None, home, home / "build" / "bin"):
        if program := shutil.which(_PROGRAM, path=str(folder) if folder else None):
            return program
    return None


def read_gguf(
    program: str,
    folder: Path,
    processor: "ProcessorMixin",
    rows: Sequence[Row],
    config: TrainConfig,
) -> list[str]:
    """Text that llama.cpp reads on each row, greedily, with the files that `write_gguf` wrote.

    Pictures are resized to the sizes that the model was trained on: llama.cpp would pad others
    with black, which the model never saw, and apply a pixel budget of its own.

    Args:
        program: path of the program, from `llama_cpp_reader`.
        folder: folder with the .gguf files.
        processor: from `load_model`.
        rows: rows with `id`, `prompt` and `images`.
        config: settings of the run.

    Raises:
        ModelError: llama.cpp fails on a row, or a row has more messages than a question.
    """
    vision = next(folder.glob("*mmproj*.gguf"))
    language = next(path for path in sorted(folder.glob("*.gguf")) if path != vision)
    texts = []
    with tempfile.TemporaryDirectory() as pictures:
        for row in tqdm(rows, desc="llama.cpp", delay=2):
            arguments = _arguments(row, processor, config, Path(pictures))
            done = subprocess.run(
                [program, "-m", language, "--mmproj", vision, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                raise ModelError(
                    f"The files in {folder} were written, but llama.cpp cannot read row "
                    f"{row['id']!r} with them ({(lines or ['no reason given'])[-1].strip()[:300]});"
                    " try another version of it, or export merged_16bit."
                )
            texts.append(done.stdout.strip())
    return texts


def _arguments(
    row: Row, processor: "ProcessorMixin", config: TrainConfig, folder: Path
) -> list[str]:
    """llama.cpp's arguments for a row: pictures, saved in `folder`, prompt and limits."""
    pictures = scaled_pictures(row, config.image_height)
    # Room for the picture tokens of a model whose number of tokens is not known.
    tokens: list[int] = [4096]
    arguments: list[Any] = []
    if pictures and supports_cut_patches(processor.image_processor):
        pictures = [fitted(picture, processor.image_processor) for picture in pictures]
        side = processor.image_processor.patch_size * processor.image_processor.merge_size
        tokens = [picture.width * picture.height // side**2 for picture in pictures]
        # Bounds that leave every picture at its size.
        arguments += ["--image-min-tokens", min(tokens), "--image-max-tokens", max(tokens)]
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.png"
        picture.save(path)
        arguments += ["--image", path]
    *before, question = row["prompt"]
    if len(before) > 1 or any(message["role"] != "system" for message in before):
        raise ModelError(
            f"Row {row['id']!r} is a conversation of {len(row['prompt'])} messages, which "
            f"{_PROGRAM} cannot be given, so the files were not compared; export with samples=0."
        )
    # The program's placeholder for a picture between words.
    arguments += ["-p", text_of([question]).replace(IMAGE_MARK, "<__media__>")]
    if before:
        arguments += ["-sys", text_of(before)]
    # The model's full context can exceed the memory; a token takes at least a byte of text.
    context = sum(tokens) + config.max_new_tokens + len(str(row["prompt"]).encode()) + 256
    arguments += ["-c", context, "-n", config.max_new_tokens, "--temp", 0]
    # --jinja uses the model's own chat template; --no-escape keeps backslashes.
    return [*map(str, arguments), "--jinja", "--no-escape", "--no-warmup"]
