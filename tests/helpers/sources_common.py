"""What the tests of data_prep share: drawing pictures, converting, reading the result back."""

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from data_prep.convert import convert
from data_prep.dataset.schema import SPLITS, Row, parse_json, row_problems


def draw(size: tuple[int, int] = (60, 20), mode: str = "RGB", mark: int = 0) -> Image.Image:
    """A white picture with a black bar whose place depends on `mark`."""
    image = Image.new(mode, size, "white")
    left = 2 + mark % max(size[0] - 6, 1)
    ImageDraw.Draw(image).rectangle((left, 2, left + 3, size[1] - 3), fill="black")
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def save(path: Path, size: tuple[int, int] = (60, 20), mode: str = "RGB", mark: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(size, mode, mark).save(path)
    return path


def run(source: str, inputs, out: Path, **options) -> tuple[dict, list[Row], list[dict]]:
    """Convert and check what always holds; returns dataset.json, rows by split order, rejects."""
    summary = convert(source, inputs, out, progress=False, **options)
    assert summary == json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    rows, rejects = read_rows(out), read_rejects(out)
    assert len(rows) + len(rejects) == summary["found"]
    assert sum(summary["rows"].values()) == len(rows)
    assert sum(summary["rejects"].values()) == len(rejects)
    assert len({row.id for row in rows}) == len(rows)
    assert leftovers(out) == []
    return summary, rows, rejects


def read_rows(out: Path, split: str | None = None) -> list[Row]:
    """All rows, each one valid and its pictures as large as it says."""
    rows = []
    for name in [split] if split else SPLITS:
        file = out / name / "metadata.jsonl"
        for line in file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []:
            value = parse_json(line)
            assert row_problems(value) == []
            rows.append(Row.from_dict(value))
            with Image.open(out / name / rows[-1].images_file_names[0]) as image:
                orientation = image.getexif().get(0x0112, 1)
                turned = image.size[::-1] if orientation > 4 else image.size
                assert turned == (rows[-1].width, rows[-1].height)
    return rows


def read_rejects(out: Path) -> list[dict]:
    text = (out / "rejects.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def texts(rows: list[Row]) -> list[str]:
    return [row.completion[0]["content"] for row in rows]


def pictures(out: Path, row: Row) -> list[Image.Image]:
    paths = [out / split / name for split in SPLITS for name in row.images_file_names]
    return [Image.open(path) for path in paths if path.exists()]


def reasons(rejects: list[dict]) -> list[str]:
    return [reject["reason"] for reject in rejects]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def leftovers(out: Path) -> list[str]:
    """What a conversion forgot beside its output."""
    return [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


def real_data(name: str) -> Path:
    """A folder of the real data, or a skip that says why."""
    root = os.environ.get("OCRKIT_TEST_DATA")
    if not root:
        pytest.skip("OCRKIT_TEST_DATA is not set: no real data to read")
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"OCRKIT_TEST_DATA holds no {name}")
    return path
