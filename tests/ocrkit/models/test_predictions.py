"""Prediction files of `predict --out`: kept, read anew, refused, and resumed after a stop."""

import json
import os

import pytest
from PIL import Image

from data_prep.synthetic.render import draw_line, load_font, shipped_fonts
from ocrkit.__main__ import main
from ocrkit.config import TrainConfig
from ocrkit.models.load import load_model
from ocrkit.models.predictions import write_predictions
from ocrkit.models.read import Reader
from ocrkit.models.read_files import list_pictures


@pytest.fixture
def scans(tmp_path):
    """A folder of three short lines of print."""
    (tmp_path / "scans").mkdir()
    for name, text in zip("abc", ("TOTAL 9.00", "CASH 20.00", "CHANGE 11.00")):
        _draw(text, tmp_path / "scans" / f"{name}.png")
    return tmp_path / "scans"


def _draw(text, path):
    draw_line(text, load_font(shipped_fonts("DejaVuSans")[0], 21)).save(path)


@pytest.fixture(scope="module")
def model():
    """The embedded model, as `predict` loads it."""
    return load_model(TrainConfig.from_recipe("quickstart"))


@pytest.fixture
def predict(model, scans, monkeypatch, capsys):
    """Run `predict scans` with more arguments; returns exit code, stdout and stderr."""
    monkeypatch.setattr("ocrkit.models.load.load_model", lambda config: model)

    def run(*more):
        code = main(["predict", str(scans), *map(str, more)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def lines(path):
    return {r["id"].rpartition("/")[2]: r for r in map(json.loads, path.open(encoding="utf-8"))}


OTHER_LINES = [
    '{"id": "a.png", "text": "TOTAL"}',
    '{"id": "a.png", "reference": "TOTAL", "prediction": "TOTAL", "confidence": 1, '
    '"finish_reason": "stop", "error": null, "fingerprint": "f"}',
    '{"id": "a.png", "prediction": "TOTAL"}',
    '{"id": 3, "prediction": "", "confidence": 1, "finish_reason": "stop", "error": null}',
    "a.png\tTOTAL",
    "[1]",
    "3",
    "not json {",
]


@pytest.mark.parametrize("line", OTHER_LINES)
@pytest.mark.parametrize("ending", ["\n", ""])
def test_jsonl_of_another_program_is_refused_unchanged(line, ending, scans, tmp_path, capsys):
    out = tmp_path / "labels.jsonl"
    good = {"id": "x", "prediction": "y", "confidence": 1.0, "finish_reason": "stop", "error": None}
    text = json.dumps(good) + "\n" + line + ending
    out.write_text(text)
    assert main(["predict", str(scans), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{out}:2 was not written by predict" in error and "--overwrite" in error
    assert error.count("\n") == 1 and out.read_text() == text


def test_overwrite_replaces_a_file_of_another_program(predict, tmp_path):
    out = tmp_path / "labels.jsonl"
    out.write_text(OTHER_LINES[0] + "\n")
    assert predict("--out", out, "--overwrite")[0] == 0
    assert set(lines(out)) == {"a.png", "b.png", "c.png"}
    assert "0 read, 0 failed, 3 were there already" in predict("--out", out)[1]
    assert "3 read, 0 failed, 0 were there already" in predict("--out", out, "--overwrite")[1]


@pytest.mark.parametrize("name", ["out.jsonl", "texts"])
@pytest.mark.parametrize(
    "more", [("--prompt", "Read this."), ("--max_new_tokens", 7), ("--image_height", 40)]
)
def test_predictions_with_another_prompt_or_setting_are_refused(name, more, predict, tmp_path):
    out = tmp_path / name
    assert predict("--out", out)[0] == 0
    before = _snapshot(out)
    code, _, error = predict("--out", out, *more)
    assert code == 1 and "by another model, or with another prompt or other settings" in error
    assert "give another --out, or read all anew with --overwrite" in error
    assert error.count("\n") == 1 and _snapshot(out) == before
    assert "3 read" in predict("--out", out, *more, "--overwrite")[1]
    assert "3 were there already" in predict("--out", out, *more)[1]
    assert predict("--out", out)[0] == 1


def _snapshot(out):
    paths = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", ["out.jsonl", "texts"])
def test_predictions_of_another_model_are_refused(name, model, scans, tmp_path):
    import torch

    config = TrainConfig.from_recipe("quickstart")
    pictures, out = list_pictures([str(scans)]), tmp_path / name
    reader = Reader(*model, config)
    assert write_predictions(reader, pictures, "Read.", out) == (3, 0)
    assert write_predictions(reader, pictures, "Read.", out) == (0, 0)
    weight = next(w for n, w in model[0].named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight += 1e-3
    try:
        with pytest.raises(ValueError, match="by another model"):
            write_predictions(reader, pictures, "Read.", out)
    finally:
        with torch.no_grad():
            weight -= 1e-3


@pytest.mark.parametrize("name", ["out.jsonl", "texts"])
def test_changed_picture_is_read_again(name, predict, scans, tmp_path):
    out = tmp_path / name
    assert predict("--out", out)[0] == 0
    _draw("CASH 5.00", scans / "b.png")
    assert "1 read, 0 failed, 2 were there already" in predict("--out", out)[1]
    assert "0 read, 0 failed, 3 were there already" in predict("--out", out)[1]
    if name == "texts":
        assert (out / "b.png.txt").read_text() == "CASH 5.00\n"
        return
    assert lines(out)["b.png"]["prediction"] == "CASH 5.00"
    assert len(out.read_text().splitlines()) == 3


def test_text_corrected_by_hand_is_kept(predict, scans, tmp_path):
    out = tmp_path / "texts"
    assert predict("--out", out)[0] == 0
    (out / "b.png.txt").write_text("CASH twenty\n")
    assert "3 were there already" in predict("--out", out)[1]
    _draw("CASH 5.00", scans / "b.png")
    code, _, error = predict("--out", out)
    assert code == 1 and "b.png.txt was changed by hand, and so was" in error
    assert (out / "b.png.txt").read_text() == "CASH twenty\n"


def test_predictions_of_version_0_1_0_are_kept_with_a_warning(predict, tmp_path):
    out, texts = tmp_path / "out.jsonl", tmp_path / "texts"
    assert predict("--out", out)[0] == 0
    first = [
        {key: value for key, value in record.items() if key not in ("fingerprint", "picture")}
        for record in map(json.loads, out.open(encoding="utf-8"))
    ]
    first[0]["prediction"] = "by 0.1.0"
    out.write_text("".join(json.dumps(record) + "\n" for record in first[:2]))
    texts.mkdir()
    (texts / "a.png.txt").write_text("by 0.1.0\n")
    for place, count in ((out, 2), (texts, 1)):
        code, printed, error = predict("--out", place)
        assert code == 0 and f"{3 - count} read, 0 failed, {count} were there" in printed
        assert f"{count} predictions in {place} carry no fingerprint" in error
    assert "by 0.1.0" in out.read_text()
    assert (texts / "a.png.txt").read_text() == "by 0.1.0\n"


@pytest.mark.parametrize("name", ["out.jsonl", "texts"])
def test_full_disk_loses_a_single_prediction_and_the_next_run_resumes(
    name, predict, scans, tmp_path, full_disk
):
    out = tmp_path / name
    with full_disk(1 if name == "out.jsonl" else 3):
        code, _, error = predict("--out", out)
    assert code == 1 and f"No space left on the disk of {tmp_path}" in error
    assert "out.jsonl;" in error if name == "out.jsonl" else "png.txt;" in error
    assert not list(tmp_path.rglob("*.part"))
    assert "2 read, 0 failed, 1 were there already" in predict("--out", out)[1]


def test_killed_run_is_resumed(predict, tmp_path, scans, killed_at):
    for step in (1, 2, 3):  # the manifest, the new text, its renaming
        out = tmp_path / f"texts{step}"
        assert predict("--out", out)[0] == 0
        _draw(f"CASH {step}.00", scans / "b.png")
        with killed_at(step - 1) as killed:
            predict("--out", out)
        assert killed
        assert "1 read, 0 failed, 2 were there already" in predict("--out", out)[1]
        assert (out / "b.png.txt").read_text() == f"CASH {step}.00\n"
        _draw("CASH 20.00", scans / "b.png")


def test_incomplete_last_line_is_read_again(predict, tmp_path):
    out = tmp_path / "out.jsonl"
    assert predict("--out", out)[0] == 0
    whole = out.read_bytes()
    for cut in (1, 2, 40, 60):
        out.write_bytes(whole[:-cut])
        code, printed, _ = predict("--out", out)
        assert code == 0
        assert "0 read" in printed if cut == 1 else "1 read, 0 failed, 2 were there" in printed
        assert len(lines(out)) == 3


def test_lines_of_other_pictures_are_kept(predict, scans, tmp_path):
    out = tmp_path / "out.jsonl"
    assert predict("--out", out)[0] == 0
    (scans / "a.png").unlink()
    Image.new("RGB", (64, 32), "white").save(scans / "d.png")
    assert "1 read, 0 failed, 2 were there already" in predict("--out", out)[1]
    assert set(lines(out)) == {"a.png", "b.png", "c.png", "d.png"}


def test_pipe_or_folder_as_jsonl_file(scans, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "pipe", "folder.jsonl"):
        assert main(["predict", str(scans), "--out", str(tmp_path / name)]) == 2
        assert "is neither a .jsonl file nor a folder" in capsys.readouterr().err
