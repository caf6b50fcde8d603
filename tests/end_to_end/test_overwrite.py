"""Other people's files: no command overwrites what the kit did not write, but with --overwrite."""

import json
import shutil

import pytest

from data_prep.dataset.manifest import MANIFEST
from ocrkit.__main__ import main
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import score
from ocrkit.models.load import load_model
from ocrkit.models.write import export
from tests.helpers.own_files import own_files


@pytest.fixture
def evaluation(tmp_path):
    """The folder of an evaluation of one row."""
    scored = score([{"id": "a", "reference": "TOTAL", "prediction": "TOTA"}], "tuned")
    return str(scored.save(tmp_path / "run" / "eval" / "tuned"))


@pytest.mark.parametrize("name", ["index.html", "report.md", "report.json"])
def test_report_overwrites_only_its_own_files(name, evaluation, tmp_path, capsys):
    out = tmp_path / "site"
    command = ["compare", evaluation, "--out", str(out)]
    out.mkdir()
    (out / name).write_text("mine")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"{out / name} exists and was not written by ocrkit" in error
    assert "--overwrite" in error and error.count("\n") == 1
    assert {path.name for path in out.iterdir()} == {name}
    assert (out / name).read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert main(command) == 0
    assert (out / name).read_text() != "mine"
    assert own_files(out) == {"index.html", "report.md", "report.json", MANIFEST}


def test_a_report_of_version_0_1_0_is_replaced(evaluation, tmp_path):
    out = tmp_path / "report"
    assert main(["compare", evaluation, "--out", str(out)]) == 0
    (out / MANIFEST).unlink()
    assert main(["compare", evaluation, "--out", str(out)]) == 0


def test_a_full_disk_leaves_an_older_report_whole(evaluation, tmp_path, full_disk, capsys):
    command = ["compare", evaluation, "--out", str(tmp_path / "report")]
    assert main(command) == 0
    files = ("index.html", "report.md", "report.json")
    before = {name: (tmp_path / "report" / name).read_bytes() for name in files}
    for allowed in range(4):  # the manifest is the first
        with full_disk(allowed):
            assert main(command) == 1
        error = capsys.readouterr().err
        assert "No space left on the disk of" in error and "Errno" not in error
        assert {name: (tmp_path / "report" / name).read_bytes() for name in files} == before
        assert {path.name for path in (tmp_path / "report").iterdir()} == {*files, MANIFEST}
    assert json.loads(before["report.json"])["evaluations"]
    assert main(command) == 0


@pytest.mark.parametrize("name", ["README.md", "config.json", "adapter_model.safetensors"])
def test_export_overwrites_only_its_own_files(name, config, tmp_path):
    model, processor = load_model(config)
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    if name == "config.json":
        config.use_peft = False
        model, processor = load_model(config)
    with pytest.raises(FileExistsError, match=rf"{name} exists .* overwrite=True"):
        export(model, processor, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: "mine"}
    export(model, processor, out, overwrite=True)
    assert name in own_files(out)
    export(model, processor, out)
    # As a clone of the Hub's repository, then as version 0.1.0 left it, then changed by hand.
    (out / ".gitattributes").write_text("*.safetensors filter=lfs")
    export(model, processor, out)
    (out / MANIFEST).unlink()
    export(model, processor, out)
    assert (out / ".gitattributes").is_file() and MANIFEST in own_files(out)
    with (out / "README.md").open("a") as file:
        file.write("My own words.\n")
    with pytest.raises(FileExistsError, match=r"README\.md exists .* changed since"):
        export(model, processor, out)
    assert (out / "README.md").read_text().endswith("My own words.\n")


def test_an_export_on_a_full_disk_leaves_the_older_one(config, tmp_path, monkeypatch):
    model, processor = load_model(config)
    out = export(model, processor, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args, **kwargs):
        # As safetensors says it.
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    for folder in (out, tmp_path / "fresh"):
        with pytest.raises(OSError, match=f"No space left on the disk of .* writing {folder}"):
            export(model, processor, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "fresh").exists()


def test_a_killed_export_does_not_block_the_next(config, tmp_path, killed_at):
    model, processor = load_model(config)
    export(model, processor, tmp_path / "whole")
    for step in (0, 3, 8, 12, 15):
        out = tmp_path / str(step)
        shutil.copytree(tmp_path / "whole", out)
        with killed_at(step) as killed:
            export(model, processor, out)
        assert killed
        export(model, processor, out)
        assert not (out / ".ocrkit.part").exists()


def test_training_is_refused_over_a_strangers_adapter_before_it_begins(config, tmp_path):
    from ocrkit.training.train import train

    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README\.md exists .* another output_dir\."):
        train(None, None, None, config)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--out", ""],
        ["compare", "run", "--out", " "],
        ["predict", "a.png", "--out", ""],
        ["sweep", "a.ipynb", "--out", ""],
    ],
)
def test_empty_out_is_wrong_usage_instead_of_the_working_folder(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "an empty value is given for --out" in capsys.readouterr().err


def test_comparison_save_takes_overwrite(tmp_path):
    comparison = compare(score([{"id": "a", "reference": "TOTAL", "prediction": "TOTA"}], "tuned"))
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"report\.md"):
        comparison.save(tmp_path)
    comparison.save(tmp_path, overwrite=True)
    comparison.save(tmp_path)
