import json

import pytest
from PIL import Image

from data_prep import validate as module
from data_prep.convert import convert
from data_prep.dataset.schema import DataError
from data_prep.validate import main, validate
from tests.helpers.sources_common import real_data, save


@pytest.fixture
def dataset(tmp_path):
    lines = []
    for index in range(12):
        save(tmp_path / "in" / f"{index}.png", mark=index)
        record = {"image": f"{index}.png", "text": f"line {index}", "who": f"w{index % 3}"}
        lines.append(json.dumps(record))
    (tmp_path / "in" / "t.jsonl").write_text("\n".join(lines))
    options = {"group_column": "who", "split": "0.34,0.33,0.33", "progress": False}
    convert("table", tmp_path / "in" / "t.jsonl", tmp_path / "data", **options)
    return tmp_path / "data"


def edit(dataset, split, number, **changes):
    """Change fields of one row."""
    path = dataset / split / "metadata.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("\n".join(lines) + "\n")


def rows(dataset, split):
    return list(map(json.loads, (dataset / split / "metadata.jsonl").read_text().splitlines()))


def test_a_converted_dataset_is_valid_and_drawn(dataset):
    result = validate(dataset)
    assert result["ok"] and not result["errors"]
    assert result == json.loads((dataset / "validation.json").read_text())
    assert sum(result["rows"].values()) == 12
    with Image.open(dataset / "validation.png") as image:
        assert image.size == (1100, 400) and len(image.convert("RGB").getcolors(10**6)) > 20
    # Digits that only some splits hold are told, for nobody learns to read what is never shown.
    assert set(result["warnings"]) <= {"character that training never shows"}


def test_pages_that_lie_in_two_splits_by_their_names_are_reported(dataset):
    edit(dataset, "train", 0, group="scans/crop_img/a_crop_0.jpg")
    edit(dataset, "test", 0, group="scans/a.png")
    result = validate(dataset)
    kind = "page in two splits, as its name says"
    assert result["warnings"][kind] == 1 and "is of the page" in result["examples"][kind][0]


def test_validate_result_is_independent_of_workers(dataset):
    assert validate(dataset, plot=False) == validate(dataset, workers=2, plot=False)


def test_python_calls_expand_the_home_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "any.json").write_text("{}")
    assert validate("~/data", schema="~/any.json", plot=False)["ok"]
    assert (dataset / "validation.json").is_file()


@pytest.fixture
def source(dataset):
    """What the dataset was made of, and how."""
    table = dataset.parent / "in" / "t.jsonl"
    options = {"group_column": "who", "split": "0.34,0.33,0.33", "progress": False}
    return lambda name, **more: convert("table", table, dataset.parent / name, **options | more)


@pytest.mark.parametrize("how", [{"layout": "messages"}, {"format": "parquet"}])
def test_every_layout_is_checked_alike(dataset, source, how):
    source("other", **how)
    other = dataset.parent / "other"
    assert validate(other, plot=False)["ok"]
    assert validate(other, plot=False, workers=2) == validate(other, plot=False)
    expected, result = validate(dataset, max_characters=3), validate(other, max_characters=3)
    assert result["rows"] == expected["rows"] and result["warnings"] == expected["warnings"]
    places = result["examples"]["long text"]
    name = "train.jsonl:1" if "layout" in how else "data/train-00000-of-00001.parquet row 1"
    assert places[0].startswith(f"{name}: ")
    assert (other / "validation.png").exists()


def test_errors_in_messages_are_found(dataset, source):
    source("other", layout="messages")
    path = dataset.parent / "other" / "train.jsonl"
    lines = list(map(json.loads, path.read_text().splitlines()))
    lines[0]["messages"][0]["content"] = "no mark"
    lines[1]["messages"] = [{"role": "nobody", "content": "<image>"}]
    lines[2]["images"] = None
    (dataset.parent / "other" / lines[3]["images"][0]).unlink()
    broken = ["{broken", "[]"]
    path.write_text("\n".join([*map(json.dumps, lines[:4]), *broken]) + "\n")
    result = validate(dataset.parent / "other", plot=False)
    assert result["errors"] == {
        "invalid row": 4,
        "missing image": 1,
        "broken line": 1,
        "dataset.json counts otherwise": 1,
    }
    places = " ".join(result["examples"]["invalid row"])
    assert "0 <image> for 1 images" in places and "messages is no list" in places
    assert "images is no list of paths" in places and "train.jsonl:5" not in places


