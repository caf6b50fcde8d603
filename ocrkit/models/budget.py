"""Pixel budget: bound the size to which a processor brings pictures.

A budget is in pixels of area (`max_pixels`), in tiles (`max_image_tiles`, Llama-3.2-Vision), or
whatever else the image processor counts (`processor_kwargs`).
"""

import copy
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from ocrkit.config import TrainConfig
from ocrkit.data.blank import BlankSize, blank_size
from ocrkit.data.patches import supports_cut_patches
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.image_processing_utils import BaseImageProcessor


def apply_pixel_budget(processor: "ProcessorMixin", config: TrainConfig) -> None:
    """Set the budget of the config on the image processor.

    These are `processor_kwargs`, `max_image_tiles`, and `min_pixels` and `max_pixels`.

    Raises:
        ConfigError: a budget in pixels for a processor that counts something else or the reverse, a
            setting that the image processor lacks, or a budget that no picture meets.
    """
    image_processor = processor.image_processor
    name = type(image_processor).__name__
    _set_processor_kwargs(processor, config.processor_kwargs)
    tiled = hasattr(image_processor, "max_image_tiles")
    if config.max_image_tiles is not None:
        if not tiled:
            raise ConfigError(
                f"{name} counts no tiles, so max_image_tiles={config.max_image_tiles} cannot bound "
                f"it; {_other_budget(processor)}."
            )
        image_processor.max_image_tiles = config.max_image_tiles
    if config.min_pixels is None and config.max_pixels is None:
        return
    counted = area_factor(image_processor)
    if counted is None:
        size = dict(getattr(image_processor, "size", None) or {})
        bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        settings = " and ".join(f"{name}={value}" for name, value in bounds.items() if value)
        raise ConfigError(
            f"{name} does not bound the area of a picture (its size is {size}), so "
            f"{settings} cannot bound it; {_other_budget(processor)}."
        )
    lowest, highest = area_bounds(image_processor)
    numbers = settings_of(image_processor)
    low = config.min_pixels or numbers[lowest] // counted
    high = config.max_pixels or numbers[highest] // counted
    if low > high and config.min_pixels == low:
        raise ConfigError(
            f"min_pixels={low} is above the {high} pixels that this model's pictures have at most, "
            "so no picture fits; lower it, or set max_pixels as well."
        )
    if low > high:
        raise ConfigError(
            f"max_pixels={high} is below the {low} pixels that this model's pictures have at "
            "least, so no picture fits; raise it, or set min_pixels as well."
        )
    set_settings(image_processor, {lowest: 1, highest: 1})
    token = measure(image_processor, (512, 512)).size
    set_settings(image_processor, {lowest: low * counted, highest: high * counted})
    if token and token[0] * token[1] > high:
        raise ConfigError(
            f"max_pixels={high} is less than the {token[1]} x {token[0]} pixels of a single "
            "token; raise it."
        )


@lru_cache(maxsize=8)
def area_factor(image_processor: "BaseImageProcessor") -> int | None:
    """How many times an image processor counts a picture's area in its bounds of pixels.

    Measured on blank pictures: 1 for Qwen-VL, 2 for GLM. None where the bounds are no areas but
    sides, as those of Pixtral are, or where there are none.
    """
    names = area_bounds(image_processor)
    if not names:
        return None
    if supports_cut_patches(image_processor):  # which is equal to it, and counts the area once
        return 1
    probe = copy.copy(image_processor)
    low, high = 230_000, 900_000
    set_settings(probe, dict(zip(names, (low, high))))
    factors = set()
    for bound, picture in ((high, (2048, 2048)), (high, (1024, 4096)), (low, (64, 64))):
        after = measure(probe, picture).size
        area = after[0] * after[1] if after else 0
        factor = round(bound / area) if area else 0
        # Sides are rounded to whole patches.
        if not 0.8 < factor * area / bound < 1.25:
            return None
        factors.add(factor)
    return factors.pop() if len(factors) == 1 else None


