import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from data_prep.pack import pack
from ocrkit import places
from ocrkit.config import TrainConfig
from ocrkit.environment import load_secrets, notebook_host
from ocrkit.places import _changed_since, download, local_dataset, mount_drive, off_drive, sample


def test_a_plain_machine_has_neither_drive_nor_secrets(monkeypatch, capsys):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert notebook_host() == "local"
    assert not mount_drive("/content/drive/MyDrive/data")
    assert load_secrets() == []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert load_secrets() == ["HF_TOKEN"]
    assert "hf_secret" not in capsys.readouterr().out


def test_datasets_are_kept_off_drive():
    assert off_drive("/content/drive/MyDrive/run1/data") == "data/MyDrive/run1/data"
    assert off_drive("/content/driven/run1") == "/content/driven/run1"
    assert off_drive("runs/run1/data") == "runs/run1/data"


@pytest.mark.parametrize("path", ["/content/drive/MyDrive/run1", "drive/MyDrive/run1"])
def test_drive_is_mounted_for_paths_of_colabs_working_folder_too(path, monkeypatch):
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    monkeypatch.setattr(places, "notebook_host", lambda: "colab")
    monkeypatch.setattr(places.Path, "cwd", lambda: places.Path("/content"))
    assert not mount_drive("", "runs/run1", "drives/run1")
    assert mount_drive("", path) and mounted == ["/content/drive"]
    assert off_drive(path) == "data/MyDrive/run1"

    def refused(folder):
        raise ValueError("mount failed")

    drive.mount = refused
    with pytest.raises(OSError, match=r"be mounted \(mount failed\): run the cell again"):
        mount_drive(path)


def test_data_comes_from_a_folder_a_tar_a_source_or_the_sample(thermal, tmp_path):
    assert local_dataset(str(thermal), "bangla") == str(thermal)
    assert local_dataset("", "bangla") == str(sample("bangla"))
    pack(thermal, tmp_path / "drive" / "lines.tar")
    unpacked = local_dataset(str(tmp_path / "drive" / "lines.tar"), "bangla", local=tmp_path)
    assert unpacked == str(tmp_path / "lines")
    assert (tmp_path / "lines" / "dataset.json").read_bytes() == (
        thermal / "dataset.json"
    ).read_bytes()
    with pytest.raises(ValueError, match="no sample 'klingon'"):
        sample("klingon")


def test_raw_data_is_converted(tmp_path):
    for number in range(10):
        path = tmp_path / "raw" / f"word{number}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (40, 20), 255).save(path)
    options = {"prompt": "Read it.", "task": ""}
    folder = local_dataset(
        "", "bangla", str(tmp_path / "raw"), "folder", tmp_path / "local", **options
    )
    assert (tmp_path / "local" / "folder" / "dataset.json").is_file()
    assert folder == str(tmp_path / "local" / "folder")
    assert '"content": "Read it."' in (Path(folder) / "train" / "metadata.jsonl").read_text()


def test_local_dataset_converts_changed_sources_again(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "local" / "table"
    raw.mkdir()
    for number in range(10):
        Image.new("L", (40, 20), number).save(raw / f"{number}.png")
    table = raw / "labels.csv"
    table.write_text("image,text\n" + "".join(f"{n}.png,word{n}\n" for n in range(10)))

    def texts():
        local_dataset("", "bangla", str(table), "table", tmp_path / "local", **columns)
        return "".join(path.read_text() for path in sorted(out.rglob("metadata.jsonl")))

    columns = {"image_column": "image", "text_column": "text"}
    first = texts()
    assert "rows\n" in capsys.readouterr().out
    assert texts() == first
    assert f"{out} was there already, delete it to convert anew" in capsys.readouterr().out
    table.write_text(table.read_text().replace("word3", "mended"))
    later = (out / "dataset.json").stat().st_mtime + 1
    os.utime(table, (later, later))
    assert "mended" in texts() and "word3" in first
    assert f"converted anew, as {out}.old is older than its source" in capsys.readouterr().out
    assert "word3" in "".join(path.read_text() for path in Path(f"{out}.old").rglob("*.jsonl"))


def test_folder_time_is_that_of_its_newest_file(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "c.txt").write_text("c")
    for path in (tmp_path / "a", deep, deep / "c.txt"):
        os.utime(path, (100, 100))
    assert not _changed_since(100, str(tmp_path / "a"), "fields")
    os.utime(deep / "c.txt", (200, 200))
    assert _changed_since(100, str(tmp_path / "a")) and not _changed_since(200, str(deep))


def test_results_are_one_zip(tmp_path):
    (tmp_path / "report" / "deep").mkdir(parents=True)
    (tmp_path / "report" / "index.html").write_text("a")
    (tmp_path / "report" / "deep" / "b.txt").write_text("b")
    link = download(tmp_path, tmp_path / "report")
    assert str(link.path).endswith("results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert sorted(archive.namelist()) == ["report/deep/b.txt", "report/index.html"]


def test_a_results_zip_of_others_stays(tmp_path, full_disk):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("a")
    path = tmp_path / "results.zip"
    for stranger in (b"mine", None):
        if stranger:
            path.write_bytes(stranger)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("thesis/data.csv", "mine")
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match=r"results\.zip exists .* not written by"):
            download(tmp_path, tmp_path / "report")
        assert path.read_bytes() == before
    download(tmp_path, tmp_path / "report", overwrite=True)
    (tmp_path / "report" / "index.html").write_text("b")
    with full_disk(0), pytest.raises(OSError, match=f"disk of {tmp_path} .* writing {path}"):
        download(tmp_path, tmp_path / "report")
    download(tmp_path, tmp_path / "report")
    (tmp_path / ".ocrkit.jsonl").unlink()  # as version 0.1.0 left it
    download(tmp_path, tmp_path / "report")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("report/index.html") == b"b"


def test_a_dataset_may_lie_in_the_home_folder(tmp_path, thermal, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_dataset("~/data") == str(tmp_path / "data")
    pack(thermal, tmp_path / "lines.tar")
    assert local_dataset("~/lines.tar", local="~/local") == str(tmp_path / "local" / "lines")
    config = TrainConfig(dataset="~/data", output_dir="~/run")
    assert (config.dataset, config.output_dir) == (f"{tmp_path}/data", f"{tmp_path}/run")
