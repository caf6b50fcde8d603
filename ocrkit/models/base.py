"""Base models: resolve names to base model and adapter; check that weights fit the memory."""

import json
import math
import re
from pathlib import Path
from typing import Any

from ocrkit.errors import ModelError
from ocrkit.run_folder import restore

TINY = Path(__file__).parents[1] / "assets" / "tiny"

# OCR engines that are evaluated beside a model.
ENGINES = ("rapidocr", "tesseract")
# Files that pages read line by line are written to.
PAGE_FORMATS = ("text", "hocr", "alto", "pdf")
EXPORT_FORMATS = ("adapter", "merged_16bit", "merged_4bit", "gguf")
# Settings that a model needs to read as it was trained: all that is taken of a config.yaml beside
# a model, which may come from a stranger. No setting here runs code, names a folder to write to or
# uploads anything. `use_peft` says whether the weights are an adapter or a whole model.
READING_SETTINGS = tuple(
    """model_name_or_path load_in_4bit use_peft dtype prompts min_pixels max_pixels image_height
    max_image_tiles processor_kwargs chat_template_kwargs max_new_tokens normalization_profile
    locale""".split()
)


def resolve_model(name: str) -> tuple[str, str | None]:
    """Base model and adapter folder (or None) of a model name.

    Args:
        name: a Hub id, a model folder, an adapter folder, a run folder or "tiny".

    Raises:
        ModelError: an adapter whose base is missing, a path that does not exist, or a folder
            without a model.
    """
    if name == "tiny":
        return str(TINY), None
    path = Path(name)
    for folder in (path, path.parent):
        restore(folder)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_local and not path.exists():
        raise ModelError(
            f"model_name_or_path={name!r} does not exist; give a model folder, a run folder or a "
            "model id of the Hub."
        )
    for folder in (path, path / "adapter"):
        adapter = folder / "adapter_config.json"
        if adapter.is_file():
            base = json.loads(adapter.read_text()).get("base_model_name_or_path")
            if not base:
                raise ModelError(
                    f"{adapter} names no base model; write the base model's id or folder under "
                    "base_model_name_or_path in it."
                )
            # The embedded model has another path on another machine.
            is_tiny = Path(base).parts[-3:] == TINY.parts[-3:]
            try:
                return resolve_model("tiny" if is_tiny else base)[0], str(folder)
            except ModelError:
                raise ModelError(
                    f"The adapter in {folder} was trained on {base!r}, which does not exist; put "
                    "that model back, or name where it is now under base_model_name_or_path in "
                    f"{adapter}."
                ) from None
    # A run without adapters saves the whole model in this folder.
    whole_model = path / "adapter"
    if (whole_model / "config.json").is_file():
        return str(whole_model), None
    if path.is_dir() and not (path / "config.json").is_file():
        # Only checkpoints that were written to their end.
        sealed = sorted(path.glob("checkpoint-*/complete.json"), key=lambda p: p.stat().st_mtime)
        way_out = f"name its checkpoint {sealed[-1].parent}" if sealed else "name another folder"
        raise ModelError(
            f"model_name_or_path={name!r} holds no model: neither config.json, nor "
            f"adapter_config.json there or in its adapter/; {way_out}, or a model id of the Hub."
        )
    return name, None


def run_folder(model: str | Path) -> Path | None:
    """Run folder of a model: the model's folder or its parent; None where neither is a run's."""
    model = Path(model)
    try:
        if not model.is_dir():  # an id of the Hub, or "tiny"
            return None
    except OSError:  # a name that is too long for any file
        return None
    for folder in (model, model.parent):
        restore(folder)
        if (folder / "config.yaml").is_file():
            return folder
    return None


def settings_of_run(folder: str | Path) -> dict[str, Any]:
    """Settings in a run's config.yaml that its model needs to read pictures.

    These are READING_SETTINGS, and `dataset` where it is a folder, which is only read.
    `output_dir` is the folder itself, whatever the file says.

    Raises:
        ConfigError: the file cannot be read.
    """
    from ocrkit.config.values import read_settings

    saved = read_settings(Path(folder) / "config.yaml")
    settings = {name: saved[name] for name in READING_SETTINGS if name in saved}
    dataset = saved.get("dataset")
    if isinstance(dataset, str) and dataset and Path(dataset).is_dir():
        settings["dataset"] = dataset
    return {**settings, "output_dir": str(folder)}


def in_16_bits(base: str) -> str:
    """Name of the 16-bit model on the Hub of which `base` is Unsloth's 4-bit copy, else `base`.

    Asked for a model in 4 bits, Unsloth loads its own 4-bit copy, and the adapter's config then
    names that copy, although the adapter fits both.
    """
    if Path(base).exists():
        return base
    return re.sub(r"^(unsloth/.+?)(-unsloth)?-bnb-4bit$", r"\1", base, flags=re.IGNORECASE)


def check_memory(base: str, itemsize: int, way_out: str) -> None:
    """Raise a ModelError if the weights do not fit the free memory of the CPU.

    Weights that are not on this machine yet are not checked.

    Args:
        base: a folder, or a Hub id, whose local cache is checked.
        itemsize: bytes that a loaded weight takes.
        way_out: what the user can do, the end of the error's sentence.

    Raises:
        ModelError: with the gigabytes that are needed and those that are free.
    """
    import psutil
    from huggingface_hub import try_to_load_from_cache

    folder = Path(base)
    if not folder.is_dir():
        cached = try_to_load_from_cache(base, "config.json")
        if not isinstance(cached, str):
            return
        folder = Path(cached).parent
    weights = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            # https://huggingface.co/docs/safetensors: the header's length in 8 bytes, then JSON.
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        weights += sum(math.prod(h["shape"]) for name, h in header.items() if name[:2] != "__")
    free = psutil.virtual_memory().available
    if weights * itemsize > free:
        raise ModelError(
            f"{base} needs {weights * itemsize / 1e9:.1f} GB of memory on the CPU and "
            f"{free / 1e9:.1f} GB are free; close what else uses it, {way_out}."
        )
