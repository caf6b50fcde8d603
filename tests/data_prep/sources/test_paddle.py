import json

import pytest

from tests.helpers.sources_common import reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


def test_recognition_and_detection_lines_are_distinguished(tmp_path):
    save(tmp_path / "img" / "page.png", (100, 50))
    save(tmp_path / "img" / "word.png")
    boxes = [
        {"transcription": "가나", "points": [[1, 2], [30, 2], [30, 12], [1, 12]]},
        {"transcription": "###", "points": [[1, 2], [30, 2], [30, 12], [1, 12]]},
        {"transcription": "slanted", "points": [[10, 20], [40, 15], [42, 25], [12, 30]]},
        {"transcription": "x", "points": [[1, 2], [3]]},
        {"transcription": "x", "points": "none"},
        {"points": [[1, 2], [30, 2], [30, 12], [1, 12]]},
    ]
    lines = [
        "train_data/img/word.png\t[brackets] are text",
        "train_data/img/page.png\t" + json.dumps(boxes, ensure_ascii=False),
        'train_data/img/page.png\t[{"transcription": "cut',
        "no tab here",
        "",
        "train_data/img/page.png\t[]",
    ]
    (tmp_path / "rec_gt_train.txt").write_text("\n".join(lines))
    source = tmp_path / "rec_gt_train.txt"
    summary, rows, rejects = run("paddle", source, tmp_path / "out", language="ko")
    assert texts(rows) == ["[brackets] are text", "가나", "slanted"]
    assert [(row.width, row.height) for row in rows] == [(60, 20), (29, 10), (32, 15)]
    assert summary["rows"] == {"train": 3} and {row.language for row in rows} == {"ko"}
    assert rows[1].group == rows[2].group != rows[0].group
    assert reasons(rejects) == [
        *("marked illegible", "malformed box", "malformed box", "malformed line"),
        *("malformed line", "malformed line", "empty text"),
    ]


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_mutated_paddle_gives_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "img" / "page.png", (100, 50))
    points = [[1, 2], [30, 2], [30, 12], [1, 12]]
    boxes = [{"transcription": "ab", "points": points}, {"transcription": "###", "points": points}]
    damaged = (b"img/page.png\t" + data for data in json_mutations(json.dumps(boxes), count))
    assert assert_survives("paddle", damaged, tmp_path, "rec_gt_train.txt")