def bounding_settings(processor: "ProcessorMixin") -> list[str]:
    """Names of the settings of an image processor that bound what it makes of a picture.

    Measured: half the value makes less of a large blank picture, or another size.
    """
    image_processor, options = processor.image_processor, call_defaults(processor)
    large = (4096, 3072)
    whole = measure(image_processor, large, **options)
    names = []
    for name, value in settings_of(image_processor).items():
        if not name.startswith("max_") and name != "longest_edge":
            continue
        probe = copy.copy(image_processor)
        if isinstance(value, int) and value > 1 and name not in options:
            set_settings(probe, {name: value // 2})
            if measure(probe, large, **options) not in (whole, BlankSize(None, False, 0)):
                names.append(name)
    return names


def measure(
    image_processor: "BaseImageProcessor", size: tuple[int, int], **options: object
) -> BlankSize:
    """Measure a blank picture of (height, width); of a refused one nothing is known."""

    # transformers' types do not know the settings of each image processor.
    untyped: Any = image_processor

    def process(blank: object) -> Any:
        return untyped(images=[blank], return_tensors="pt", **options)

    try:
        return blank_size(process, size)[0]
    except Exception:  # processors refuse blank pictures with errors of any type
        return BlankSize(None, False, 0)


def call_defaults(processor: "ProcessorMixin") -> dict[str, object]:
    """Settings that a processor passes to its image processor at every call."""
    kwargs: Any = getattr(processor, "valid_processor_kwargs", None)
    return dict(getattr(kwargs, "_defaults", {}).get("images_kwargs", {}))


def settings_of(image_processor: "BaseImageProcessor") -> dict[str, bool | int | float]:
    """Attributes of an image processor that are numbers or booleans, and those of its `size`."""
    size = dict(getattr(image_processor, "size", None) or {})
    values = {**getattr(image_processor, "__dict__", {}), **size}
    return {
        name: value
        for name, value in sorted(values.items())
        if isinstance(value, bool | int | float) and name[0] != "_"
    }


def area_bounds(image_processor: "BaseImageProcessor") -> tuple[str, ...]:
    """Names under which the least and the most pixels of a picture may stand; none: ()."""
    numbers = settings_of(image_processor)
    for names in (("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels")):
        if all(numbers.get(name) for name in names):
            return names
    return ()


def set_settings(image_processor: "BaseImageProcessor", values: dict[str, float]) -> None:
    """Set attributes of an image processor and entries of its `size`, wherever the names stand."""
    size = dict(getattr(image_processor, "size", None) or {})
    others = {name: size[name] for name in size if name not in values and size[name] is not None}
    for name in set(values) & set(vars(image_processor)):
        setattr(image_processor, name, values[name])
    if set(values) & set(size):
        entries = {name: value for name, value in values.items() if name in size}
        untyped: Any = image_processor
        untyped.size = {**entries, **others}


def _set_processor_kwargs(processor: "ProcessorMixin", settings: dict[str, Any]) -> None:
    """Set numbers and booleans that the image processor already has.

    Raises:
        ConfigError: it has no such setting, or one of another kind, or it takes no picture then.
    """
    image_processor = processor.image_processor
    kind = type(image_processor).__name__
    for name, value in settings.items():
        numbers = settings_of(image_processor)
        if name not in numbers:
            raise ConfigError(
                f"processor_kwargs: {kind} has no number or boolean {name!r}; it has "
                f"{', '.join(numbers)}."
            )
        if isinstance(numbers[name], bool) != isinstance(value, bool) or (
            isinstance(numbers[name], int) and not isinstance(value, int)
        ):
            raise ConfigError(
                f"processor_kwargs: {name}={value!r} must be of type "
                f"{type(numbers[name]).__name__}, as the {numbers[name]} that {kind} has."
            )
        if name in call_defaults(processor):
            raise ConfigError(
                f"processor_kwargs: {name} cannot be set, since {type(processor).__name__} gives "
                f"it anew for every picture; {_other_budget(processor)}."
            )
        set_settings(image_processor, {name: value})
    if not settings:
        return
    try:
        white = Image.new("RGB", (640, 480), "white")
        image_processor(images=[white], return_tensors="pt", **call_defaults(processor))
    except Exception as error:  # processors raise errors of any type
        raise ConfigError(
            f"processor_kwargs={settings}: {kind} takes no picture with it "
            f"({' '.join(str(error).split())[:200]}); set another value."
        ) from None


def _other_budget(processor: "ProcessorMixin") -> str:
    """Name what bounds the pictures of this processor: the end of an error's sentence."""
    if hasattr(processor.image_processor, "max_image_tiles"):
        return "set max_image_tiles instead"
    if area_factor(processor.image_processor):
        return "set max_pixels instead"
    numbers, options = settings_of(processor.image_processor), call_defaults(processor)
    if names := bounding_settings(processor):
        examples = ", ".join(f"{name}: {numbers[name]}" for name in names)
        return f"set processor_kwargs instead, which here are {{{examples}}}"
    sizes = [
        measure(processor.image_processor, size, **options) for size in ((64, 64), (768, 1024))
    ]
    if sizes[0] == sizes[1]:
        return "leave it out: every picture is brought to one size"
    names = [n for n, value in numbers.items() if type(value) is int and n not in options]
    return f"leave it out, or set one of {', '.join(names)} under processor_kwargs"


def within_budget(
    picture: Image.Image, min_pixels: int | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Scale a picture to at least `min_pixels` and at most `max_pixels`; None: no bound."""
    pixels = picture.width * picture.height
    wanted = min(max(pixels, min_pixels or 0), max_pixels or math.inf)
    if wanted == pixels:
        return picture
    scale, rounded = math.sqrt(wanted / pixels), math.floor if wanted < pixels else math.ceil
    size = max(1, rounded(picture.width * scale)), max(1, rounded(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def image_processor_of(name: str, config: TrainConfig) -> "BaseImageProcessor":
    """Image processor of a base model (a Hub id or folder), within the config's pixel budget.

    Raises:
        ConfigError: the kit cannot foresee how this image processor resizes.
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(name)
    apply_pixel_budget(processor, config)
    if not supports_cut_patches(processor.image_processor):
        raise ConfigError(
            f"{type(processor.image_processor).__name__} of {name!r} resizes pictures in a way "
            "that the kit does not repeat: leave the processor out, and the server's own does it."
        )
    return processor.image_processor


def fit_tiles(model: "PreTrainedModel", max_tiles: int | None) -> None:
    """Reduce the tiles a picture of a tiled model (Mllama) to `max_tiles`; None: no change.

    The vision tower computes the largest layout of tiles for every picture, empty tiles included,
    and embeds layouts by their number among those of that size. With fewer tiles a processor
    numbers layouts anew, and the model would take a layout for another. So the embeddings of the
    layouts that remain are moved to their new numbers, and the others are dropped. Readings change
    a little, since pictures no longer attend to the empty tiles that are gone.

    Raises:
        ConfigError: more tiles than the model has.
    """
    import torch

    vision = getattr(model.config, "vision_config", None)
    tiles = getattr(vision, "max_num_tiles", None)
    if vision is None or tiles is None or max_tiles is None or max_tiles == tiles:
        return
    if max_tiles > tiles:
        raise ConfigError(
            f"max_image_tiles={max_tiles} is more than the {tiles} tiles that the model was made "
            f"with; set at most {tiles}."
        )
    # Layouts in the order in which the processor numbers them; number 0 means no picture.
    layouts = [[w, h] for w in range(1, max_tiles + 1) for h in range(1, max_tiles // w + 1)]
    numbers = list(map(list, vision.supported_aspect_ratios))
    kept = [0] + [1 + numbers.index(layout) for layout in layouts]
    for module in model.modules():
        if getattr(module, "max_num_tiles", None) != tiles:
            continue
        for embedding in (getattr(module, n, None) for n in ("embedding", "tile_embedding")):
            if isinstance(embedding, torch.nn.Embedding):
                weight = embedding.weight.data.unflatten(1, (tiles, -1))[kept, :max_tiles]
                embedding.weight.data = weight.flatten(1).contiguous()
                embedding.num_embeddings, embedding.embedding_dim = embedding.weight.shape
        vars(module)["max_num_tiles"] = max_tiles
    vision.supported_aspect_ratios = layouts
    vision.max_num_tiles = max_tiles