def test_errors_in_parquet_are_found(dataset, source):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source("other", format="parquet")
    path = dataset.parent / "other" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    columns = table.to_pylist()
    columns[0]["images"] = [{"bytes": b"broken", "path": "a.png"}]
    columns[1]["images"] = [{"bytes": None, "path": "gone.png"}]
    columns[2]["images"] = []
    columns[3] |= {"width": 7, "id": None}
    pq.write_table(pa.Table.from_pylist(columns, table.schema), path)
    result = validate(dataset.parent / "other", plot=False)
    assert result["errors"] == {"invalid row": 2, "unreadable image": 1, "missing image": 1}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"parquet cannot be read as parquet \("):
        validate(dataset.parent / "other", plot=False)


def answer(text):
    return [{"role": "assistant", "content": text}]


def test_validate_reports_every_error_with_file_and_line(dataset):
    train, test = rows(dataset, "train"), rows(dataset, "test")
    image = dataset / "train" / train[0]["images_file_names"][0]
    image.write_bytes((dataset / "test" / test[0]["images_file_names"][0]).read_bytes())
    edit(dataset, "train", 1, id=train[2]["id"], width=61)
    edit(dataset, "train", 3, group=test[0]["group"])
    (dataset / "test" / test[1]["images_file_names"][0]).unlink()
    (dataset / "test" / test[2]["images_file_names"][0]).write_bytes(b"broken")
    edit(dataset, "test", 3, completion=[])
    with (dataset / "validation" / "metadata.jsonl").open("a") as file:
        file.write("{broken\n")
    result = validate(dataset, plot=False)
    assert not result["ok"]
    assert result["errors"] == {
        "group in two splits": 3,
        "duplicate id": 1,
        "size differs": 1,
        "picture in two splits": 1,
        "missing image": 1,
        "unreadable image": 1,
        "invalid row": 1,
        "broken line": 1,
        "dataset.json counts otherwise": 1,
    }
    assert result["examples"]["size differs"][0].startswith("train/metadata.jsonl:2: images/")
    place = "test/metadata.jsonl:4: completion is no list of {role, content} messages"
    assert result["examples"]["invalid row"] == [place]


