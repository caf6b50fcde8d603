import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.sources_common import pictures, reasons, run, texts
from tests.tools.fuzz import assert_survives, mutations


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
