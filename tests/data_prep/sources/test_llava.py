import json

from tests.helpers.chat_rows import messages, turns
from tests.helpers.sources_common import (
    draw,
    encoded,
    pictures,
    reasons,
    run,
    save,
    texts,
)


def test_llava_has_a_row_an_answer_and_stores_a_picture_once(tmp_path):
    save(tmp_path / "photos" / "coco" / "a.png", mark=3)
    records = [
        {
            "id": "1",
            "image": "coco/a.png",
            "conversations": turns("<image>\nWhat?", "A bar", "How many?", "One"),
        },
        {"id": "1", "image": "a.png", "conversations": turns("Read\n<image>", "Text")},
        {"id": "2", "image": "coco/gone.png", "conversations": turns("<image>What?", "No")},
        {"id": "3", "conversations": turns("No picture?", "None")},
        {"id": "4", "image": "coco/a.png", "conversations": turns("<image><image>Two?", "No")},
        {"id": "5", "image": "coco/a.png", "conversations": turns("<image>Unanswered")},
        {"id": "6", "image": "coco/a.png", "conversations": "broken"},
        "no object",
        {"id": "7", "image": "coco/a.png", "conversations": turns("<image>", "Nothing asked")},
        {"id": "8", "image": "coco/a.png", "conversations": turns("<image>Empty?", " ")},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    options = {"images": str(tmp_path / "photos"), "split": "1,0,0"}
    (tmp_path / "photos" / "a.png").write_bytes(encoded(draw(mark=9)))
    _, rows, rejects = run("llava", tmp_path / "llava.json", out, **options)
    assert texts(rows) == ["A bar", "One", "Text"] and rows[0].task == "vqa"
    assert rows[0].prompt == messages("What?")
    assert rows[1].prompt == messages("What?", "A bar", "How many?")
    assert rows[0].images_file_names == rows[1].images_file_names != rows[2].images_file_names
    assert rows[0].group == rows[1].group == "coco/a.png" != rows[2].group
    assert pictures(out, rows[0])[0].tobytes() == draw(mark=3).tobytes()
    assert reasons(rejects) == [
        *("missing image", "missing image", "malformed record", "no answer", "malformed record"),
        *("malformed record", "empty prompt", "empty text"),
    ]


def test_llava_lists_of_pictures_and_broken_lists(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, mark=ord(name[0]))
    record = {"images": ["a.png", "b.png"], "conversations": turns("<image><image>Compare", "Same")}
    (tmp_path / "sharegpt.jsonl").write_text(json.dumps(record) + "\n{broken\n")
    out = tmp_path / "jsonl"
    _, rows, rejects = run("llava", tmp_path / "sharegpt.jsonl", out, split="1,0,0")
    assert [len(row.images_file_names) for row in rows] == [2]
    assert reasons(rejects) == ["malformed line"]
    (tmp_path / "cut.json").write_text("[" + json.dumps(record) + ', {"id": ')
    _, rows, rejects = run("llava", tmp_path / "cut.json", tmp_path / "json", split="1,0,0")
    assert texts(rows) == ["Same"] and reasons(rejects) == ["malformed JSON"]
