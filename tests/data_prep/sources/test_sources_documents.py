import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.dataset.schema import UsageError
from tests.data_prep.synthetic.test_form import FIELDS
from tests.helpers.sources_common import draw, encoded, pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations

FORM = {
    "form": [
        {"id": 0, "text": "TO:", "box": [10, 10, 40, 25], "label": "question", "linking": [[0, 1]]},
        {"id": 1, "text": "Ann", "box": [50, 10, 90, 25], "label": "answer", "linking": [[0, 1]]},
        {"id": 2, "text": "CC", "box": [10, 40, 40, 55], "label": "question"},
        {"id": 3, "text": "Bob", "box": [50, 40, 90, 55], "label": "answer"},
        {"id": 4, "text": "Eve", "box": [100, 40, 150, 55], "label": "answer"},
        {"id": 5, "text": "DATE", "box": [10, 70, 40, 85], "label": "question"},
        {"id": 6, "text": "", "box": [50, 70, 90, 85], "label": "other"},
    ]
}
LINKS = {2: [[2, 3], [2, 4]], 3: [[2, 3]], 4: [[2, 4]]}
for entity in FORM["form"]:
    entity.setdefault("linking", LINKS.get(entity["id"], []))
    entity["words"] = [{"text": entity["text"], "box": entity["box"]}]


def make_form(folder, name="f1", form=FORM):
    save(folder / "images" / f"{name}.png", (200, 100))
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(form))


def test_funsd(tmp_path):
    make_form(tmp_path / "in" / "training_data")
    make_form(tmp_path / "in" / "testing_data", "f2")
    make_form(tmp_path / "in" / "testing_data", "f3", {"form": [{"id": 0}]})
    summary, rows, rejects = run("funsd", tmp_path / "in", tmp_path / "lines")
    assert texts(rows)[:6] == ["TO:", "Ann", "CC", "Bob", "Eve", "DATE"]
    assert summary["rows"] == {"train": 6, "test": 6}
    assert sorted(reasons(rejects)) == ["empty text", "empty text", "malformed JSON"]
    _, rows, _ = run("funsd", tmp_path / "in", tmp_path / "pages", task="pages")
    assert texts(rows)[0] == "TO: Ann\nCC Bob Eve\nDATE"
    _, rows, _ = run("funsd", tmp_path / "in", tmp_path / "fields", task="fields")
    assert json.loads(texts(rows)[0]) == {"TO:": "Ann", "CC": ["Bob", "Eve"], "DATE": ""}


def cord_line(words, category="menu.nm"):
    quads = []
    for text, left, top, row in words:
        x, y = (left, left + 30, left + 30, left), (top, top, top + 12, top + 12)
        quad = {f"x{i + 1}": x[i] for i in range(4)} | {f"y{i + 1}": y[i] for i in range(4)}
        quads.append({"quad": quad, "is_key": 0, "row_id": row, "text": text})
    return {"words": quads, "category": category, "group_id": 3, "sub_group_id": 0}


def write_cord(path, truths):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"bytes": encoded(draw((200, 100))), "path": None}
    truths = [truth if isinstance(truth, str) else json.dumps(truth) for truth in truths]
    table = pa.table({"image": [image] * len(truths), "ground_truth": truths})
    pq.write_table(table, path)


CORD = {
    "gt_parse": {"menu": {"nm": "TEH", "price": "5,000"}, "total": {"total_price": "5,000"}},
    "valid_line": [
        cord_line([("TEH", 10, 10, 1), ("MANIS", 45, 10, 1)]),
        cord_line([("5,000", 150, 10, 1), ("Rp", 10, 40, 2)], "menu.price"),
    ],
}


def test_cord(tmp_path):
    many = {"gt_parses": [{"menu": [{"nm": "A"}]}, {"menu": [{"nm": "B"}]}], "valid_line": []}
    write_cord(tmp_path / "in" / "train-00000-of-00001.parquet", [CORD, many])
    bad = [{"valid_line": [{"words": [{"text": "x"}]}], "gt_parse": {}}, "{broken"]
    write_cord(tmp_path / "in" / "test-00000-of-00001.parquet", [CORD, *bad])
    (tmp_path / "in" / "validation-0.parquet").write_bytes(b"PAR1 broken PAR1")
    summary, rows, rejects = run("cord", tmp_path / "in", tmp_path / "fields")
    assert json.loads(texts(rows)[0]) == CORD["gt_parse"] and rows[0].language == "id"
    assert json.loads(texts(rows)[1]) == many["gt_parses"]
    assert summary["rows"] == {"train": 2, "test": 1}
    assert reasons(rejects) == ["empty text", "malformed record", "unreadable parquet"]
    _, rows, rejects = run("cord", tmp_path / "in", tmp_path / "lines", task="lines")
    assert texts(rows)[:3] == ["TEH MANIS", "5,000", "Rp"]
    assert [(row.width, row.height) for row in rows[:3]] == [(65, 12), (30, 12), (30, 12)]
    assert reasons(rejects) == [*("malformed annotation", "malformed record", "unreadable parquet")]


