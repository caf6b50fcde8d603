"""How much of a picture a model sees, in its own unit: pixels, or tiles (Llama-3.2-Vision)."""

from typing import Any

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError


def apply_pixel_budget(processor: Any, config: TrainConfig) -> None:
    """Set `min_pixels` and `max_pixels`, or `max_image_tiles`, on the processor's picture part.

    Raises:
        ConfigError: a budget in another unit than the model's pictures are counted in, or one that
            no picture meets.
    """
    pictures = processor.image_processor
    tiled = hasattr(pictures, "max_image_tiles")
    if config.max_image_tiles is not None:
        if not tiled:
            raise ConfigError(
                f"{type(pictures).__name__} counts pixels, so max_image_tiles="
                f"{config.max_image_tiles} cannot bound it; set max_pixels instead."
            )
        pictures.max_image_tiles = config.max_image_tiles
    if config.min_pixels is None and config.max_pixels is None:
        return
    size = dict(pictures.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise ConfigError(
            f"{type(pictures).__name__} does not count pixels (its size is {size}), so "
            f"min_pixels={config.min_pixels} and max_pixels={config.max_pixels} cannot bound it; "
            + ("set max_image_tiles instead." if tiled else "leave them out.")
        )
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    _refuse_empty(size["shortest_edge"], size["longest_edge"], pictures, config)
    pictures.size = {key: size[key] for key in ("shortest_edge", "longest_edge")}


def _refuse_empty(low: int, high: int, pictures: Any, config: TrainConfig) -> None:
    """Refuse a budget that no picture meets, now that the processor's own ends are known."""
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
    side = getattr(pictures, "patch_size", 1) * getattr(pictures, "merge_size", 1)
    if high < side**2:
        raise ConfigError(
            f"max_pixels={high} is less than the {side} x {side} pixels of a single token; raise "
            "it."
        )


def fit_tiles(model: Any, most: int | None) -> None:
    """Narrow a model that lays pictures out in tiles (Mllama) to `most` of them; None: as it is.

    Its vision tower computes the largest layout for every picture, empty tiles included, and its
    embeddings are numbered by the layouts of that size: with fewer tiles a processor numbers
    layouts anew, and the model would take one for another. So the embeddings of the layouts that
    remain are moved to their new numbers, and the others are dropped. What the model reads changes
    a little, since pictures no longer see the tiles that are gone.

    Raises:
        ConfigError: more tiles than the model has.
    """
    import torch

    vision = getattr(model.config, "vision_config", None)
    have = getattr(vision, "max_num_tiles", None)
    if most is None or have is None or most == have:
        return
    if most > have:
        raise ConfigError(
            f"max_image_tiles={most} is more than the {have} tiles that the model was made with; "
            f"set at most {have}."
        )
    # The order in which the processor numbers layouts; number 0 stands for no picture.
    ratios = [[w, h] for w in range(1, most + 1) for h in range(1, most // w + 1)]
    kept = [0] + [1 + list(map(list, vision.supported_aspect_ratios)).index(r) for r in ratios]
    for module in model.modules():
        if getattr(module, "max_num_tiles", None) != have:
            continue
        for embedding in (getattr(module, n, None) for n in ("embedding", "tile_embedding")):
            if isinstance(embedding, torch.nn.Embedding):
                layouts = embedding.weight.data.unflatten(1, (have, -1))[kept, :most]
                embedding.weight.data = layouts.flatten(1).contiguous()
                embedding.num_embeddings, embedding.embedding_dim = embedding.weight.shape
        module.max_num_tiles = most
    vision.supported_aspect_ratios = ratios
    vision.max_num_tiles = most
