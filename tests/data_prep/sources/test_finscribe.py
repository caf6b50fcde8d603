import json

import pytest

from data_prep.dataset.schema import UsageError
from tests.data_prep.synthetic.test_form import FIELDS
from tests.helpers.sources_common import pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, json_mutations


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
