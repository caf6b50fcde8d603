import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.convert import convert
from data_prep.dataset.schema import DataError
from tests.helpers.sources_common import (
    draw,
    encoded,
    pictures,
    real_data,
    reasons,
    run,
    save,
    texts,
)
from tests.tools.fuzz import assert_survives, json_mutations


def turns(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def messages(*values):
    return [{"role": ("user", "assistant")[i % 2], "content": v} for i, v in enumerate(values)]


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


def part(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def test_openai_parts_with_data_uris_and_paths(tmp_path):
    save(tmp_path / "a.png")
    uri = "data:image/jpeg;base64," + base64.b64encode(encoded(draw(mark=5), "JPEG")).decode()
    text = {"type": "text", "text": "Read this."}
    system = {"role": "system", "content": "You read."}
    contents = [
        [text, part(uri)],
        [part("a.png"), text],
        [part("https://example.org/a.png"), text],
        [part("data:image/png;base64,!!!"), text],
        [part("data:image/png,plain"), text],
        [{"type": "audio", "audio": "x"}],
        "no picture",
    ]
    records = [{"messages": [system, *messages(content, "OK")]} for content in contents]
    (tmp_path / "train.jsonl").write_text(
        "\n".join(map(json.dumps, [*records, {"messages": []}, 3]))
    )
    out = tmp_path / "out"
    summary, rows, rejects = run("openai", tmp_path / "train.jsonl", out)
    assert texts(rows) == ["OK", "OK"] and summary["rows"] == {"train": 2}
    assert rows[0].prompt == [system, *messages("Read this.")]
    assert (out / "train" / rows[0].images_file_names[0]).read_bytes() == base64.b64decode(
        uri.partition(",")[2]
    )
    assert reasons(rejects) == [
        *("remote image", "unreadable image", "unreadable image", "malformed record"),
        *("missing image", "malformed record", "malformed record"),
    ]


def test_trl_rows_of_every_kind(tmp_path):
    save(tmp_path / "a.png")
    one = [{"type": "image"}, {"type": "text", "text": "Read"}]
    records = [
        {"images": ["a.png"], "messages": messages(one, [{"type": "text", "text": "parts"}])},
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


def test_a_dataset_of_ours_comes_back_through_parquet(tmp_path):
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


RECORDS = {
    "llava": [{"id": "1", "image": "a.png", "conversations": turns("<image>A", "B", "C", "D")}] * 2,
    "openai": {"messages": messages([part("a.png"), {"type": "text", "text": "A"}], "B")},
    "trl": {"images": ["a.png"], "prompt": messages("A"), "completion": messages("", "B")[1:]},
    "aqua": [{"image": "a.png", "question": "A", "answer": "B", "need_external_knowledge": True}],
}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", RECORDS)
def test_mutated_records_give_only_rows_and_rejects(tmp_path, source, count):
    save(tmp_path / "in" / "a.png")
    name = "train.json" if isinstance(RECORDS[source], list) else "train.jsonl"
    assert_survives(source, json_mutations(json.dumps(RECORDS[source]), count), tmp_path, name)


def aqua(image, question, answer="people", knowledge=False):
    return {
        "image": image,
        "question": question,
        "answer": answer,
        "need_external_knowledge": knowledge,
    }


def make_aqua(folder):
    for name in ("1-a.jpg", "2-b.jpg"):
        save(folder / "Images" / name, mark=int(name[0]))
    records = [
        aqua("1-a.jpg", "what stands"),
        aqua("1-a.jpg", "who painted it", "Ann", True),
        aqua("2-b.jpg", "who painted it", "Bob", True),
        aqua("3-c.jpg", "gone"),
        {"image": "1-a.jpg"},
    ]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "val.json").write_text(json.dumps([aqua("1-a.jpg", "again")]))
    table = "IMAGE_FILE\tDESCRIPTION\tAUTHOR\n1-a.jpg\tA caf\xe9 by Ann.\tAnn\n"
    (folder / "semart.csv").write_bytes(table.encode("cp1252"))


def test_aqua_puts_knowledge_where_it_is_needed(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    make_aqua(source)
    options = {"images": str(source / "Images"), "knowledge": str(source / "semart.csv")}
    summary, rows, rejects = run("aqua", source, out, **options)
    assert summary["rows"] == {"train": 2, "validation": 1} and summary["tasks"] == {"vqa": 3}
    asked = [row.prompt[0]["content"] for row in rows]
    assert asked == ["what stands", "A café by Ann.\n\nwho painted it", "again"]
    assert [json.loads(row.meta)["need_external_knowledge"] for row in rows] == [False, True, False]
    assert reasons(rejects) == ["missing knowledge", "missing image", "malformed record"]
    assert len(list((out / "train").rglob("*.jpg"))) == 1
    _, rows, _ = run("aqua", source, tmp_path / "bare", images=str(source / "Images"))
    assert len(rows) == 4 and rows[2].prompt[0]["content"] == "who painted it"


def test_aqua_takes_the_knowledge_of_all_splits_from_semarts_folder(tmp_path):
    source = tmp_path / "in"
    make_aqua(source)
    options = {"images": str(source / "Images"), "knowledge": str(tmp_path / "SemArt")}
    (tmp_path / "SemArt").mkdir()
    with pytest.raises(DataError, match="SemArt holds no semart_"):
        run("aqua", source, tmp_path / "none", **options)
    for name, image, text in (("train", "1-a.jpg", "Ann's."), ("test", "2-b.jpg", "Bob's.")):
        table = f"IMAGE_FILE\tDESCRIPTION\n{image}\t{text}\n"
        (tmp_path / "SemArt" / f"semart_{name}.csv").write_text(table)
    _, rows, rejects = run("aqua", source, tmp_path / "out", **options)
    asked = [row.prompt[0]["content"] for row in rows]
    assert "Ann's.\n\nwho painted it" in asked and "Bob's.\n\nwho painted it" in asked
    assert reasons(rejects) == ["missing image", "malformed record"]
    (tmp_path / "SemArt" / "semart_val.csv").write_text("a\tb\n")
    with pytest.raises(DataError, match=r"semart_val.csv lacks the columns"):
        run("aqua", source, tmp_path / "other", **options)


@pytest.mark.real_data
def test_the_real_questions_find_the_pictures_they_name(tmp_path):
    source = real_data("vqa_aqua_text") / "val_excerpt.json"
    records = json.loads(source.read_text())
    # The paintings are not there: stand-ins of the same names.
    for record in records:
        save(tmp_path / "images" / record["image"])
    options = {"images": str(tmp_path / "images")}
    summary, rows, _ = run("aqua", source, tmp_path / "out", **options)
    assert texts(rows) == [record["answer"] for record in records]
    assert summary["rows"] == {"validation": 8}


def test_hub_reads_local_parquet(tmp_path):
    images = [{"bytes": encoded(draw(mark=i)), "path": None} for i in range(3)]
    images[2] = {"bytes": None, "path": "gone.png"}
    for split in ("train", "test"):
        table = pa.table({"img": images, "label": ["가", "나", "다"], "who": [1, 1, 2]})
        (tmp_path / "in" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "in" / "data" / f"{split}-00000-of-00001.parquet")
    options = {"image_column": "img", "text_column": "label", "group_column": "who"}
    summary, rows, rejects = run("hub", tmp_path / "in", tmp_path / "out", language="ko", **options)
    assert texts(rows) == ["가", "나"] * 2 and summary["rows"] == {"train": 2, "test": 2}
    assert {row.group for row in rows} == {"1"} and reasons(rejects) == ["missing image"] * 2
    with pytest.raises(DataError, match="has no column 'image'; its columns are img, label, who"):
        run("hub", tmp_path / "in", tmp_path / "other")


def test_hub_streams_what_datasets_can_load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "validation"):
        save(tmp_path / "in" / split / "a.png", mark=len(split))
        line = json.dumps({"file_name": "a.png", "text": f"text of {split}"})
        (tmp_path / "in" / split / "metadata.jsonl").write_text(line)
    out = tmp_path / "out"
    summary, rows, _ = run("hub", tmp_path / "in", out)
    assert texts(rows) == ["text of train", "text of validation"]
    assert summary["rows"] == {"train": 1, "validation": 1}
    assert pictures(out, rows[1])[0].tobytes() == draw(mark=10).tobytes()


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded as a dataset"):
        run("hub", tmp_path / "empty", tmp_path / "out")


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
