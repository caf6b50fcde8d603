import json
import re
import shutil
import subprocess
import sys

import pytest

from ocrkit.__main__ import _config, _parser, main
from ocrkit.evaluation.evaluation import score


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ocrkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_setting():
    done = _run("train", "--help")
    assert done.returncode == 0
    assert "--learning_rate" in done.stdout and "--max_pixels" in done.stdout


def test_train_evaluate_compare_export(thermal, tmp_path, capsys):
    run = tmp_path / "run"
    common = ["--recipe", "quickstart", "--dataset", str(thermal), "--output_dir", str(run)]
    small = ["--max_new_tokens", "32", "--max_eval_samples", "4"]
    assert main(["evaluate", *common, *small]) == 0
    steps = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--eval_steps", "none"]
    assert main(["train", *common, *steps]) == 0
    assert "2 steps, mean loss" in capsys.readouterr().out
    # A run folder brings its own settings along.
    tuned = ["--model_name_or_path", str(run), "--name", "tuned"]
    assert main(["evaluate", *small, *tuned]) == 0
    evaluations = [str(run / "eval" / name) for name in ("base", "tuned")]
    assert main(["compare", *evaluations, "--out", str(tmp_path / "report")]) == 0
    assert "95 % intervals" in capsys.readouterr().out
    assert json.loads((tmp_path / "report" / "report.json").read_text())["evaluations"]
    assert main(["compare", *evaluations, "--metrics", "cer"]) == 0
    table = capsys.readouterr().out
    assert "CER" in table and "exact match" not in table
    merged = ["--model_name_or_path", str(run), "--out", str(tmp_path / "merged")]
    assert main(["export", "--format", "merged_16bit", *merged]) == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_a_file_of_predictions_can_fail_a_build(tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a", "reference": "TOTAL", "prediction": "TOTAI"}\n')
    scored = ["evaluate", "--predictions", str(path)]
    assert main(scored) == 0
    assert main([*scored, "--fail-if", "cer > 0.3"]) == 0
    assert main([*scored, "--fail-if", "cer > 0.1"]) == 1
    assert "cer > 0.1" in capsys.readouterr().err
    assert main([*scored, "--fail-if", "speed > 1"]) == 2
    assert "names no metric" in capsys.readouterr().err
    # Before anything is read.
    assert main(["evaluate", "--predictions", "nowhere", "--fail-if", "cer over 1"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main([*scored, "--output_dir", str(tmp_path / "run"), "--name", "theirs"]) == 0
    assert (tmp_path / "run" / "eval" / "theirs" / "metrics.json").is_file()


def _evaluation(run, name="tuned", read="TOTAL"):
    """Save an evaluation of two rows, one of which says what is given, in a run folder."""
    pairs = [("a", "TOTAL", read), ("b", "9.00", "9.00")]
    keys = ("id", "reference", "prediction")
    evaluation = score([dict(zip(keys, pair)) for pair in pairs], name)
    return str(evaluation.save(run / "eval" / name))


def test_evaluations_of_one_name_are_distinguished(tmp_path, capsys):
    first, other = (_evaluation(tmp_path / run) for run in ("s1", "s2"))
    assert main(["compare", first, other]) == 0
    assert "s2/tuned − s1/tuned" in capsys.readouterr().out
    assert main(["compare", first, _evaluation(tmp_path / "s2", "base")]) == 0
    assert "base − tuned" in capsys.readouterr().out
    assert main(["compare", first, other, "--names", "low", "high"]) == 0
    assert "high − low" in capsys.readouterr().out
    third = _evaluation(tmp_path / "more" / "s1")
    for wrong in (
        [first, third],
        [first, other, "--names", "a"],
        [first, other, "--names", "a", "a"],
    ):
        assert main(["compare", *wrong]) == 2
        assert "give --names" in capsys.readouterr().err


def test_a_comparison_can_fail_a_build(tmp_path, capsys):
    before = _evaluation(tmp_path, "before", read="TOTA")
    both = ["compare", before, _evaluation(tmp_path, "after", read="T0TA")]
    for condition, code in [
        ("cer > 0.3", 0),
        ("cer > 0.2", 1),
        ("change of cer > 0", 1),
        ("change of cer > 0.2", 0),
        ("change of cer < -0.01", 0),
        ("bleu > 1", 2),
        ("cer over 1", 2),
        ("change of failed > 0", 1),
        ("change of teds > 0", 1),
    ]:
        assert main([*both, "--fail-if", condition]) == code, condition
    assert "There is no change of teds" in capsys.readouterr().err
    assert main(["compare", before, "--fail-if", "change of cer > 0"]) == 1
    assert "compare two evaluations" in capsys.readouterr().err
    assert main([*both, "--metrics", "cer", "cerr"]) == 2
    assert "--metrics cerr: the evaluations have cer, " in capsys.readouterr().err


def test_compare_command_reports_the_runs_log_and_skipped_rows(tmp_path, monkeypatch):
    folder = _evaluation(tmp_path / "s1")
    log = [{"step": step, "loss": 1 / step} for step in (1, 2)]
    (tmp_path / "s1" / "train_log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log))
    line = json.dumps({"where": "x", "reason": "missing picture", "detail": "x"})
    (tmp_path / "s1" / "skipped.jsonl").write_text(line + "\n")
    monkeypatch.chdir(folder)
    assert main(["compare", ".", "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Learning curve" in page and "missing picture" in page


def test_a_split_has_an_evaluation_of_its_own(thermal, tmp_path, monkeypatch):
    names = []

    def read(model, processor, rows, config, name):
        names.append(name)
        return score([{"id": 1, "reference": "a", "prediction": "a"}], name)

    monkeypatch.setattr("ocrkit.evaluate", read, raising=False)
    monkeypatch.setattr("ocrkit.load_model", lambda config: (None, None), raising=False)
    common = ["evaluate", "--dataset", str(thermal), "--output_dir", str(tmp_path)]
    for more in ([], ["--split", "validation"], ["--split", "validation", "--name", "mine"]):
        assert main([*common, *more]) == 0
    assert names == ["base", "base-validation", "mine"]


def test_predictions_are_not_read_by_an_engine_too(capsys):
    assert main(["evaluate", "--predictions", "p.jsonl", "--engine", "tesseract"]) == 2
    assert "give one of the two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "way_on"),
    [
        (["train"], "stopped; go on with --resume_from_checkpoint auto"),
        (["evaluate"], "stopped; the same command again goes on from here"),
        (["predict", "a.png", "--out", "a.jsonl"], "stopped; the same command again goes on"),
        (["predict", "a.png"], "stopped\n"),
        (["plan"], "stopped\n"),
    ],
)
def test_stopped_command_prints_how_to_resume(arguments, way_on, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"ocrkit.__main__._{arguments[0]}", stop)
    assert main(arguments) == 1
    assert way_on in capsys.readouterr().err


def test_evaluate_of_a_runs_adapter_takes_its_settings_and_name(thermal, tmp_path, capsys):
    run = tmp_path / "run"
    common = ["--recipe", "quickstart", "--dataset", str(thermal), "--output_dir", str(run)]
    steps = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--eval_steps", "none"]
    assert main(["train", *common, *steps, "--image_height", "48"]) == 0
    small = ["--max_new_tokens", "4", "--max_eval_samples", "2"]
    assert main(["evaluate", "--model", str(run / "adapter"), *small]) == 0
    assert (run / "eval" / "tuned" / "predictions.jsonl").is_file()
    settings = _config(_parser().parse_args(["evaluate", "--model", str(run / "adapter")]))
    assert settings.image_height == 48


def test_settings_are_not_abbreviated(capsys):
    assert main(["train", "--lr", "1e-4"]) == 2
    assert "'lr' is no setting; it is called learning_rate" in capsys.readouterr().err
    assert main(["train", "--warmup_ratio=0.1"]) == 2
    assert "it is called warmup_steps" in capsys.readouterr().err


def test_predict_reads_pictures(tmp_path, capsys):
    from data_prep.synthetic.render import draw_line, load_font, shipped_fonts

    path = tmp_path / "total.png"
    draw_line("TOTAL 9.00", load_font(shipped_fonts("DejaVuSans")[0], 21)).save(path)
    assert main(["predict", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{path}\tTOTAL 9.00"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["--recipe", "quickstart"], "Transcribe the text in the image."),
        (["--recipe", "financial"], "OCR:"),
        (["--recipe", "financial", "--prompt", "What is the total?"], "What is the total?"),
    ],
)
def test_predict_uses_the_training_prompt(given, asked, tmp_path, monkeypatch, capsys):
    def read(reader, pictures, prompt):
        return [{"id": picture.id, "prediction": prompt, "error": None} for picture in pictures]

    monkeypatch.setattr("ocrkit.models.load.load_model", lambda config: (None, None))
    monkeypatch.setattr("ocrkit.models.read.Reader", lambda *_: None)
    monkeypatch.setattr("ocrkit.models.read_files.read_pictures", read)
    (tmp_path / "a.png").touch()
    assert main(["predict", str(tmp_path / "a.png"), *given]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\t{asked}\n"


def test_plan_prints_a_table(thermal, tmp_path, capsys):
    arguments = ["--recipe", "quickstart", "--dataset", str(thermal)]
    assert main(["plan", *arguments, "--output_dir", str(tmp_path)]) == 0
    assert "tokens per sample" in capsys.readouterr().out


def test_the_replay_of_a_recipe_is_turned_off_by_none(thermal, tmp_path, capsys):
    sizes = []
    for replay in ([], ["--replay", "none"]):
        arguments = ["--recipe", "receipts", "--dataset", str(thermal), *replay]
        assert main(["plan", *arguments, "--output_dir", str(tmp_path)]) == 0
        sizes += re.findall(r"of ([\d,]+) samples exceed", capsys.readouterr().out)
    with_replay, alone = (int(size.replace(",", "")) for size in sizes)
    assert with_replay == round(alone / 0.75)


@pytest.mark.parametrize("command", ["plan", "find-lr", "train"])
def test_a_dataset_without_training_rows_is_one_sentence(command, thermal, tmp_path, capsys):
    shutil.copytree(thermal / "test", tmp_path / "data" / "test")
    assert main([command, "--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'data'} has no train split; it has test." in error
    assert "Traceback" not in error


def test_find_lr_suggests_a_rate(thermal, tmp_path, capsys):
    arguments = ["--dataset", str(thermal), "--output_dir", str(tmp_path), "--steps", "10"]
    sweep = ["--min_lr", "1e-4", "--max_lr", "1e-2", "--per_device_train_batch_size", "4"]
    assert main(["find-lr", *arguments, *sweep]) == 0
    assert f"Curve: {tmp_path / 'lr_finder.png'}" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "lr_finder.json").read_text())["losses"]) == 10


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--recipe", "quikstart"], 2, "did you mean 'quickstart'"),
        (["train", "--recipe", "quickstart", "--max_steps", "x"], 2, "must be of type int"),
        (["train", "--recipe", "quickstart", "--dataset", "nowhere"], 1, "is no folder"),
        (["train", "--recipe", "LIST"], 2, "must hold settings as `name: value`"),
        (["predict", "nowhere.png"], 1, "nowhere.png does not exist and matches no file"),
        (["compare", "nowhere"], 1, "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(arguments, code, message, tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- lora_r\n- 16\n")
    arguments = [str(tmp_path / "list.yaml") if a == "LIST" else a for a in arguments]
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_unknown_option_is_wrong_usage():
    done = _run("train", "--lerning_rate", "1")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_missing_split_is_one_sentence(thermal, tmp_path, capsys):
    arguments = ["--recipe", "quickstart", "--dataset", str(thermal)]
    arguments += ["--output_dir", str(tmp_path), "--split", "dev"]
    assert main(["evaluate", *arguments]) == 1
    assert "the dataset has train, validation, test" in capsys.readouterr().err
