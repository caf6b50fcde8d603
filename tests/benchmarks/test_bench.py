"""The benchmarks with tiny counts, and that what is fast trains what is slow."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ocrkit.data.collate import Collator, same_batch
from ocrkit.data.load import load_data
from ocrkit.data.order import TrainRows
from ocrkit.data.patches import cut_patches, supports_cut_patches
from ocrkit.errors import ConfigError
from tests.benchmarks import collating, gpu, gpu_side, losses, preparing, reading, suite, training
from tests.benchmarks.drawn import noisy_pairs, street_signs, write_pages
from tests.benchmarks.measure import in_own_process, in_turns, limit_row, ratio_row, table
from tests.helpers.architectures import build

ROOT = Path(__file__).parents[2]


# --- what is trained stays the same ---

SHAPES = [(64, 32), (301, 32), (40, 24), (33, 70), (900, 100), (1280, 960), (8, 8)]


def _picture(mode, size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels).resize((size[0] // 3 + 1, size[1] // 3 + 1)).resize(size)
    return image.convert(mode)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paddleocr_vl"])
def test_fast_collation_equals_the_processors_batches(name, tmp_path):
    """Bit for bit: pixels, grids, ids, kinds of token; grey, in colour, scaled up and down."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(build(name, tmp_path / name))
    assert supports_cut_patches(processor.image_processor)
    rows = []
    for number, size in enumerate(SHAPES):
        modes = ("L",) if number % 3 == 0 else ("RGB",) if number % 3 == 1 else ("L", "RGB")
        images = [_picture(mode, size, number) for mode in modes]
        prompt = [{"role": "user", "content": "Read." * (number + 1)}]
        completion = [{"role": "assistant", "content": f"No. {number}"}]
        rows.append({"prompt": prompt, "completion": completion, "images": images})
    short, own = Collator(processor), Collator(processor)
    own._fast = False  # The processor itself.
    short(rows[:1])
    assert short._fast is True
    for part in (rows, rows[:1], rows[1:2], rows[2:4]):
        ours, theirs = short(part), own(part)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert ours[key].dtype == theirs[key].dtype, key
            assert torch.equal(ours[key], theirs[key]), key


def test_fast_collation_is_off_for_a_changed_processor(processor):
    changed = Collator(processor)
    theirs = changed.processor.image_processor.__class__.patchify
    row = {"prompt": [{"role": "user", "content": "Read."}], "images": [_picture("L", (64, 32))]}
    try:
        changed.processor.image_processor.__class__.patchify = lambda self, *a, **k: (
            -theirs(self, *a, **k)[0],
            *theirs(self, *a, **k)[1:],
        )
        negative = changed([{**row, "completion": []}])["pixel_values"]
        assert changed._fast is False
        again = changed([{**row, "completion": []}])["pixel_values"]
        assert torch.equal(negative, again)
    finally:
        changed.processor.image_processor.__class__.patchify = theirs
    assert torch.equal(negative, -Collator(processor)([{**row, "completion": []}])["pixel_values"])


def test_equal_batches_detects_every_difference():
    ids = [np.array([1, 2])]
    batch = {"input_ids": ids, "pixel_values": torch.zeros(1, 2)}
    assert same_batch(batch, {"input_ids": [[1, 2]], "pixel_values": torch.zeros(1, 2)})
    assert not same_batch(batch, {"input_ids": [[1, 3]], "pixel_values": torch.zeros(1, 2)})
    assert not same_batch(batch, {"input_ids": ids, "pixel_values": torch.ones(1, 2)})
    assert not same_batch(batch, {**batch, "mm_token_type_ids": [[0, 0]]})


