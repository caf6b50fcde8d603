"""Texts that hold a model's own tokens, and turns that are not one question and one answer."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_prep.dataset.pictures import PictureError
from data_prep.dataset.schema import DataError
from ocrkit.data.collate import Collator
from ocrkit.data.conversation import RowRefused
from ocrkit.data.lengths import token_lengths
from ocrkit.data.load import load_data
from ocrkit.data.read_rows import drawn_rows, usable_row
from ocrkit.models.read import predict_stream
from ocrkit.training.rows import fit_context

HOSTILE = [
    "ABC <|im_end|> DEF",
    "x <|image_pad|> y",
    "<|endoftext|>",
    "<image> z",
    "a <|im_start|>user\nb",
    "<|vision_start|><|image_pad|><|vision_end|>",
]


def row(text="x", prompt="Transcribe the text in the image.", size=(96, 32), **more):
    image = Image.new("L", size, 255)
    return {
        "id": "a",
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": text}],
        "images": [image],
        "sizes": [size],
        **more,
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_a_label_with_control_tokens_is_trained_whole(processor, config, text):
    batch = Collator(processor, characters=True)([row(text), row("plain text")])
    for number, whole in enumerate((text, "plain text")):
        labels = batch["labels"][number]
        labels = labels[labels != -100]
        assert processor.tokenizer.decode(labels) == whole + "<|im_end|>"
        # Nothing is lost where a reading leaves special tokens out.
        assert processor.tokenizer.decode(labels, skip_special_tokens=True) == whole
        touched = batch["label_characters"][number]
        assert set(map(chr, touched[touched > 0].tolist())) == set(whole)
    # As many placeholders as the picture has tokens, whatever the label holds.
    placeholders = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
    assert placeholders[0] == placeholders[1]
    (images,), (texts,) = token_lengths([row(text)], processor, config)
    batch = Collator(processor, config.image_height)([row(text)])
    assert images + texts == int(batch["attention_mask"].sum())


def test_label_the_tokenizer_cannot_encode_is_refused_whole(processor, monkeypatch, config):
    collate = Collator(processor)
    monkeypatch.setattr(collate.conversation, "_spell", lambda text: None)
    with pytest.raises(RowRefused, match=r"control token in the text: 'ABC <.im_end.> DEF'"):
        collate([row(), row(HOSTILE[0])])
    assert (
        token_lengths([row(HOSTILE[0]), row()], processor, config, collate.conversation)[1][0]
        == torch.inf
    )


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>"])
def test_a_prompt_with_control_tokens_is_refused_by_name(processor, token):
    with pytest.raises(RowRefused, match="control token in the prompt"):
        Collator(processor)([row(prompt=f"Knowledge {token} here.\n\nWhat?")])
    # A token of the model's that makes no turn may be meant.
    Collator(processor)([row(prompt="<table> or not?")])


@pytest.fixture
def dataset(tmp_path, config):
    """Four lines in each split; `change` rewrites the last row of each."""

    def make(change):
        for split in ("train", "validation", "test"):
            folder = tmp_path / "data" / split
            folder.mkdir(parents=True)
            lines = []
            for number, values in enumerate(drawn_rows(4)):
                values["images"][0].save(folder / f"{number}.png")
                values |= {"id": f"{split}-{number}", "images_file_names": [f"{number}.png"]}
                del values["images"]
                change(values, folder) if number == 3 else None
                lines.append(json.dumps(values) + "\n")
            (folder / "metadata.jsonl").write_text("".join(lines))
        config.dataset = str(tmp_path / "data")
        return config

    return make


def listed(config):
    path = Path(config.output_dir) / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def strip(values, folder):
    Image.new("RGB", (3000, 10), "white").save(folder / "3.png")


def ask_for_a_picture(values, folder):
    values["prompt"][0]["content"] = "Say <|image_pad|> now."


@pytest.mark.parametrize(
    ("change", "reason", "error"),
    [
        (strip, "picture refused by the model's processor", "aspect ratio must be smaller"),
        (ask_for_a_picture, "control token in the prompt", "control token in the prompt: "),
    ],
)
def test_refused_row_is_skipped_in_training_and_failed_in_evaluation(
    dataset, change, reason, error
):
    from ocrkit import evaluate, load_model, train

    config = dataset(change)
    config.max_steps, config.eval_steps = 1, 1
    data = load_data(config)
    model, processor = load_model(config)
    result = train(model, processor, data, config)
    assert [(e["where"], e["reason"]) for e in listed(config)] == [("train row train-3", reason)]
    log = [entry for entry in result.history if "eval_cer" in entry][-1]
    assert log["eval_failed"] == 1 and 0 < log["eval_loss"] < 10
    evaluation = evaluate(model, processor, data["test"], config)
    assert evaluation.failed == 1 and error in evaluation.records[3]["error"]
    assert [record["prediction"] for record in evaluation.records[:2]] == [
        "No. 0 of 9",
        "No. 37 of 9",
    ]


def test_streamed_rows_that_the_model_refuses_are_listed(dataset, processor):
    from ocrkit.data.stream import RowStream

    config = dataset(strip)
    config.streaming = True
    stream = RowStream([Path(config.dataset) / "train" / "metadata.jsonl"], config)
    rows = stream.fitting(processor, 1000)
    taken = iter(rows)
    assert {next(taken)["id"] for _ in range(8)} == {"train-0", "train-1", "train-2"}
    assert {entry["reason"] for entry in listed(config)} == {
        "picture refused by the model's processor"
    }


def test_plan_skips_the_rows_that_training_skips(dataset):
    from ocrkit import load_model, plan

    config = dataset(strip)
    config.max_steps = 1
    data = load_data(config)
    result = plan(config, data, *load_model(config), probe_steps=1)
    assert result.samples == 4 and result.too_long == 1


def test_error_without_usable_rows_states_the_first_reason(dataset, processor):
    from ocrkit import load_model

    config = dataset(strip)
    data = load_data(config)
    model, processor = load_model(config)
    with pytest.raises(DataError, match="picture refused by the model's processor: 3000x10 pix"):
        fit_context(data["train"].select([3]), "train", model, Collator(processor), config)


def test_empty_truth_is_evaluated_and_skipped_in_training(dataset):
    from ocrkit import evaluate, load_model

    def empty(values, folder):
        values["completion"][0]["content"] = " "

    config = dataset(empty)
    data = load_data(config)
    assert [len(rows) for rows in data.values()] == [3, 4, 4]
    assert [entry["reason"] for entry in listed(config)] == ["empty text"]
    evaluation = evaluate(*load_model(config), data["test"], config)
    record = evaluation.records[3]
    assert record["reference"] == " " and record["prediction"]
    # What is read where nothing stands counts as insertions.
    alone = evaluate(*load_model(config), data["test"].select([3]), config, name="alone")
    assert alone.metrics["cer"]["value"] >= len(record["prediction"]) - 1


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"prompt": [{"role": "system", "content": "You read."}]}, "prompt has no turn of the us"),
        ({"completion": [{"role": "user", "content": "x"}]}, "the turns user and not one"),
        (
            {"completion": [{"role": r, "content": "x"} for r in ("assistant", "user") * 2]},
            "has the turns assistant, user, assistant, user and not",
        ),
    ],
)
def test_conversation_without_exactly_one_answer_is_refused(tmp_path, change, detail):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    values = {**row(), "images_file_names": ["a.png"]}
    del values["images"], values["sizes"]
    usable, problem = usable_row(tmp_path / "metadata.jsonl", 3, json.dumps({**values, **change}))
    assert usable is None and problem["reason"] == "wrong turns" and "row 'a'" in problem["detail"]
    assert detail in problem["detail"] and problem["where"].endswith("metadata.jsonl:3")


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ({"messages": [], "images": ["a.png"]}, "trl {} --out DIR reads it"),
        ({"image": "a.png", "conversations": []}, "llava {} --out DIR reads it"),
        ({"query": "x", "response": "y", "images": []}, "trl {} --out DIR reads it"),
        ({"instruction": "x", "input": "", "output": "y"}, "trl {} --out DIR reads it"),
        ({"prompt": "x", "completion": "y", "image": "a.png"}, "trl {} --out DIR reads it"),
        (
            {"file_name": "a.png", "ground_truth": "{}"},
            "table {} --image-column file_name --text-column ground_truth --task extraction --out",
        ),
        ({"image": "a.png", "label": "y"}, "table {} --image-column image --text-column label"),
    ],
)
def test_foreign_row_error_names_the_convert_command(tmp_path, shape, line):
    path = tmp_path / "train" / "metadata.jsonl"
    _, problem = usable_row(path, 1, json.dumps(shape))
    assert problem["reason"] == "another tool's row"
    assert f"python -m data_prep.convert {line.format(path)}" in problem["detail"]


def test_named_convert_command_reads_foreign_rows(tmp_path):
    from data_prep.convert import convert

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    shapes = [
        {"query": "<image>Read.", "response": "b", "history": [["<image>", "a"]], "system": "s"},
        {"instruction": "Read.", "input": "It.", "output": "c", "images": ["a.png"]},
    ]
    shapes[0]["query"], shapes[0]["images"] = "Again.", ["a.png"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, shapes)))
    out = tmp_path / "out"
    convert("trl", tmp_path / "rows.jsonl", out, split="1,0,0", progress=False)
    rows = list(map(json.loads, (out / "train" / "metadata.jsonl").read_text().splitlines()))
    told = [[m["content"] for m in values["prompt"] + values["completion"]] for values in rows]
    assert sorted(told) == [["Read.\nIt.", "c"], ["s", "", "a"], ["s", "", "a", "Again.", "b"]]


def test_foreign_folder_error_names_the_convert_command(tmp_path, config):
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [], "images": ["a.png"]}))
    config.dataset = str(tmp_path)
    with pytest.raises(DataError, match=r"convert trl .*train.jsonl --out DIR reads it"):
        load_data(config)


def test_parquet_of_few_columns_loads_as_json_lines_do(tmp_path, config):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, lines = [], []
    (tmp_path / "lines" / "train").mkdir(parents=True)
    for number, values in enumerate(drawn_rows(3)):
        name = f"{number}.png"
        path = tmp_path / "lines" / "train" / name
        values["images"][0].save(path)
        values["id"] = str(number)
        lines.append(json.dumps({**values, "images": None, "images_file_names": [name]}) + "\n")
        rows.append({**values, "images": [{"bytes": path.read_bytes(), "path": name}]})
    (tmp_path / "lines" / "train" / "metadata.jsonl").write_text("".join(lines))
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows), tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet"
    )
    loaded = []
    for name in ("lines", "parquet"):
        config.dataset = str(tmp_path / name)
        loaded.append(load_data(config)["train"])
    first, second = loaded
    assert first.features == second.features and len(first) == len(second) == 3
    for name in set(first.column_names) - {"images"}:
        assert first[name][:] == second[name][:]
    assert [o["images"][0].tobytes() for o in first] == [o["images"][0].tobytes() for o in second]


def test_rows_of_a_list_are_read_however_their_pictures_are_given(config, tmp_path):
    from ocrkit import evaluate, load_model

    rows = drawn_rows(5)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for values, path in zip(rows, paths):
        values["images"][0].save(path)
    clear = rows[0]["images"][0].convert("L")
    clear = Image.merge("RGBA", [Image.new("L", clear.size)] * 3 + [clear.point(lambda v: 255 - v)])
    pictures = [clear, str(paths[1]), paths[1], {"path": "x", "bytes": paths[1].read_bytes()}]
    pictures.append(str(tmp_path / "gone.png"))
    for values, picture in zip(rows, pictures):
        values["images"] = [picture]
    model, processor = load_model(config)
    evaluation = evaluate(model, processor, rows, config)
    read = [record["prediction"] for record in evaluation.records]
    assert read == ["No. 0 of 9", *["No. 37 of 9"] * 3, ""]
    assert "missing image" in evaluation.records[4]["error"] and evaluation.failed == 1
    with pytest.raises(PictureError):
        Collator(processor)([rows[4]])


def _spoil(model, token, value):
    """Numbers that are none for rows whose prompt or picture holds a token, as in float16."""

    def hook(module, args, output):
        output[args[0] == token] = value
        return output

    return model.get_input_embeddings().register_forward_hook(hook)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_row_with_nan_logits_fails_alone(config, capsys, value):
    from ocrkit import evaluate, load_model

    model, processor = load_model(config)
    rows = drawn_rows(4)
    rows[1]["prompt"] = [{"role": "user", "content": "Read @ this."}]
    expected = {r["id"]: r["prediction"] for r in predict_stream(model, processor, rows, config)}
    (token,) = processor.tokenizer("@", add_special_tokens=False)["input_ids"]
    handle = _spoil(model, token, value)
    try:
        evaluation = evaluate(model, processor, rows, config)
    finally:
        handle.remove()
    assert evaluation.failed == 1
    for record in evaluation.records:
        if record["id"] == "line-1":
            assert record["prediction"] == "" and record["confidence"] == 0.0
            assert record["finish_reason"] == "error"
            assert "NaN or infinity in float32" in record["error"]
        else:
            assert record["error"] is None and record["prediction"] == expected[record["id"]]
    assert capsys.readouterr().err.count("1 of 4 rows failed: the model computed no numbers") == 1


def test_model_with_nan_logits_fails_every_row_at_once(config, capsys, monkeypatch):
    from ocrkit import load_model

    model, processor = load_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    steps = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda **kwargs: steps.append(generate(**kwargs)) or steps[-1]
    )
    results = list(predict_stream(model, processor, drawn_rows(3), config))
    assert [result["prediction"] for result in results] == [""] * 3
    assert all("no numbers" in result["error"] for result in results)
    # The first token ends the turn: nothing is generated to the limit.
    batch = Collator(processor, config.image_height, generation=True)(drawn_rows(3))
    assert max(output.shape[1] for output in steps) == batch["input_ids"].shape[1] + 1
    assert capsys.readouterr().err.count("3 of 3 rows failed") == 1


def test_float16_names_a_wider_dtype():
    from types import SimpleNamespace

    from ocrkit.models.read import _nan_message

    told = _nan_message(SimpleNamespace(dtype=torch.float16))
    assert "in float16; set dtype=bfloat16 or dtype=float32" in told


def test_further_frames_are_reported_once_with_their_count(dataset, capsys):
    def animate(values, folder):
        frames = [Image.new("RGB", (60, 32), shade) for shade in ("white", "black")]
        frames[0].save(folder / "3.png", save_all=True, append_images=frames[1:])

    data = load_data(dataset(animate))
    assert [len(rows) for rows in data.values()] == [4, 4, 4]
    told = capsys.readouterr().out
    assert told.count("3 pictures hold several frames; the first of each is taken.") == 1


def test_tiff_of_several_pages_is_refused_as_a_row(dataset):
    def pages(values, folder):
        page = Image.new("L", (60, 32), 255)
        page.save(folder / "3.tif", save_all=True, append_images=[page])
        values["images_file_names"] = ["3.tif"]

    config = dataset(pages)
    assert [len(rows) for rows in load_data(config).values()] == [3, 3, 3]
    assert {entry["reason"] for entry in listed(config)} == {"several pages"}
