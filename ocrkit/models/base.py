"""The model under an adapter: which one it is, where it lies, and whether it fits the memory."""

import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ocrkit.errors import ModelError
from ocrkit.run_folder import restore

TINY = Path(__file__).parents[1] / "assets" / "tiny"

EXPORT_FORMATS = ("adapter", "merged_16bit", "merged_4bit", "gguf")
# What a model needs to be read as it was trained: all that is taken of a config.yaml beside a
# model, which may be a stranger's. None of these runs code, names a place to write to or sends
# anything. `use_peft` says whether the weights are an adapter or a whole model.
READING_SETTINGS = tuple(
    """model_name_or_path load_in_4bit use_peft dtype prompts min_pixels max_pixels image_height
    max_image_tiles max_new_tokens normalization_profile locale""".split()
)


def resolve_model(name: str) -> tuple[str, str | None]:
    """Base model and adapter folder behind a name: an id, a folder, a run folder or "tiny".

    Raises:
        ModelError: an adapter whose base is missing, or a path that does not exist.
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
                    f"{adapter} does not say what was adapted; write the base model's id or folder "
                    "under base_model_name_or_path in it."
                )
            # The embedded model lies elsewhere on another machine.
            is_tiny = Path(base).parts[-3:] == TINY.parts[-3:]
            try:
                return resolve_model("tiny" if is_tiny else base)[0], str(folder)
            except ModelError:
                raise ModelError(
                    f"The adapter in {folder} was trained on {base!r}, which does not exist; put "
                    "that model back, or name where it is now under base_model_name_or_path in "
                    f"{adapter}."
                ) from None
    # A run that trained every weight leaves a whole model there.
    whole = path / "adapter"
    return (str(whole) if (whole / "config.json").is_file() else name), None


def run_folder(model: str | Path) -> Path | None:
    """Return the run folder of a model, which is its folder or that one's parent, or None."""
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
    """Read a run's config.yaml as far as its model needs it to read pictures.

    That is READING_SETTINGS, and `dataset` where it is a folder, which is only read. `output_dir`
    is the folder itself, whatever the file says.

    Raises:
        ConfigError: the file cannot be read.
    """
    from ocrkit.config.setting_values import read_settings

    saved = read_settings(Path(folder) / "config.yaml")
    taken = {name: saved[name] for name in READING_SETTINGS if name in saved}
    dataset = saved.get("dataset")
    if isinstance(dataset, str) and dataset and Path(dataset).is_dir():
        taken["dataset"] = dataset
    return {**taken, "output_dir": str(folder)}


def in_16_bits(base: str) -> str:
    """The model whose copy in 4 bits `base` is, where it is Unsloth's on the Hub.

    Asked for a model in 4 bits, Unsloth takes its own copy of it and an adapter then names that
    one, although it goes on either.
    """
    if Path(base).exists():
        return base
    return re.sub(r"^(unsloth/.+?)(-unsloth)?-bnb-4bit$", r"\1", base, flags=re.IGNORECASE)


@contextmanager
def adapter_on(adapter: str, base: str) -> Iterator[str]:
    """The adapter's folder, or a passing one of the same files that names `base` as its base."""
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text())
    if settings["base_model_name_or_path"] == base:
        yield adapter
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in Path(adapter).iterdir():
            if path.name != "adapter_config.json":
                (Path(folder) / path.name).symlink_to(path.resolve())
        settings["base_model_name_or_path"] = base
        (Path(folder) / "adapter_config.json").write_text(json.dumps(settings))
        yield folder


def check_memory(base: str, itemsize: int, way_out: str) -> None:
    """Refuse a model whose weights do not fit what memory is free, as far as they lie here.

    Args:
        base: a folder, or a model of the Hub, of which its cache is looked at.
        itemsize: bytes that a weight will take.
        way_out: what to do about it, the end of the error's sentence.

    Raises:
        ModelError: with the gigabytes that are there and those that are needed.
    """
    import psutil
    from huggingface_hub import try_to_load_from_cache

    folder = Path(base)
    if not folder.is_dir():
        found = try_to_load_from_cache(base, "config.json")
        if not isinstance(found, str):
            return
        folder = Path(found).parent
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