def test_collator_gives_equal_batches_for_stored_and_decoded_pictures(config, processor):
    """Opened by the collator or by datasets: the same batch, also of a shuffled selection."""
    rows = load_data(config)["train"].select([5, 1, 3, 0])
    places = [2, 0, 3]
    stored, decoded = TrainRows(rows).__getitems__(places), [rows[i] for i in places]
    for row, two in zip(stored, decoded):
        images = row.pop("images"), two.pop("images")
        assert row == {**two, "epoch": 0}
        row["images"], two["images"] = images
        assert images[0][0]["path"] and isinstance(images[1][0], Image.Image)
    collate = Collator(processor, config.image_height)
    ours, theirs = collate(stored), collate(decoded)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_collator_applies_exif_orientation(tmp_path, processor):
    image = _picture("RGB", (64, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    row = {"prompt": [{"role": "user", "content": "Read."}]}
    for stored in (
        str(tmp_path / "turned.jpg"),
        {"path": str(tmp_path / "turned.jpg"), "bytes": None},
    ):
        batch = Collator(processor, generation=True)([{**row, "images": [stored]}])
        assert batch["image_grid_thw"].tolist() == [[1, 8, 4]]


def test_fast_collation_is_decided_by_valid_batches_only(processor):
    row = {"prompt": [{"role": "user", "content": "Read."}]}
    collate, own = (Collator(processor, generation=True) for _ in range(2))
    own._fast = False
    with pytest.raises(ValueError, match="aspect ratio"):
        collate([{**row, "images": [Image.new("L", (4000, 8))]}])
    good = [{**row, "images": [_picture("L", (64, 32))]}]
    for _ in range(2):
        batch, theirs = collate(good), own(good)
        assert batch.keys() == theirs.keys()
        assert all(torch.equal(batch[key], theirs[key]) for key in theirs)
    assert collate._fast is True


def test_patches_of_a_picture_too_long_are_refused(processor):
    with pytest.raises(ValueError, match="aspect ratio"):
        cut_patches([Image.new("L", (4000, 8))], processor.image_processor)


# --- rows of the table ---


def test_benchmark_row_below_its_aim_is_reported(tmp_path, monkeypatch, capsys):
    good = ratio_row("fast", "slow", [1.0, 2.0, 1.0], [3.0, 3.0, 4.0], 2, count=10)
    bad = ratio_row("slow", "fast", [2.0], [1.0], 1.5, inputs="two")
    assert good["met"] and good["ratio"] == {"value": 3.0, "low": 1.5, "high": 4.0}
    assert good["ours"] == 10 and not bad["met"]
    shown = ratio_row("slow", "fast", [2.0], [1.0], None)
    assert shown["met"] and shown["aim"] == "" and shown["ratio"]["value"] == 0.5
    limits = [limit_row("size", 3, "MB", 2), limit_row("text", 15, "px", least=16)]
    assert not any(row["met"] for row in limits)
    several = limit_row("start", [3.0, 1.0, 1.5], "s", 2)
    assert several["met"] and "| 1.5 [1, 3] s |" in table([several])
    aimless = limit_row("rate", 7.0, "%")
    assert aimless["met"] and "| rate | 7 % |  |  |  |  |" in table([aimless])
    monkeypatch.setitem(suite.CPU_PARTS, "padding", lambda folder: [good, bad, *limits])
    result = suite.benchmark("cpu", tmp_path, ["padding"])
    assert [row["what"] for row in suite.missed(result)] == ["slow", "size", "text"]
    out = capsys.readouterr().out
    assert out.count("BELOW AIM") == 3 and f"padding: {2 + len(limits)} rows, 0 s\n" in out
    assert suite.markdown(result).count("**below aim**") == 3 and "**below aim**" not in out
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert saved == result and saved["packages"]["torch"] and saved["parts"]["padding"]["date"]
    assert "| fast | 10 seconds | slow | 3.333 | 3 [1.5, 4] | at least 2 times |" in table([good])


def test_benchmark_part_measured_again_keeps_other_parts(tmp_path, monkeypatch):
    for name in ("padding", "start"):
        monkeypatch.setitem(
            suite.CPU_PARTS, name, lambda folder, value=1: [limit_row("x", value, "s", 2)]
        )
    suite.benchmark("cpu", tmp_path, ["padding"])
    result = suite.benchmark("cpu", tmp_path, ["start"], {"start": {"value": 5}})
    assert [row["ours"] for row in suite.all_rows(result)] == [1, 5]


def test_long_trainings_run_by_name_alone(tmp_path, monkeypatch):
    row = limit_row("x", 1, "s", 2)
    monkeypatch.setattr(suite, "CPU_PARTS", {"start": lambda folder: [row]})
    monkeypatch.setattr(suite, "EXPERIMENTS", {"losses": lambda folder: [row]})
    assert list(suite.benchmark("cpu", tmp_path)["parts"]) == ["start"]
    assert list(suite.benchmark("cpu", tmp_path, ["losses"])["parts"]) == ["start", "losses"]


def test_benchmark_sides_run_in_alternating_order():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = in_turns({**sides, "told": lambda: 7.0}, 2)
    assert "".join(calls) == "baabba" and seconds["told"] == [7.0, 7.0]
    assert len(seconds["a"]) == 2


def test_benchmark_side_that_fails_reports_the_error(tmp_path):
    with pytest.raises(RuntimeError, match="no such file"):
        in_own_process("tests.benchmarks.growth_side", "convert", tmp_path / "x.gnt", tmp_path, 1)


def test_unknown_parts_and_hardware_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no part speed; it has training"):
        suite.benchmark("cpu", tmp_path, ["speed"])
    with pytest.raises(ConfigError, match="not one of cpu, gpu"):
        suite.benchmark("tpu", tmp_path)


def test_benchmark_part_that_fails_is_recorded_and_others_continue(tmp_path, monkeypatch, capsys):
    def fails(folder):
        raise RuntimeError("no kernel\nfor this card")

    parts = {"first": fails, "second": lambda folder: [limit_row("x", 1, "s", 2)]}
    monkeypatch.setattr(suite, "GPU_PARTS", parts)
    result = suite.benchmark("gpu", tmp_path)
    assert result == json.loads((tmp_path / "bench-gpu.json").read_text())
    assert result["parts"]["first"]["error"] == "no kernel for this card"
    assert result["parts"]["second"]["rows"] and "error" not in result["parts"]["second"]
    assert "first failed: no kernel for this card" in suite.markdown(result)
    assert result["device"] == platform.machine()


def test_benchmark_starts_no_part_after_its_time_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "GPU_PARTS", {"first": lambda folder: [limit_row("x", 1, "s", 2)]})
    assert suite.benchmark("gpu", tmp_path, minutes=-1)["parts"] == {}
    assert "first: left out after 0 of -1 minutes" in capsys.readouterr().out


def test_benchmark_page_shows_the_measured_figures(tmp_path):
    from tests.tools.bench import RESULTS, ROOT, update_page
    from tests.tools.check_readme import FIGURES_PAGE

    page = (ROOT / FIGURES_PAGE).read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(page, encoding="utf-8")
    update_page(copy, RESULTS)
    assert copy.read_text(encoding="utf-8") == page
    row = limit_row("x", 3, "s", 2)
    result = {
        "parts": {"p": {"date": "2026-01-01 10:00", "rows": [row]}},
        "packages": {"torch": "2"},
    }
    result |= {"device": "d", "cores": 2, "python": "3"}
    (tmp_path / "bench.json").write_text(json.dumps(result))
    update_page(copy, tmp_path)
    assert "| x | 3 s |  |  |  | at most 2 (**below aim**) |" in copy.read_text(encoding="utf-8")


# --- every part, small ---


def _checked(rows, count):
    assert len(rows) == count
    for row in rows:
        assert row["inputs"] and row["ours"] > 0 and isinstance(row["met"], bool), row
    return rows


def test_training_and_padding_are_measured(tmp_path):
    rows = _checked(training.training(tmp_path, rounds=1, steps=2, batch=4), 2)
    assert all(row["theirs"] > 0 and row["unit"] == "samples/s" for row in rows)
    (row,) = _checked(training.padding(tmp_path, count=300), 1)
    assert row["ours"] < row["theirs"] / 2


def test_wasted_share_counts_padding_tokens():
    assert training.wasted(np.array([4, 4, 2, 2]), 2) == 0
    assert training.wasted(np.array([4, 2, 4, 2]), 2) == 0.25


def test_loss(tmp_path):
    small = {"rows": 4, "tokens": 256, "labels": 16, "vocabulary": 50_000}
    rows = _checked(training.loss(tmp_path, rounds=1, **small), 2)
    assert rows[0]["met"] and rows[0]["unit"] == "MB"


def test_collating_beside_trl(tmp_path):
    rows = collating.collating(tmp_path, rounds=1, lines=32, photos=4, peers=("trl",))
    for row in _checked(rows, 3):
        assert row["same ids"] and row["largest difference of a pixel"] <= 1e-5


@pytest.mark.slow
def test_collating_beside_unsloth(tmp_path):
    rows = collating.collating(tmp_path, rounds=1, lines=32, photos=4, peers=("unsloth",))
    assert all(row["same ids"] for row in _checked(rows, 3))


@pytest.mark.slow
def test_losses_are_compared_on_the_same_lines(tmp_path, monkeypatch):
    monkeypatch.delitem(losses.EXPERIMENTS, "documents")
    (row,) = _checked(losses.losses(tmp_path, steps=1, seeds=(1,), receipts=12), 1)
    runs = row["figures"]["lines"]["runs"]
    assert list(runs) == list(losses.CHANGES)
    assert len({run["1"]["rows"] for run in runs.values()}) == 1


def test_generation(tmp_path):
    _checked(reading.generation(tmp_path, rounds=1, count=24, single=2), 2)


def test_metrics(tmp_path):
    _checked(reading.metrics(tmp_path, rounds=1, count=400), 4)
    references, predictions = noisy_pairs(400, 0.3)
    assert len(references) == len(predictions) == 400 and references != predictions


def test_conversion(tmp_path):
    rows = _checked(preparing.conversion(tmp_path, rounds=1, lines=40), 4)
    assert rows[3]["ours"] < 1.5


@pytest.mark.slow
def test_start_and_growth(tmp_path):
    _checked(preparing.start(tmp_path, rounds=1), 3)
    # So few rows tell nothing of time.
    rows = preparing.growth(tmp_path, sizes=(5, 10, 40))
    assert len(rows) == 8 and all(row["ours"] > 0 for row in rows if "memory" in row["what"])
    assert {row["what"].split(":")[0] for row in rows} == {
        f"growth of {task}" for task in preparing.TASKS
    }


@pytest.mark.slow
def test_growth_of_what_loads_a_model(tmp_path):
    rows = preparing.growth_with_a_model(tmp_path, sizes=(5, 40))
    assert ["whole plan" in row["what"] for row in rows] == [True, False]
    assert all(row["met"] and row["unit"] == "MB" for row in rows)


def test_pages_are_converted_alike_from_a_folder_and_a_zip(tmp_path):
    """A worker reads pixels itself; from an archive they are sent, and it comes to the same."""
    import zipfile

    from data_prep.convert import convert

    write_pages(tmp_path / "pages", 20)
    with zipfile.ZipFile(tmp_path / "pages.zip", "w") as archive:
        for path in (tmp_path / "pages").iterdir():
            archive.write(path, path.name)
    for name, source in (("folder", "pages"), ("zip", "pages.zip")):
        convert("hwdb-dgrl", tmp_path / source, tmp_path / name, split="1,0,0", progress=False)
    folder, archive = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in paths}
        for name in ("folder", "zip")
        for paths in [sorted((tmp_path / name / "train").rglob("*.*"))]
    )
    assert len(folder) == 21 and folder == archive


