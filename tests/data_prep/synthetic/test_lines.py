import json

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset.schema import DataError
from data_prep.synthetic.fonts import FACES, KINDS, find_fonts, missing_glyphs
from data_prep.synthetic.lines import choose_fonts, lines, sheet
from data_prep.synthetic.texts import Vocabulary, load_vocabulary
from tests.helpers.drawn_lines import shipped
from tests.helpers.sources_common import read_rejects, read_rows, snapshot, texts


def test_a_line_that_no_font_can_draw_is_a_reject(tmp_path):
    vocabulary = Vocabulary("en", ("word",), ("a",), ("plain", "한 word"))
    out = tmp_path / "out"
    result = lines(out, [vocabulary], shipped("print"), 6, split="1,0,0", progress=False)
    assert (result["found"], result["rows"]) == (6, {"train": 3})
    assert result["rejects"] == {"no font has the character": 3}
    assert read_rejects(out)[0] == {
        "where": "line 1",
        "reason": "no font has the character",
        "detail": "한 in 한 word",
    }


def test_drawn_dataset_is_independent_of_workers_and_extends_at_its_end(tmp_path):
    def make(name, count, **options):
        arguments = [load_vocabulary("en")], shipped()
        result = lines(tmp_path / name, *arguments, count, seed=3, progress=False, **options)
        assert result["found"] == count
        return {row.id: row for row in read_rows(tmp_path / name)}

    make("one", 90)
    many = make("two", 90, workers=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    few = make("few", 30)
    assert few.keys() <= many.keys()
    for key, row in few.items():
        assert row == many[key]
        pictures = [next((tmp_path / name).rglob(f"{key}.jpg")) for name in ("few", "two")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    row = many["en-0000010"]
    assert (row.language, row.group, row.source) == ("en", "000001", "synthetic-lines")
    assert json.loads(row.meta) == {"face": "handwriting", "font": "DejaVu Sans Book"} or (
        json.loads(row.meta) == {"face": "handwriting", "font": "DejaVu Serif Book"}
    )
    assert texts([row])[0] == row.completion[0]["content"]


def test_a_changed_word_list_is_another_dataset(tmp_path):
    make = lambda words: lines(  # noqa: E731
        tmp_path / "out", [Vocabulary("en", words, ("a",))], shipped(), 3, progress=False
    )
    assert make(("one",)) == make(("one",))
    with pytest.raises(DataError, match="already holds a dataset"):
        make(("two",))


def test_faces_without_a_font_are_left_out_unless_asked_for(monkeypatch):
    from data_prep.synthetic import fonts

    monkeypatch.setattr(fonts, "installed_fonts", dict)
    chosen, missing = choose_fonts(["en"], None)
    assert list(chosen) == [("en", "print")] and len(missing) == 2
    with pytest.raises(DataError, match="No sign font for Latin"):
        choose_fonts(["en"], ["sign"])
    with pytest.raises(DataError, match="font for Korean is installed"):
        choose_fonts(["en", "ko"], None)


def test_a_sheet_shows_every_face(tmp_path):
    path = tmp_path / "sheet.png"
    sheet(path, [load_vocabulary("en")], shipped(), width=700, rows=1)
    with Image.open(path) as image:
        assert image.width == 700 and len(image.getcolors(1_000_000)) > 60
        rows = np.asarray(image.convert("L"))[:, 130:].std(axis=1) > 10
    assert (np.diff(rows.astype(int)) == 1).sum() >= 3


@pytest.mark.parametrize("language", FACES)
def test_the_kits_words_can_be_drawn_with_the_fonts_of_their_language(language):
    for face in KINDS:
        try:
            families = find_fonts(language, face)
        except DataError:
            continue
        words = " ".join(load_vocabulary(language).words)
        best = min((missing_glyphs(f[0], words) for f in families.values()), key=len)
        assert best == "", face
