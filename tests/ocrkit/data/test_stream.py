import json
import shutil
from itertools import islice

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from data_prep.convert import convert
from data_prep.dataset.schema import DataError
from ocrkit.data.collate import Collator
from ocrkit.data.load import load_data
from ocrkit.models.load import load_model
from ocrkit.run_folder import skipped_counts
from ocrkit.training.plan import plan
from ocrkit.training.train import train


def _stream(config, **changes):
    config.streaming = True
    for name, value in changes.items():
        setattr(config, name, value)
    return load_data(config)["train"]


def _ids(stream, count):
    return [row["id"] for row in islice(stream, count)]


@pytest.fixture(scope="module")
def parquet(thermal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "parquet"
    pages = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = []
    for line in (thermal / "train" / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        picture = str(thermal / "train" / row["images_file_names"][0])
        rows.append({"messages": row["prompt"] + row["completion"], "images": [picture]})
        rows[-1]["messages"][0]["content"] = "<image>" + rows[-1]["messages"][0]["content"]
    pages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = "0.8,0.1,0.1"
    convert("trl", pages, folder, task="transcription", format="parquet", split=splits)
    return folder


def test_every_epoch_has_every_row_in_another_order(config):
    stream = _stream(config, shuffle_buffer_size=10)
    rows = list(islice(stream, 120))
    epochs = [[row["id"] for row in rows[start : start + 40]] for start in (0, 40, 80)]
    assert [row["epoch"] for row in rows] == [0] * 40 + [1] * 40 + [2] * 40
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len(set(epochs[0])) == 40
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(stream.take(40)["id"])
    assert _ids(stream, 120) == [row["id"] for row in rows]


def test_streamed_rows_equal_load_data(config, processor):
    config.prompts = {"transcription": "OCR:"}
    whole = {row["id"]: row for row in load_data(config)["train"]}
    collate = Collator(processor, config.image_height)
    for row in islice(_stream(config), 40):
        known = whole[row["id"]]
        for name in ("prompt", "completion", "width", "height", "task", "group", "meta"):
            assert row[name] == known[name]
        assert row["prompt"] == [{"role": "user", "content": "OCR:"}]
        batch, other = collate([row]), collate([known])
        assert all(torch.equal(batch[name], other[name]) for name in other)


def test_stream_resumes_after_a_batch_with_any_workers(config):
    """Whatever the number of workers, before and after, the batches are the same."""
    stream = _stream(config)

    def batches(begun, count, workers):
        loader = DataLoader(
            stream.after(begun, 4),
            batch_size=4,
            num_workers=workers,
            collate_fn=lambda rows: [(row["id"], row["epoch"]) for row in rows],
        )
        return list(islice(loader, count))

    whole = batches(0, 25, workers=0)
    for workers in (1, 2, 3):
        assert batches(0, 25, workers) == whole
    assert batches(5, 20, workers=2) == whole[5:]
    assert batches(13, 12, workers=3) == whole[13:]
    seen = [row for batch in whole for row in batch]
    assert len(set(seen)) == len(seen)


def test_parquet_streams_and_loads(config, parquet):
    config.dataset, config.prompts = str(parquet), {"transcription": "OCR:"}
    whole = load_data(config)
    assert {"train", "validation", "test"} == set(whole)
    assert {image.mode for image in whole["train"][0]["images"]} <= {"L", "RGB"}
    rows = list(islice(_stream(config), len(whole["train"])))
    assert sorted(row["id"] for row in rows) == sorted(whole["train"]["id"])
    known = {row["id"]: row for row in whole["train"]}
    for row in rows:
        same = known[row["id"]]
        assert (row["width"], row["height"]) == (same["width"], same["height"])
        assert same["images"][0].size == (row["width"], row["height"])
        assert same["prompt"] == row["prompt"] == [{"role": "user", "content": "OCR:"}]


def test_unusable_streamed_rows_are_listed_once(config, thermal, tmp_path):
    shutil.copytree(thermal, tmp_path / "data")
    path = tmp_path / "data" / "train" / "metadata.jsonl"
    lines = path.read_text().splitlines()
    (tmp_path / "data" / "train" / json.loads(lines[3])["images_file_names"][0]).unlink()
    lines[7] = "{"
    path.write_text("\n".join(lines))
    stream = _stream(config, dataset=str(tmp_path / "data"))
    assert len(set(_ids(stream, 200))) == 38
    assert skipped_counts(config.output_dir) == {"missing picture": 1, "broken line": 1}


def test_a_run_on_a_stream_stopped_and_resumed_is_the_same(config, tmp_path, processor):
    def run(**changes):
        stream = _stream(config, **changes)
        model, processor = load_model(config)
        result = train(model, processor, {"train": stream}, config)
        weights = {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}
        return [(e["loss"], e["epoch"]) for e in result.history if "loss" in e], weights

    config.augmentation = {"noise": 0.05}
    config.gradient_accumulation_steps = 2
    config.max_length = 48
    logged, weights = run(lr_scheduler_type="constant", warmup_steps=0, save_steps=2)
    config.output_dir = str(tmp_path / "stopped")
    run(max_steps=2)
    again, resumed = run(max_steps=4, resume_from_checkpoint="auto", dataloader_num_workers=2)
    # The first two epochs are those of a run of two steps.
    assert [loss for loss, _ in again] == [loss for loss, _ in logged] and len(logged) == 4
    assert [epoch for _, epoch in logged] == [0.25, 0.5, 0.75, 1]
    assert [epoch for _, epoch in again] == [0.5, 1, 0.75, 1]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert skipped_counts(config.output_dir)["longer than the context"] > 0


def test_plan_of_a_stream_measures_the_first_rows(config, capsys):
    data = {"train": _stream(config)}
    assert plan(config, data, *load_model(config), probe_steps=1).samples == 40


@pytest.mark.parametrize("rows", [4000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_rows(config, thermal, tmp_path, processor, rows):
    """Resident memory while the first tenth of the rows is read, and at most after that."""
    shutil.copytree(thermal, tmp_path / "data")
    path = tmp_path / "data" / "train" / "metadata.jsonl"
    lines = path.read_text().splitlines()
    with path.open("w") as file:
        for number in range(rows):
            file.write(lines[number % 40].replace('"id": "', f'"id": "{number}-', 1) + "\n")
    stream = _stream(config, dataset=str(tmp_path / "data")).fitting(processor, 1000)
    collate = Collator(processor, config.image_height)
    loader = DataLoader(stream.after(0, 50), batch_size=50, collate_fn=collate)
    # As it is at each batch: the highest that the process ever was may be another test's.
    process = psutil.Process()
    resident = [process.memory_info().rss for _ in islice(loader, rows // 50)]
    assert max(resident[rows // 500 :]) < 1.05 * max(resident[: rows // 500])


def test_a_stream_without_a_row_that_fits_is_refused(config):
    config.streaming, config.max_length = True, 5
    with pytest.raises(DataError, match="longer than the context of 5 tokens"):
        train(*load_model(config), load_data(config), config)