# --- whole models, on a CPU ---


@pytest.mark.slow
def test_street_sign_benchmark_runs_on_a_cpu(tmp_path):
    street_signs(tmp_path / "data", 10, size=(320, 240))
    model = gpu._built("tiny_qwen2_vl", tmp_path)
    job = {"model": str(model), "dataset": str(tmp_path / "data"), "steps": 1, "warm": 1}
    job |= {"recipe": "korean", "output": str(tmp_path / "run")}
    results = gpu.measured(job, ("trl", "kit"), rounds=1)
    for side in ("trl", "kit"):
        (result,) = results[side]
        assert result["samples_per_second"] > 0 and 0 <= result["data_wait"] < 1
        assert result["tokens_per_sample"] > 50 and result["peak_gb"] > 0
        assert 0 < result["smallest_text"] <= 20
    rows = _checked(gpu.sign_rows("tiny_qwen2_vl", results, "ten pictures"), 3)
    assert rows[0]["sides"]["trl"]["samples_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("side", ["unsloth", "kit at the stock budget", "kit as on a T4"])
def test_other_street_sign_sides_run_on_a_cpu(tmp_path, side):
    street_signs(tmp_path / "data", 10, size=(320, 240))
    model = gpu._built("tiny_qwen2_vl", tmp_path)
    job = {"model": str(model), "dataset": str(tmp_path / "data"), "steps": 1, "warm": 1}
    job |= {"recipe": "korean", "output": str(tmp_path / "run")}
    ((result,),) = gpu.measured(job, (side,), rounds=1).values()
    assert result["samples_per_second"] > 0 and result["smallest_text"] > 0


def test_street_sign_rows_compare_measurements_with_aims():
    def side(rate, peak, text=None):
        return [{"samples_per_second": rate, "peak_gb": peak, "smallest_text": text}] * 3

    results = {"trl": side(1, 20), "unsloth": side(2, 9), "kit": side(3.3, 8, 17.0)}
    results["kit at the stock budget"] = side(1.2, 9, 20.0)
    results["kit as on a T4"] = side(3, 13)
    rows = gpu.sign_rows("qwen2_vl_2b", results, "made up")
    assert [row["met"] for row in rows] == [True, True, True, False, True, True]


def test_benchmark_side_out_of_memory_is_reported_and_others_continue(monkeypatch):
    tried = []

    def own_process(module, request):
        side = json.loads(request)["side"]
        tried.append(side)
        if side == "trl":
            return None
        return {"samples_per_second": 2.0, "peak_gb": 8.0, "smallest_text": 17.0}

    monkeypatch.setattr(gpu, "in_own_process", own_process)
    results = gpu.measured({}, ("trl", "kit", "kit as on a T4"), rounds=2)
    assert tried == ["trl", "kit", "kit as on a T4", "kit as on a T4", "kit"]
    rows = gpu.sign_rows("qwen2_vl_2b", results, "made up")
    assert [row["met"] for row in rows] == [True, True, True]
    assert rows[0]["theirs"] == "does not fit" and "ratio" not in rows[0]
    assert rows[0]["sides"]["trl"] == "does not fit"
    assert "| 2 samples/s | TRL, PEFT, bitsandbytes, stock | does not fit |  |" in table(rows)
    results["kit"] = results["kit as on a T4"] = []
    rows = gpu.sign_rows("qwen2_vl_2b", results, "made up")
    assert [row["met"] for row in rows] == [False, False]
    assert "| does not fit |  |  |  | at most 14 (**below aim**) |" in table(rows)


def test_benchmark_side_out_of_memory_is_a_result_and_no_failure(monkeypatch):
    def measure(job):
        try:
            raise torch.cuda.OutOfMemoryError
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(job["side"]) from error

    monkeypatch.setattr(gpu_side, "measure", measure)
    assert gpu_side.main({"side": "kit"}) is None
    monkeypatch.setattr(gpu_side, "measure", lambda job: job["missing"])
    with pytest.raises(KeyError):
        gpu_side.main({"side": "kit"})


def test_t4_benchmark_side_disables_flash_attention():
    flash = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    try:
        gpu_side._without_flash()
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_flash_sdp(flash[0])
        torch.backends.cuda.enable_cudnn_sdp(flash[1])


def test_flops_follow_tokens_and_patches(tmp_path):
    from tests.benchmarks.gpu_side import flops_of

    folder = gpu._built("tiny_qwen2_vl", tmp_path)
    count = flops_of(str(folder))
    assert count([10], [40]) + count([20], [80]) == pytest.approx(count([10, 20], [40, 80]))
    assert count([20], [80]) > 2 * count([10], [40])


# Parameters as the checkpoints' pages, or the notebooks of tests/benchmarks/forecasting.py, count
# them; those of Qwen2-VL-2B and Qwen3-VL-2B rounded.
PARAMETERS = {
    "qwen2_vl_2b": 2_209_000_000,
    "qwen3_vl_2b": 2_128_000_000,
    "qwen3_vl_8b": 8_818_470_640 - 51_346_944,
    "qwen3_5_2b": 2_236_352_320 - 23_110_656,
    "gemma3_4b": 4_300_079_472,
    "llama3_2_11b_vision": 10_670_220_835,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_geometries_have_their_sizes(name, tmp_path):
    from transformers import AutoModelForImageTextToText

    from tests.benchmarks.geometry import write_config

    config = write_config(name, tmp_path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    size = sum(weight.numel() for weight in model.parameters())
    assert size == pytest.approx(PARAMETERS[name], rel=0.0005)


def test_bench_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.bench", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "PART" in done.stdout
