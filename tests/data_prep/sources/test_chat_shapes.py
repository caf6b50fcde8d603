"""Chat rows of other trainers: where pictures stand, which answers count, whose shapes."""

import json

import pytest

from data_prep.convert import convert
from data_prep.validate import validate
from tests.helpers.sources_common import pictures, reasons, run, save, texts

ASK, ANSWER = {"role": "user"}, {"role": "assistant", "content": "x"}


@pytest.fixture
def folder(tmp_path):
    for mark in (1, 2):
        save(tmp_path / "in" / f"{mark}.png", mark=9 * mark)
    return tmp_path / "in"


def read(folder, records, source="trl", **options):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    out = folder.parent / f"out-{len(list(folder.parent.iterdir()))}"
    return (*run(source, folder / "rows.jsonl", out, split="1,0,0", **options), out)


def interleaved():
    return {
        "messages": [
            {"role": "user", "content": "First: <image> what is it?"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "And now this: <image>"},
            {"role": "assistant", "content": "two"},
        ],
        "images": ["1.png", "2.png"],
    }


def test_later_answers_keep_pictures_at_the_turns_that_showed_them(folder):
    _, rows, _, out = read(folder, [interleaved()])
    assert texts(rows) == ["one", "two"]
    assert [len(row.images_file_names) for row in rows] == [1, 2]
    image, text = {"type": "image"}, lambda words: {"type": "text", "text": words}
    first = {"role": "user", "content": [text("First: "), image, text(" what is it?")]}
    assert rows[0].prompt == [first]
    assert rows[1].prompt == [
        first,
        {"role": "assistant", "content": [text("one")]},
        {"role": "user", "content": [text("And now this: "), image]},
    ]
    assert rows[0].images_file_names[0] == rows[1].images_file_names[0]
    assert validate(out, plot=False)["ok"]


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("<image>Read", "Read"),
        ("Read\n<image>", "Read"),
        ("<image>\n\nRead this", "Read this"),
        ([{"type": "text", "text": "Read"}, {"type": "image"}], "Read"),
        ([{"type": "image"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    ],
)
def test_picture_at_an_end_of_a_question_keeps_content_a_string(folder, content, prompt):
    messages = [{"role": "user", "content": content}, ANSWER]
    _, rows, _, _ = read(folder, [{"messages": messages, "images": ["1.png"]}])
    assert rows[0].prompt == [{"role": "user", "content": prompt}]


def test_two_pictures_around_words_keep_their_places(folder):
    messages = [{"role": "user", "content": "<image> like <image>"}, ANSWER]
    _, rows, _, _ = read(folder, [{"messages": messages, "images": ["1.png", "2.png"]}])
    kinds = [part["type"] for part in rows[0].prompt[0]["content"]]
    assert kinds == ["image", "text", "image"]


@pytest.mark.parametrize("name", ["weight", "loss", "loss_weight"])
def test_an_answer_without_weight_is_prompt_alone(folder, name):
    messages = [
        {"role": "user", "content": "<image>Read"},
        {"role": "assistant", "content": "WRONG", name: 0},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "x", name: 1},
    ]
    record = {"messages": messages, "images": ["1.png"]}
    bare = {"messages": messages[:2], "images": ["1.png"]}
    _, rows, rejects, _ = read(folder, [record, bare])
    assert texts(rows) == ["x"] and reasons(rejects) == ["no answer"]
    assert [message["content"] for message in rows[0].prompt] == ["Read", "WRONG", "Again"]


SHAPES = {
    "LLaMA-Factory's parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "value": "1.png"},
                    {"type": "text", "value": "Read"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "value": "x"}]},
        ]
    },
    "ms-swift's query": {"query": "<image>Read", "response": "x", "images": ["1.png"]},
    "ms-swift's picture objects": {
        "messages": [{"role": "user", "content": "<image>Read"}, ANSWER],
        "images": [{"path": "1.png", "bytes": None}],
    },
    "Alpaca": {"instruction": "<image>Read", "input": "", "output": "x", "images": ["1.png"]},
    "Alpaca without a mark": {"instruction": "Read", "output": "x", "images": ["1.png"]},
    "Qwen-VL": {
        "conversations": [
            {"from": "user", "value": "<img>1.png</img>\nRead"},
            {"from": "assistant", "value": "x"},
        ]
    },
    "Qwen2-VL's parts": {
        "messages": [
            {"role": "user", "content": [{"image": "file://1.png"}, {"text": "Read"}]},
            ANSWER,
        ]
    },
    "TRL's plain texts": {"prompt": "Read", "completion": "x", "image": "1.png"},
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": "<image>Read"},
            {"from": "gpt", "value": "x"},
        ],
        "images": "1.png",
    },
}


@pytest.mark.parametrize("source", ["trl", "openai", "llava"])
@pytest.mark.parametrize("shape", SHAPES)
def test_known_chat_formats_are_read(folder, shape, source):
    _, rows, _, out = read(folder, [SHAPES[shape]], source)
    assert texts(rows) == ["x"]
    assert rows[0].prompt == [{"role": "user", "content": "Read"}]
    assert pictures(out, rows[0])[0].size == (60, 20)


