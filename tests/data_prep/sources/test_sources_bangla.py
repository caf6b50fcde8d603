import json

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dataset.schema import UsageError
from tests.helpers.sources_common import draw, pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations, mutations


def labelme(shapes, size=(200, 100), image="1_25_1.jpg") -> dict:
    return {
        "version": "4.5.6",
        "shapes": [{"label": text, "points": points} for text, points in shapes],
        "imagePath": image,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }


SHAPES = [
    ("বাংলা", [[90.5, 10], [20, 30]]),
    ("*", [[100, 10], [120, 30]]),
    ("লেখা", [[20, 50], [80, 72]]),
]


def test_banglawriting(tmp_path):
    save(tmp_path / "in" / "1_25_1.jpg", (200, 100))
    (tmp_path / "in" / "1_25_1.json").write_text(json.dumps(labelme(SHAPES)))
    (tmp_path / "in" / "2_30_0.json").write_text(json.dumps(labelme(SHAPES[:1], image="gone.jpg")))
    (tmp_path / "in" / "3_30_0.json").write_text('{"shapes": 3}')
    _, rows, rejects = run("banglawriting", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["বাংলা", "লেখা"] and {row.group for row in rows} == {"1"}
    assert (rows[0].width, rows[0].height, rows[0].language) == (71, 20, "bn")
    assert reasons(rejects) == ["struck out", "missing image", "malformed JSON"]
    _, rows, _ = run("banglawriting", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["বাংলা\nলেখা"] and json.loads(rows[0].meta) == {"left_out": 1}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_labelme_files_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "1_25_1.jpg", (200, 100))
    damaged = json_mutations(json.dumps(labelme(SHAPES)), count)
    assert_survives("banglawriting", damaged, tmp_path, "1_25_1.json")


def test_bn_htrd(tmp_path):
    for folder, header in (("1", ("Id", "Word")), ("2", ("ID", "word"))):
        book = openpyxl.Workbook()
        book.active.append(header)
        book.active.append((f"{folder}_1_1", "শব্দ"))
        book.active.append((f"{folder}_1_2", 12))
        book.active.append((f"{folder}_1_3", None))
        book.active.append((None, None))
        book.active.append((f"{folder}_9_9", "নেই"))
        (tmp_path / "in" / folder).mkdir(parents=True)
        book.save(tmp_path / "in" / folder / f"{folder}.xlsx")
        for word in (1, 2, 3):
            name = f"{folder}_1_{word}.jpg"
            mark = 10 * int(folder) + word
            save(tmp_path / "in" / folder / "Words" / "line1" / name, mark=mark)
    (tmp_path / "in" / "3").mkdir()
    (tmp_path / "in" / "3" / "3.xlsx").write_bytes(b"PK broken")
    _, rows, rejects = run("bn-htrd", tmp_path / "in", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["শব্দ", "12"] * 2 and [row.group for row in rows] == ["1", "1", "2", "2"]
    assert reasons(rejects) == ["empty text", "missing image"] * 2 + ["unreadable sheet"]


def test_class_folders_are_named_by_a_table_and_inverted(tmp_path):
    for folder in ("1", "2", "99"):
        save(tmp_path / "in" / folder / "a.png", mode="L", mark=7)
    (tmp_path / "classes.tsv").write_text("1\tঅ\n2\tক্ষ\n", encoding="utf-8-sig")
    options = {"classes": str(tmp_path / "classes.tsv"), "invert": True, "split": "1,0,0"}
    out = tmp_path / "out"
    _, rows, rejects = run("folder-classes", tmp_path / "in", out, **options)
    assert texts(rows) == ["অ", "ক্ষ"] and reasons(rejects) == ["unknown class"]
    inverted = 255 - np.asarray(draw(mode="L", mark=7))
    assert (np.asarray(pictures(out, rows[0])[0]) == inverted).all()
    _, rows, _ = run("folder-classes", tmp_path / "in", tmp_path / "names", split="1,0,0")
    assert texts(rows) == ["1", "2", "99"]


def test_a_table_of_classes_that_is_none_is_refused(tmp_path):
    save(tmp_path / "in" / "1" / "a.png")
    (tmp_path / "classes.tsv").write_text("1 অ\n")
    for path, cause in ((tmp_path / "classes.tsv", ":1 is '1 অ'"), ("gone.tsv", "cannot be read")):
        with pytest.raises(UsageError, match=cause):
            run("folder-classes", tmp_path / "in", tmp_path / "out", classes=str(path))


def write_graphemes(folder, ids, pixels):
    columns = {"image_id": pa.array(ids)}
    columns |= {str(i): pa.array(pixels[:, i], type=pa.uint8()) for i in range(pixels.shape[1])}
    pq.write_table(pa.table(columns), folder / "train_image_data_0.parquet")


def test_bengali_ai(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 137 * 236), dtype=np.uint8)
    write_graphemes(source, ["Train_0", "Train_1", "Train_7"], pixels)
    lines = ["image_id,grapheme_root,vowel_diacritic,consonant_diacritic,grapheme"]
    lines += ["Train_0,15,9,5,ক্ট্রো", "Train_1,159,0,0,হ", "Train_2,22,3,5,খ্রী"]
    (source / "train.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    _, rows, rejects = run("bengali-ai", source, out, split="1,0,0")
    assert texts(rows) == ["ক্ট্রো", "হ"]
    assert reasons(rejects) == ["missing annotation", "missing image"]
    assert (np.asarray(pictures(out, rows[1])[0]) == pixels[1].reshape(137, 236)).all()
    assert json.loads(rows[0].meta)["grapheme_root"] == "15"


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_mutated_parquet_gives_only_rows_and_rejects(tmp_path, count):
    (tmp_path / "in").mkdir()
    write_graphemes(tmp_path / "in", ["a", "b"], np.zeros((2, 40), np.uint8))
    (tmp_path / "in" / "train.csv").write_text("image_id,grapheme\na,ক\n")
    data = (tmp_path / "in" / "train_image_data_0.parquet").read_bytes()
    damaged = mutations(data, count)
    assert_survives("bengali-ai", damaged, tmp_path, "train_image_data_0.parquet")