def test_finscribe(tmp_path):
    answer = {"document_type": "invoice", "line_items": [{"desc": "Tea", "qty": 2}]}
    page = "INVOICE 7\n\nTea      2 x 1.50     3.00"
    records = [
        {
            "instruction": "Parse",
            "input": json.dumps({"ocr_text": page}),
            "output": json.dumps(answer),
        },
        {
            "instruction": "Parse",
            "input": json.dumps({"vendor": "X", "rows": ["a", "b"]}),
            "output": "{}",
        },
        {"prompt": "plain text", "completion": json.dumps(answer)},
        {"input": "x", "output": "ERROR"},
        {"input": "x", "output": "not json"},
        {"input": "", "output": "{}"},
        {"input": "x" * 500, "output": "{}"},
        {"input": "x", "output": "{}", "images": ["own.png"]},
        {"nothing": 1},
    ]
    save(tmp_path / "own.png", (90, 30))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    out = tmp_path / "out"
    summary, rows, rejects = run("finscribe", tmp_path / "train.jsonl", out)
    assert json.loads(texts(rows)[0]) == answer and summary["rows"] == {"train": 4}
    drawn = pictures(out, rows[0])[0]
    assert drawn.height == 3 * 22 + 48 and drawn.convert("L").getextrema() == (0, 255)
    assert json.loads(rows[0].meta) == {"drawn": True} and json.loads(rows[3].meta) == {}
    assert (rows[3].width, rows[3].height) == (90, 30)
    assert reasons(rejects) == [
        *("output is ERROR", "malformed JSON", "missing image", "text too long for a page"),
        "malformed line",
    ]


def test_finscribe_fields_are_drawn_as_a_form(tmp_path):
    hard = {"page": "日", "deep": [[[[[[[1]]]]]]], "many": list(range(500)), "long": "x " * 5000}
    records = [{"input": "other text", "output": json.dumps(FIELDS)}, {"input": "", "output": "[]"}]
    records += [{"input": "x", "output": json.dumps({k: v})} for k, v in hard.items()]
    records += [{"input": "x", "output": "{}", "images": "own.png"}, {"input": "", "output": "{}"}]
    save(tmp_path / "own.png", (90, 30))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    source = tmp_path / "train.jsonl"
    _, rows, rejects = run("finscribe", source, tmp_path / "out", render="fields")
    assert json.loads(texts(rows)[0]) == FIELDS and (rows[0].width, rows[1].width) == (1000, 90)
    assert {reject["reason"] for reject in rejects} == {"fields cannot be drawn"}
    assert [reject["detail"] for reject in rejects] == [
        "the fields are no JSON object",
        "characters that no font of the kit draws",
        "fields lie more than 6 deep",
        "more than 400 fields",
        "more than 8000 characters",
        "there is no field",
    ]
    with pytest.raises(UsageError, match="--render is 'poem', but takes one of text, fields"):
        run("finscribe", source, tmp_path / "never", render="poem")


def write_pdf(path, pages: int, size=(144, 72), resolution=72):
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets = [draw(size, mark=20 * index) for index in range(pages)]
    sheets[0].save(path, "PDF", save_all=True, append_images=sheets[1:], resolution=resolution)


def test_pdf_pages_and_files(tmp_path):
    source = tmp_path / "in"
    for name, pages in (("one", 1), ("two", 2), ("whole", 3), ("lost", 1)):
        write_pdf(source / f"{name}.pdf", pages)
    (source / "one.txt").write_text("single\n")
    (source / "two.txt").write_text("first\fsecond\f")
    (source / "whole.txt").write_text("all of it")
    (source / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (source / "broken.txt").write_text("x")
    out = tmp_path / "out"
    _, rows, rejects = run("pdf", source, out, dpi=144, split="1,0,0")
    assert texts(rows) == ["single", "first", "second", "all of it"]
    assert [len(row.images_file_names) for row in rows] == [1, 1, 1, 3]
    assert (rows[0].width, rows[0].height) == (288, 144)
    assert reasons(rejects) == ["unreadable image", "missing annotation"]
    dark = [
        image.convert("L").resize((144, 72)).getpixel((24, 36)) for image in pictures(out, rows[3])
    ]
    assert dark[0] > 200 and dark[1] < 60 and dark[2] > 200


def test_pdf_fields(tmp_path):
    source = tmp_path / "in"
    write_pdf(source / "a.pdf", 2)
    write_pdf(source / "b.pdf", 2)
    write_pdf(source / "huge.pdf", 1, resolution=0.5)
    (source / "a.json").write_text('{"total": 5}')
    (source / "b.json").write_text('[{"page": 1}, {"page": 2}]')
    (source / "huge.json").write_text('{"total": 5}')
    _, rows, rejects = run("pdf", source, tmp_path / "out", task="fields", split="1,0,0")
    assert texts(rows) == ['{"total": 5}', '{"page": 1}', '{"page": 2}']
    assert [len(row.images_file_names) for row in rows] == [2, 1, 1]
    assert reasons(rejects) == ["image too large"]


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["lines", "fields"])
def test_mutated_forms_give_only_rows_and_rejects(tmp_path, task, count):
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    make_form(tmp_path / "in")
    damaged = json_mutations(json.dumps(FORM), count)
    assert_survives("funsd", damaged, tmp_path, "annotations/f1.json", task=task)


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("render", ["text", "fields"])
def test_mutated_finscribe_lines_give_only_rows_and_rejects(tmp_path, count, render):
    record = {
        "instruction": "Parse",
        "input": '{"ocr_text": "a b\\nc"}',
        "output": json.dumps(FIELDS),
    }
    damaged = json_mutations(json.dumps(record), count)
    assert_survives("finscribe", damaged, tmp_path, "t.jsonl", render=render)
