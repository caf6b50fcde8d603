import json

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.convert import convert
from tests.helpers.chat_rows import messages
from tests.helpers.sources_common import (
    draw,
    encoded,
    reasons,
    run,
    save,
    texts,
)


def test_trl_rows_of_every_kind(tmp_path):
    save(tmp_path / "a.png")
    parts = [{"type": "image"}, {"type": "text", "text": "Read"}]
    records = [
        {"images": ["a.png"], "messages": messages(parts, [{"type": "text", "text": "parts"}])},
        {"images": ["a.png"], "messages": messages("<image>Read", "swift")},
        {"images": ["a.png"], "prompt": messages("Read"), "completion": messages("", "split")[1:]},
        {"image": "a.png", "prompt": "Read", "completion": "plain"},
        {"images": [{"path": "a.png", "bytes": None}], "prompt": "Read", "completion": "struct"},
        {"images": ["a.png"], "prompt": "Read"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    _, rows, rejects = run("trl", tmp_path / "in.jsonl", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["parts", "swift", "split", "plain", "struct"]
    assert all(row.prompt == messages("Read") for row in rows)
    assert len({row.group for row in rows}) == 1
    assert reasons(rejects) == ["malformed record"]


def test_own_parquet_dataset_is_read_back_as_trl_rows(tmp_path):
    image = encoded(draw(mark=4))
    table = pa.table(
        {
            "images": [[{"bytes": image, "path": None}]],
            "prompt": [messages("Fields?")],
            "completion": [[{"role": "assistant", "content": '{"a": 1}'}]],
        }
    )
    pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    out = tmp_path / "out"
    source = tmp_path / "test-00000-of-00001.parquet"
    summary, rows, _ = run("trl", source, out, task="extraction")
    assert texts(rows) == ['{"a": 1}'] and summary["rows"] == {"test": 1}
    assert rows[0].task == "extraction"
    assert (out / "test" / rows[0].images_file_names[0]).read_bytes() == image


def test_a_placeholder_in_an_answer_is_text(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", mark=1)
    turns = [
        ("a.png", "<image>\nParse.", "![fig](<image>) text"),
        (["a.png", "b.png"], "First <image> second <image> same?", "no"),
        ("a.png", "Language?\n<image>", "en"),
    ]
    records = [
        {
            "image": image,
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
        }
        for image, asked, answer in turns
    ]
    (tmp_path / "llava.json").write_text(json.dumps(records))
    convert("llava", tmp_path / "llava.json", tmp_path / "out", split="1,0,0")
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()
    labels = [json.loads(line)["completion"][0]["content"] for line in lines]
    assert labels == ["![fig](<image>) text", "no", "en"]