def test_history_and_system_come_before_the_question(folder):
    record = SHAPES["ms-swift's query"] | {"query": "And?", "system": "You read."}
    record["history"] = [["<image>What?", "a bar"]]
    _, rows, _, _ = read(folder, [record])
    assert texts(rows) == ["a bar", "x"]
    contents = [message["content"] for message in rows[1].prompt]
    assert contents == ["You read.", "What?", "a bar", "And?"]


@pytest.mark.parametrize(
    "change",
    [
        {"images": ["1.png"]},
        {"images": ["1.png"] * 3},
        {"videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "<image><image>"}, {"role": "assistant"}]},
        {
            "messages": [
                {"role": "user", "content": "<image>?"},
                {"role": "assistant", "content": [{"type": "image"}]},
            ]
        },
    ],
)
def test_pictures_without_their_marks_and_marks_without_pictures_are_rejects(folder, change):
    good = SHAPES["ms-swift's query"]
    _, rows, rejects, _ = read(folder, [good, interleaved() | change])
    assert len(rows) == 1 and reasons(rejects) == ["malformed record"]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("layout", ["prompt_completion", "messages", "parquet"])
def test_datasets_opens_every_layout(folder, layout, mixed):
    from datasets import load_dataset

    records = [SHAPES["ms-swift's query"], *([interleaved()] if mixed else [])]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    out = folder.parent / "out"
    how = {"format": "parquet"} if layout == "parquet" else {"layout": layout}
    convert("trl", folder / "rows.jsonl", out, split="1,0,0", progress=False, **how)
    assert validate(out, plot=False)["ok"]
    cache = str(folder.parent / "cache")
    if layout == "messages":
        files = str(out / "train.jsonl")
        rows = load_dataset("json", data_files=files, split="train", cache_dir=cache)
        marks = [sum(m["content"].count("<image>") for m in row["messages"]) for row in rows]
        assert marks == [len(row["images"]) for row in rows] == ([1, 1, 2] if mixed else [1])
        return
    kind = {"path": str(out)} if layout == "parquet" else {"path": "imagefolder", "data_dir": out}
    rows = load_dataset(**{k: str(v) for k, v in kind.items()}, split="train", cache_dir=cache)
    contents = [row["prompt"][0]["content"] for row in rows]
    if not mixed:
        assert contents == ["Read"]
        return
    # One column has one type: with a picture between words all prompts of a dataset are parts.
    assert [[part["type"] for part in content] for content in contents] == [
        ["image", "text"],
        ["text", "image", "text"],
        ["text", "image", "text"],
    ]


@pytest.mark.parametrize("mixed", [False, True])
def test_trls_collator_takes_the_rows(folder, mixed):
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from ocrkit import TrainConfig, load_model

    records = [SHAPES["ms-swift's query"], *([interleaved()] if mixed else [])]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    out = folder.parent / "out"
    convert("trl", folder / "rows.jsonl", out, split="1,0,0", progress=False)
    cache = str(folder.parent / "cache")
    rows = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=cache)
    _, processor = load_model(TrainConfig(dataset=str(out), output_dir=str(folder.parent / "run")))
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    batch = collate([dict(row) for row in rows])
    assert len(batch["input_ids"]) == (3 if mixed else 1)
    pictures = sum(len(row["images"]) for row in rows)
    assert len(batch["image_grid_thw"]) == pictures


def test_the_kits_collator_shows_pictures_where_trls_does(folder):
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from ocrkit import TrainConfig, load_data, load_model
    from ocrkit.data.collate import Collator

    (folder / "rows.jsonl").write_text(
        "\n".join(map(json.dumps, [SHAPES["ms-swift's query"], interleaved()]))
    )
    out = folder.parent / "out"
    convert("trl", folder / "rows.jsonl", out, split="1,0,0", progress=False)
    config = TrainConfig(dataset=str(out), output_dir=str(folder.parent / "run"))
    config.image_height = None
    _, processor = load_model(config)
    ours = load_data(config)["train"]
    assert ours[0]["prompt"] == [{"role": "user", "content": "Read"}]  # nothing stands between
    cache = str(folder.parent / "cache")
    theirs = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=cache)
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    for number in range(3):
        tokens = Collator(processor)([ours[number]])["input_ids"][0].tolist()
        other = collate([dict(theirs[number])])["input_ids"][0].tolist()
        # Behind the end of the answer TRL keeps the template's last line end.
        assert other[: len(tokens)] == tokens and len(other) - len(tokens) <= 1


def test_prompt_with_too_few_pictures_is_skipped(folder):
    from ocrkit import TrainConfig, load_data

    _, _, _, out = read(folder, [SHAPES["ms-swift's query"], interleaved()])
    lines = (out / "train" / "metadata.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    row["images_file_names"] = row["images_file_names"][:1]
    (out / "train" / "metadata.jsonl").write_text("\n".join([*lines[:2], json.dumps(row)]))
    run_folder = folder.parent / "run"
    rows = load_data(TrainConfig(dataset=str(out), output_dir=str(run_folder)))["train"]
    assert len(rows) == 2
    assert "2 image parts for 1 pictures" in (run_folder / "skipped.jsonl").read_text()
