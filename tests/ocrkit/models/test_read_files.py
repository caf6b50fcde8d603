import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.dataset.schema import DataError
from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.models.predictions import check_out, text_file
from ocrkit.models.read import Reader
from ocrkit.models.read_files import Picture, list_pictures, read_pictures


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of two lines, one broken file, a text file and a PDF of two pages."""
    from data_prep.synthetic.render import draw_line, load_font, shipped_fonts

    folder = tmp_path_factory.mktemp("scans")
    font = load_font(shipped_fonts("DejaVuSans")[0], 21)
    lines = [draw_line(text, font) for text in ("TOTAL 9.00", "CASH 20.00", "PAGE 1", "PAGE 2")]
    (folder / "till").mkdir()
    lines[0].save(folder / "till" / "a.png")
    lines[1].save(folder / "b.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    # The resolution at which pages are rendered, so that a page has the line's size in pixels.
    lines[2].convert("RGB").save(
        folder / "pages.pdf", save_all=True, append_images=[lines[3].convert("RGB")], resolution=200
    )
    return folder


def test_list_pictures_lists_folders_globs_and_pdfs_without_duplicates(scans):
    listed = list_pictures([str(scans), str(scans / "*.png"), str(scans / "b.png")])
    assert [picture.name for picture in listed] == [
        "b.png",
        "broken.png",
        "pages.pdf",
        "pages.pdf",
        "till/a.png",
    ]
    assert listed[3].id == f"{scans / 'pages.pdf'}#page=2"
    # The page is 11.5 points high, and its last pixel is rounded up.
    assert listed[3].open().image.height in (32, 33)
    assert text_file(listed[3], scans).name == "pages.pdf-0002.txt"


def test_inputs_without_pictures_and_unusable_outputs(scans, tmp_path):
    with pytest.raises(DataError, match="matches no file"):
        list_pictures([str(scans / "*.jpg")])
    with pytest.raises(DataError, match="holds no picture"):
        list_pictures([str(tmp_path)])
    with pytest.raises(ConfigError, match=r"neither a \.jsonl file nor a folder"):
        check_out([], tmp_path / "out.csv")
    (scans / "till" / "b.png").write_bytes((scans / "b.png").read_bytes())
    twice = list_pictures([str(scans / "b.png"), str(scans / "till" / "b.png")])
    (scans / "till" / "b.png").unlink()
    with pytest.raises(ConfigError, match="would both be written"):
        check_out(twice, tmp_path)


def test_broken_pdf_is_a_single_picture_that_fails(tmp_path):
    (tmp_path / "x.pdf").write_bytes(b"no document")
    (picture,) = list_pictures([str(tmp_path)])
    with pytest.raises(RuntimeError):
        picture.open()


def test_predictions_are_written_and_not_read_again(scans, tmp_path, capsys):
    out = tmp_path / "out" / "predictions.jsonl"
    assert main(["predict", str(scans), "--out", str(out)]) == 1
    assert "4 read, 1 failed, 0 were there already" in capsys.readouterr().out
    records = [json.loads(line) for line in out.read_text().splitlines()]
    texts = {record["id"]: record["prediction"] for record in records if not record["error"]}
    assert texts[str(scans / "b.png")] == "CASH 20.00"
    assert texts[str(scans / "till" / "a.png")] == "TOTAL 9.00"
    assert len(texts) == 4
    # An interrupted write loses a single line.
    kept = [line for line in out.read_text().splitlines(keepends=True) if "CASH" not in line]
    incomplete = '{"id": "half", "prediction": "한'.encode()[:-1]
    out.write_bytes("".join(kept).encode() + incomplete)
    Image.new("RGB", (64, 32), "white").save(scans / "broken.png")
    assert main(["predict", str(scans), "--out", str(out)]) == 0
    assert "2 read, 0 failed, 3 were there already" in capsys.readouterr().out
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(again) == 5
    assert texts.items() <= {record["id"]: record["prediction"] for record in again}.items()

    folder = tmp_path / "texts"
    (scans / "broken.png").unlink()
    assert main(["predict", str(scans), "--out", str(folder)]) == 0
    assert (folder / "till" / "a.png.txt").read_text() == "TOTAL 9.00\n"
    assert len(list(folder.rglob("*.txt"))) == 4
    capsys.readouterr()
    assert main(["predict", str(scans), "--out", str(folder)]) == 0
    assert "0 read, 0 failed, 4 were there already" in capsys.readouterr().out


def test_named_file_is_listed_whatever_its_suffix(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "scan.dat", format="PNG")
    assert list_pictures([str(tmp_path / "scan.dat")]) == [
        Picture(tmp_path / "scan.dat", "scan.dat")
    ]


def test_smaller_batch_size_is_kept_across_chunks(tmp_path, processor, monkeypatch):
    tried = []

    def two_only(model, collate, rows, config, **options):
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.cuda.OutOfMemoryError
        return [{"id": row["id"], "prediction": "read", "error": None} for row in rows]

    for number in range(8):
        Image.new("L", (64, 32)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(import_module("ocrkit.models.read"), "read_batch", two_only)
    monkeypatch.setattr(import_module("ocrkit.models.read"), "CHUNK", 4)
    config = TrainConfig.from_recipe("quickstart", per_device_eval_batch_size=4)
    pictures = list_pictures([str(tmp_path)])
    read = list(read_pictures(Reader(torch.nn.Module(), processor, config), pictures, "Read."))
    assert [result["prediction"] for result in read] == ["read"] * 8
    assert tried == [4, 2, 2, 2, 2]
    # The caller's config is not changed.
    assert config.per_device_eval_batch_size == 4


def test_page_given_to_a_model_of_lines_warns_once(tmp_path, capsys):
    for name in "ab":
        Image.new("RGB", (400, 600), "white").save(tmp_path / f"{name}.png")
    assert main(["predict", str(tmp_path)]) == 0
    warning = capsys.readouterr().err
    assert warning.count("400 x 600 pixels and is read 32 pixels high") == 1
    assert "a.png" in warning and "cut pages into lines first" in warning


def test_tiff_pages_are_read_and_animations_warn_once(scans, tmp_path, capsys):
    with Image.open(scans / "b.png") as line:
        blank = Image.new("L", line.size, 255)
        blank.save(tmp_path / "two.tif", save_all=True, append_images=[line])
        line.save(tmp_path / "one.tif")
        for name in ("a.webp", "b.png"):
            line.save(tmp_path / name, save_all=True, append_images=[blank], lossless=True)
    assert main(["predict", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    read = dict(line.split("\t") for line in captured.out.splitlines() if "\t" in line)
    assert {Path(name).name: text for name, text in read.items()} == {
        "two.tif#page=1": read[f"{tmp_path / 'two.tif'}#page=1"],
        "two.tif#page=2": "CASH 20.00",
        "one.tif": "CASH 20.00",
        "a.webp": "CASH 20.00",
        "b.png": "CASH 20.00",
    }
    assert captured.err.count("2 pictures hold several frames; the first was read.") == 1


def test_transparent_and_16_bit_pictures_are_read_as_displayed(scans, tmp_path, capsys):
    with Image.open(scans / "b.png") as opened:
        line = opened.convert("L")
    clear = [Image.new("L", line.size)] * 3 + [line.point(lambda value: 255 - value)]
    Image.merge("RGBA", clear).save(tmp_path / "rgba.png")
    Image.merge("LA", clear[2:]).save(tmp_path / "la.png")
    pixels = np.asarray(line, np.float32)
    Image.fromarray(pixels / 255).save(tmp_path / "floats.tif")
    Image.fromarray((pixels * 16).astype(np.uint16)).save(tmp_path / "12bit.png")
    assert main(["predict", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [line.rpartition("\t")[2] for line in lines] == ["CASH 20.00"] * 4
