import json

from tests.helpers.aihub import WORDS, dump, outdoor
from tests.helpers.sources_common import reasons, run, save, texts


def test_outdoor_words_and_pages_from_parallel_trees(tmp_path):
    for part in ("Training", "Validation"):
        dump(tmp_path / "in" / part / "[라벨]간판" / "a.json", outdoor(words=WORDS))
        save(tmp_path / "in" / part / "[원천]간판" / "a.jpg", (200, 100))
    summary, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "words")
    assert summary["rows"] == {"train": 3, "validation": 3}
    assert texts(rows)[:3] == ["둘", "하나", "셋"] and (rows[0].width, rows[0].height) == (40, 20)
    assert reasons(rejects) == ["marked illegible"] * 2
    assert json.loads(rows[0].meta) == {"box": [60, 12, 100, 32], "orientation": "가로"}
    assert len({row.group for row in rows}) == 2 and rows[0].language == "ko"

    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows) == ["하나 둘\n셋"] * 2 and not rejects
    assert json.loads(rows[0].meta) == {"left_out": 1} and rows[0].width == 200


def test_outdoor_problems_are_rejects(tmp_path):
    words = [
        ("ok", [10, 10, 20, 20]),
        ("x", [10, 10, 20]),
        ("x", None),
        ("x", ["1", "2", "3", "4"]),
        ("x", [10, 10, -5, 20]),
        ("x", [900, 10, 20, 20]),
        (None, [10, 10, 20, 20]),
        (7, [10, 10, 20, 20]),
        ("xxx", [10, 10, 20, 20]),
        ("", [10, 10, 20, 20]),
        ("edge", [-5, 90, 20, 20]),
    ]
    dump(tmp_path / "in" / "a.json", outdoor(words=words))
    dump(tmp_path / "in" / "b.json", outdoor("missing.jpg", [("x", [1, 1, 2, 2])]))
    dump(tmp_path / "in" / "c.json", {"images": []})
    (tmp_path / "in" / "d.json").write_text('{"images": [')
    dump(tmp_path / "in" / "e.json", outdoor("small.jpg", [("x", [1, 1, 2, 2])]))
    save(tmp_path / "in" / "a.jpg", (200, 100))
    save(tmp_path / "in" / "small.jpg", (20, 10))
    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "out")
    assert texts(rows) == ["ok", "edge"] and (rows[1].width, rows[1].height) == (15, 10)
    assert reasons(rejects) == [
        *["malformed box"] * 4,
        *("box outside picture", "null text", "malformed annotation", "marked illegible"),
        *("empty text", "missing image", "malformed JSON", "malformed JSON"),
        "size differs from annotation",
    ]
    # A page with a word that cannot be placed is no page to learn from.
    dump(tmp_path / "in" / "f.json", outdoor(words=WORDS))
    _, rows, rejects = run("aihub-outdoor", tmp_path / "in", tmp_path / "pages", task="pages")
    assert [row.id for row in rows] == ["aihub-outdoor-f"]
    assert rejects[0] == {
        "where": "a.json",
        "reason": "malformed box",
        "detail": "word 1: no list of points",
    }
