"""Pixel budget: bound the size of pictures in pixels, or in tiles (Llama-3.2-Vision)."""

import math
from typing import TYPE_CHECKING

from PIL import Image

from ocrkit.config import TrainConfig
from ocrkit.data.patches import supports_cut_patches
from ocrkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.image_processing_utils import BaseImageProcessor


def apply_pixel_budget(processor: "ProcessorMixin", config: TrainConfig) -> None:
    """Set `min_pixels` and `max_pixels`, or `max_image_tiles`, on the image processor.

    Raises:
        ConfigError: a budget in pixels for a processor of tiles or the reverse, or a budget that no
            picture meets.
    """
    image_processor = processor.image_processor
    tiled = hasattr(image_processor, "max_image_tiles")
    if config.max_image_tiles is not None:
        if not tiled:
            raise ConfigError(
                f"{type(image_processor).__name__} counts pixels, so max_image_tiles="
                f"{config.max_image_tiles} cannot bound it; set max_pixels instead."
            )
        image_processor.max_image_tiles = config.max_image_tiles
    if config.min_pixels is None and config.max_pixels is None:
        return
    size = dict(image_processor.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise ConfigError(
            f"{type(image_processor).__name__} does not count pixels (its size is {size}), so "
            f"min_pixels={config.min_pixels} and max_pixels={config.max_pixels} cannot bound it; "
            + ("set max_image_tiles instead." if tiled else "leave them out.")
        )
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    _check_bounds(size["shortest_edge"], size["longest_edge"], image_processor, config)
    image_processor.size = {key: size[key] for key in ("shortest_edge", "longest_edge")}


def _check_bounds(
    low: int, high: int, image_processor: "BaseImageProcessor", config: TrainConfig
) -> None:
    """Raise a ConfigError if no picture has between `low` and `high` pixels."""
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
    side = getattr(image_processor, "patch_size", 1) * getattr(image_processor, "merge_size", 1)
    if high < side**2:
        raise ConfigError(
            f"max_pixels={high} is less than the {side} x {side} pixels of a single token; raise "
            "it."
        )


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