def test_validate_warns_about_suspicious_texts(dataset, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES", 100)
    edit(dataset, "train", 0, completion=answer("x" * 90))
    prompt = [{"role": "user", "content": "Is this a cat, or a dog in a hat?"}]
    edit(dataset, "train", 1, prompt=prompt, completion=answer("a dog in a hat"))
    edit(dataset, "test", 0, completion=answer("জ্ঞ"))
    same = rows(dataset, "test")[1]["images_file_names"]
    edit(dataset, "test", 2, images_file_names=same)
    result = validate(dataset, max_characters=80, plot=False)
    assert result["ok"]
    warnings = result["warnings"]
    assert warnings["long text"] == 1 and warnings["answer stands in the prompt"] == 1
    assert warnings["one picture with two texts"] == 1
    unseen = " ".join(result["examples"]["character that training never shows"])
    assert "test: জ U+099C" in unseen


def test_validate_reports_characters_a_tokenizer_cannot_encode(dataset, tmp_path):
    from tokenizers import Tokenizer, decoders, models

    alphabet = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz 0123456789")}
    model = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    model.decoder = decoders.Fuse()
    model.save(str(tmp_path / "tokenizer.json"))
    edit(dataset, "train", 0, completion=answer("line 한"))
    result = validate(dataset, tokenizer=tmp_path / "tokenizer.json", plot=False)
    assert result["examples"]["character that the tokenizer cannot spell"] == ["한 U+D55C"]
    with pytest.raises(DataError, match=r"cannot be read as a tokenizer\.json"):
        validate(dataset, tokenizer=dataset / "dataset.json", plot=False)


def invoice(**summary):
    lines = [
        {"desc": "Tea", "qty": 2, "unit_price": 1.5, "line_total": 3.0},
        {"desc": "Cup", "qty": "1", "unit_price": "4.00", "line_total": "4.00"},
    ]
    base = {"subtotal": 7.0, "tax_rate": 0.1, "tax_amount": 0.7, "grand_total": 7.7}
    return {"line_items": lines, "financial_summary": base | summary}


def test_validate_checks_extraction_against_a_schema(dataset, tmp_path):
    edit(dataset, "train", 0, task="extraction", completion=answer('{"total": "5"}'))
    edit(dataset, "train", 1, task="extraction", completion=answer('{"total": 5}'))
    edit(dataset, "train", 2, task="extraction", completion=answer("5 euros"))
    bad = json.dumps(invoice(grand_total=8) | {"total": 1})
    edit(dataset, "train", 3, task="extraction", completion=answer(bad))
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    result = validate(dataset, schema=tmp_path / "schema.json", plot=False)
    assert result["errors"] == {"completion breaks the schema": 1, "completion is no JSON": 1}
    assert "total: '5' is not of type 'number'" in str(result["examples"])
    assert result["warnings"]["arithmetic"] == 1
    (tmp_path / "schema.json").write_text('{"type": "objekt"}')
    with pytest.raises(DataError, match="cannot be read as a JSON Schema"):
        validate(dataset, schema=tmp_path / "schema.json")


def test_validate_command_exits_1_for_errors(dataset, tmp_path, capsys):
    assert main([str(dataset), "--workers", "1"]) == 0
    assert "12 rows" in capsys.readouterr().out
    edit(dataset, "train", 1, id=rows(dataset, "train")[0]["id"])
    assert main([str(dataset), "--workers", "1"]) == 1
    output = capsys.readouterr().out
    assert "error" in output and "duplicate id" in output and "train/metadata.jsonl:2" in output
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "has no <split>/metadata.jsonl" in capsys.readouterr().err


@pytest.mark.real_data
def test_the_real_receipts_are_valid(tmp_path):
    for task in ("lines", "fields"):
        out = tmp_path / task
        convert("sroie", real_data("finance_sroie"), out, task=task, progress=False)
        result = validate(out, plot=False)
        assert result["ok"], result["examples"]


@pytest.mark.parametrize("name", ["validation.json", "validation.png"])
def test_a_strangers_file_of_that_name_stays(dataset, name, capsys):
    (dataset / name).write_text('{"rows": "mine"}')
    assert main([str(dataset)]) == 1
    assert f"{name} exists and was not written by ocrkit" in capsys.readouterr().err
    assert (dataset / name).read_text() == '{"rows": "mine"}'
    assert main([str(dataset), "--overwrite"]) == 0 and main([str(dataset)]) == 0
    (dataset / ".ocrkit.jsonl").unlink()  # as version 0.1.0 left it
    assert main([str(dataset)]) == 0


def test_validate_reports_control_tokens_turns_and_extreme_sizes(dataset):
    edit(dataset, "train", 0, completion=answer("ABC <|im_end|> DEF"))
    edit(dataset, "train", 1, prompt=[{"role": "user", "content": "Say <image> now"}])
    edit(dataset, "train", 2, prompt=[{"role": "system", "content": "You read."}])
    edit(dataset, "validation", 0, completion=answer("a") + answer("b"))
    edit(dataset, "test", 0, completion=answer(" "))
    for split, number, size in (("test", 1, (3000, 10)), ("test", 2, (40, 20))):
        name = rows(dataset, split)[number]["images_file_names"][0]
        frames = [Image.new("L", size, shade) for shade in (255, 0)]
        several = {"save_all": True, "append_images": frames[1:]} if number == 2 else {}
        frames[0].save(dataset / split / name, format="PNG", **several)
        edit(dataset, split, number, width=size[0], height=size[1])
    result = validate(dataset, plot=False)
    assert result["errors"]["invalid row"] == 2
    told = " ".join(result["examples"]["invalid row"])
    assert "prompt has no turn of the user" in told
    assert "completion has the turns assistant, assistant" in told
    tokens = " ".join(result["examples"]["control token in a text"])
    assert "<|im_end|>" in tokens and "<image>" in tokens
    assert {k: v for k, v in result["warnings"].items() if "character" not in k} == {
        "control token in a text": 2,
        "empty text": 1,
        "long picture": 1,
        "several frames": 1,
    }
    edit(dataset, "train", 0, completion=answer(" "))
    assert validate(dataset, plot=False)["errors"]["empty text"] == 1


def test_a_row_of_another_tool_names_the_command_that_reads_it(dataset):
    path = dataset / "train" / "metadata.jsonl"
    path.write_text(json.dumps({"image": "a.png", "conversations": []}) + "\n")
    (place,) = validate(dataset, plot=False)["examples"]["invalid row"]
    assert "python -m data_prep.convert llava FILE --out DIR reads" in place
