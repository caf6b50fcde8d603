"""Picture of the front page: a worn line, its readings before and after training, and both CERs.

`python -m tests.tools.front_picture RUN OUT` draws it from the folder of a finished `make demo`.
The line is the first of the test split on which the base makes at least three errors and the tuned
model none; the CERs are those of the whole test split.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_prep.dataset.pictures import open_image
from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.metrics import cer

WIDTH, LINE_HEIGHT, MARGIN, COLUMN = 640, 96, 32, 120
RED, GREEN, GREY = "#b3261e", "#1a7f37", "#57606a"


def draw(picture: Image.Image, readings: list[tuple[str, str, str]], figures: str) -> Image.Image:
    """Draw a line above its readings (title, text, colour) and a sentence of figures."""
    scale = min(LINE_HEIGHT / picture.height, (WIDTH - 2 * MARGIN) / picture.width)
    size = (round(picture.width * scale), round(picture.height * scale))
    row = 52
    canvas = Image.new("RGB", (WIDTH, 3 * MARGIN + size[1] + row * (len(readings) + 1)), "white")
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (MARGIN, MARGIN))
    pen, font, small = (
        ImageDraw.Draw(canvas),
        ImageFont.load_default(34),
        ImageFont.load_default(24),
    )
    top = 2 * MARGIN + size[1]
    for title, reading, colour in readings:
        pen.text((MARGIN, top + 8), title, GREY, small)
        pen.text((MARGIN + COLUMN, top), reading, colour, font)
        top += row
    pen.text((MARGIN, top + 8), figures, GREY, small)
    return canvas


def front_picture(run: Path) -> Image.Image:
    """Draw the picture from the folder of a run that has the evaluations `base` and `tuned`.

    Raises:
        ValueError: no line of the test split was misread by the base and read by the tuned model.
    """
    base, tuned = (Evaluation.load(run / "eval" / name) for name in ("base", "tuned"))
    after = {record["id"]: record["prediction"] for record in tuned.records}
    for record in base.records:
        truth, before = record["reference"], record["prediction"] or ""
        if after[record["id"]] == truth and cer([truth], [before]) * len(truth) >= 3:
            break
    else:
        raise ValueError(f"{run} has no line that only the tuned model reads.")
    rows = load_data(TrainConfig.from_recipe(str(run / "config.yaml")))["test"]
    image = next(row["images"][0] for row in rows if row["id"] == record["id"])
    rates = [evaluation.metrics["cer"]["value"] for evaluation in (base, tuned)]
    figures = f"CER of all {len(base.records)} lines: {rates[0]:.1%} before, {rates[1]:.1%} after"
    readings = [("before", before, RED), ("after", truth, GREEN)]
    return draw(open_image(image).convert("RGB"), readings, figures)


if __name__ == "__main__":
    front_picture(Path(sys.argv[1])).save(sys.argv[2], optimize=True)
