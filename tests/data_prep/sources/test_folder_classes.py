import numpy as np
import pytest

from data_prep.dataset.schema import UsageError
from tests.helpers.sources_common import draw, pictures, reasons, run, save, texts


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


def test_invalid_table_of_classes_is_refused(tmp_path):
    save(tmp_path / "in" / "1" / "a.png")
    (tmp_path / "classes.tsv").write_text("1 অ\n")
    for path, cause in ((tmp_path / "classes.tsv", ":1 is '1 অ'"), ("gone.tsv", "cannot be read")):
        with pytest.raises(UsageError, match=cause):
            run("folder-classes", tmp_path / "in", tmp_path / "out", classes=str(path))
