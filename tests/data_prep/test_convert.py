import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data_prep import convert as module
from data_prep.convert import convert, main, source_names
from data_prep.dataset.schema import DataError, UsageError
from data_prep.dataset.staging import staging_folder
from tests.helpers.sources_common import (
    draw,
    encoded,
    leftovers,
    pictures,
    read_rows,
    reasons,
    run,
    save,
    snapshot,
    texts,
)


def make_table(folder, count=12, name="labels.csv"):
    """A CSV of `count` pictures in four groups, its text telling which is which."""
    lines = ["image,text,writer"]
    for index in range(count):
        save(folder / f"{index}.png", mark=index)
        lines.append(f"{index}.png,line {index},w{index % 4}")
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


# --- what the folder holds ---


def test_datasets_reads_the_folder_with_no_code_of_ours(tmp_path):
    from datasets import load_dataset

    # A name that contains "test" must not draw a row of train into the test split.
    table = make_table(tmp_path / "in", name="test_labels.jsonl")
    lines = [
        json.dumps({"image": f"{i}.png", "text": f"line {i}", "writer": f"test{i % 4}"})
        for i in range(12)
    ]
    table.write_text("\n".join(lines))
    out = tmp_path / "out"
    run("table", table, out, split="0.5,0.25,0.25", group_column="writer")
    loaded = load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": 6,
        "validation": 3,
        "test": 3,
    }
    groups = [set(rows["group"]) for rows in loaded.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 4
    for row in loaded["test"]:
        (image,) = row["images"]
        index = int(row["completion"][0]["content"].split()[1])
        assert image.convert("RGB").tobytes() == draw(mark=index).tobytes()
        assert row["prompt"] == [{"role": "user", "content": "Transcribe the text in the image."}]
        assert (row["width"], row["height"]) == image.size == (60, 20)


def test_a_whole_picture_keeps_its_bytes_and_a_cut_its_pixels(tmp_path):
    photo = encoded(draw((80, 40), mark=9), "JPEG")
    (tmp_path / "a.jpg").write_bytes(photo)
    (tmp_path / "grey.png").write_bytes(encoded(draw((80, 40), "L", 9)))
    box = '[{"transcription": "bar", "points": [[8, 0], [20, 1], [20, 40], [8, 39]]}]'
    (tmp_path / "labels.txt").write_text(f"a.jpg\twhole\na.jpg\t{box}\ngrey.png\t{box}\n")
    out = tmp_path / "out"
    _, rows, _ = run("paddle", tmp_path / "labels.txt", out, split="1,0,0")
    assert (out / "train" / rows[0].images_file_names[0]).read_bytes() == photo
    cut, grey = pictures(out, rows[1])[0], pictures(out, rows[2])[0]
    assert cut.mode == "RGB" and grey.mode == "L" and cut.format == grey.format == "PNG"
    original = Image.open(io.BytesIO(photo)).crop((8, 0, 20, 40))
    assert cut.tobytes() == original.tobytes()
    assert json.loads(rows[1].meta) == {"box": [8, 0, 20, 40]}


def test_a_box_is_clipped_to_its_picture_and_one_outside_is_a_reject(tmp_path):
    save(tmp_path / "a.png", (60, 20))
    boxes = {
        "clipped": [[-5, -5], [10, -5], [10, 30.5], [-5, 30.5]],
        "outside": [[60, 0], [80, 0], [80, 20], [60, 20]],
        "no area": [[5, 5], [5, 5], [5, 9], [5, 9]],
        "inside": [[0.4, 0], [10.2, 0], [10.2, 20], [0.4, 20]],
    }
    label = [{"transcription": text, "points": points} for text, points in boxes.items()]
    (tmp_path / "labels.txt").write_text("a.png\t" + json.dumps(label))
    _, rows, rejects = run("paddle", tmp_path / "labels.txt", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["clipped", "inside"]
    assert json.loads(rows[0].meta) == {"box": [-5, -5, 10, 30.5], "clipped": [0, 0, 10, 20]}
    assert (rows[1].width, rows[1].height) == (11, 20)
    assert reasons(rejects) == ["box outside picture"] * 2
    assert rejects[0]["detail"] == "box 60, 0, 80, 20 in 60x20"
    assert rejects[0]["where"] == "labels.txt:1 box 1"


def test_every_kind_of_bad_picture_is_a_counted_reject(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(encoded(draw((400, 300)), "JPEG")[:900])
    (tmp_path / "folder.png").mkdir()
    huge = Image.new("1", (30_000, 20_000))
    (tmp_path / "huge.png").write_bytes(encoded(huge))
    names = ["good.png", "text.png", "cut.jpg", "folder.png", "huge.png", "none.png", "a\0b.png"]
    records = [{"image": name, "text": "x"} for name in names]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    _, rows, rejects = run("table", tmp_path / "t.jsonl", tmp_path / "out", split="1,0,0")
    assert len(rows) == 1
    assert reasons(rejects) == [
        *["unreadable image"] * 3,
        *("image too large", "missing image", "unreadable image"),
    ]
    assert [reject["where"] for reject in rejects] == [f"t.jsonl:{n}" for n in range(2, 8)]
    assert "600000000 pixels" in rejects[3]["detail"]
    assert "0x7" not in json.dumps(rejects)  # an address would differ in the next run


def test_ambiguous_pictures_are_rewritten_as_plain_png(tmp_path):
    clear = Image.new("RGBA", (60, 20), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (10, 5, 20, 15))
    clear.save(tmp_path / "clear.png")
    deep = Image.new("I;16", (60, 20), 65535)
    deep.putpixel((3, 3), 32768)
    deep.save(tmp_path / "deep.png")
    draw().save(tmp_path / "bitmap.bmp")
    turned = draw((60, 20), mark=0)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    names = ["clear.png", "deep.png", "bitmap.bmp", "turned.jpg"]
    records = [{"image": name, "text": name} for name in names]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    out = tmp_path / "out"
    _, rows, _ = run("table", tmp_path / "t.jsonl", out, split="1,0,0")
    clear, deep, bitmap, turned = (pictures(out, row)[0] for row in rows)
    assert clear.mode == "RGB" and clear.getpixel((0, 0)) == (255, 255, 255)
    assert clear.getpixel((12, 8)) == (0, 0, 0)
    assert deep.mode == "L" and deep.getpixel((0, 0)) == 255 and deep.getpixel((3, 3)) in (127, 128)
    assert bitmap.format == "PNG" and bitmap.tobytes() == draw().tobytes()
    # Kept whole with its orientation, and measured as it is displayed.
    assert turned.size == (60, 20) and (rows[3].width, rows[3].height) == (20, 60)


def test_texts_become_nfc_and_invalid_ones_rejects(tmp_path):
    save(tmp_path / "a.png")
    label = unicodedata.normalize("NFD", "서울 한글")
    lines = [label, "", "  \t ", "caf\udce9", "ok\r"]
    body = "\n".join(f"a.png\t{line}" for line in lines)
    (tmp_path / "l.txt").write_bytes(("\ufeff" + body).encode("utf-8", "surrogateescape"))
    _, rows, rejects = run("paddle", tmp_path / "l.txt", tmp_path / "out", split="1,0,0")
    assert texts(rows) == ["서울 한글", "ok"]
    assert reasons(rejects) == ["empty text", "empty text", "text is not UTF-8"]


def test_the_messages_layout_is_what_swift_and_llama_factory_read(tmp_path):
    table, out = make_table(tmp_path / "in", 4), tmp_path / "out"
    convert("table", table, out, layout="messages", prompt="Read!", progress=False, split="1,0,0")
    lines = (out / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    assert row["messages"] == [
        {"role": "user", "content": "<image>Read!"},
        {"role": "assistant", "content": "line 2"},
    ]
    assert "prompt" not in row and "completion" not in row and len(lines) == 4
    image = Image.open(out / row["images"][0])
    assert image.tobytes() == draw(mark=2).tobytes()


# --- splits, inputs, options ---


def test_official_splits_are_kept_and_other_rows_never_become_test(tmp_path):
    tables = [make_table(tmp_path / n, 3, f"{n}.csv") for n in ("train", "test", "more")]
    summary, rows, _ = run("table", tables, tmp_path / "out")
    assert summary["rows"] == {"train": 6, "test": 3}
    assert {row.id.rsplit("-", 1)[0] for row in rows} == {
        "table-train.csv",
        "table-test.csv",
        "table-more.csv",
    }
    assert {r.group for r in read_rows(tmp_path / "out", "test")} == {
        f"test.csv-{i}.png" for i in range(3)
    }


def test_items_without_a_stated_split_are_reported(tmp_path, capsys):
    tables = [make_table(tmp_path / n, 3, f"{n}.csv") for n in ("test", "more")]
    convert("table", tables, tmp_path / "out")
    output = capsys.readouterr().err
    assert "note: the input does not say whether 3 of its items are for training" in output
    assert "so they are in train; --split 0.8,0.1,0.1 deals all items anew" in output
    # Nothing to tell where all parts are stated, none is, or shares were asked for.
    for name, inputs, split in (
        ("all", tables[:1], "source"),
        ("none", tables[1:], "source"),
        ("shares", tables, "0.5,0,0.5"),
    ):
        convert("table", inputs, tmp_path / name, split=split)
        assert "note:" not in capsys.readouterr().err


def test_split_shares_override_official_splits_and_keep_equal_names_apart(tmp_path):
    tables = [make_table(tmp_path / n / "x", 6, "train.csv") for n in "ab"]
    for index in range(6):  # other pictures, for equal ones would share a group
        save(tmp_path / "b" / "x" / f"{index}.png", mark=20 + index)
    summary, rows, _ = run("table", tables, tmp_path / "out", split="0.5,0.25,0.25")
    assert summary["rows"] == {"train": 6, "validation": 3, "test": 3}
    assert len({row.id for row in rows}) == len({row.group for row in rows}) == 12


def test_limit_counts_source_items(tmp_path):
    table = make_table(tmp_path / "in", 12)
    summary, rows, _ = run("table", table, tmp_path / "out", limit=5, split="1,0,0")
    assert summary["found"] == 5 and texts(rows) == [f"line {i}" for i in range(5)]


def test_the_result_does_not_depend_on_workers(tmp_path):
    table = make_table(tmp_path / "in", 150)
    (tmp_path / "in" / "3.png").write_bytes(b"broken")
    (tmp_path / "in" / "140.png").unlink()
    first, two = tmp_path / "one", tmp_path / "two"
    run("table", table, first, workers=1, group_column="writer")
    run("table", table, two, workers=2, group_column="writer")
    assert snapshot(first) == snapshot(two)


def test_finished_dataset_is_kept_and_other_options_are_refused(tmp_path):
    table, out = make_table(tmp_path / "in", 3), tmp_path / "out"
    out.mkdir()  # an empty folder is free
    first = convert("table", table, out, progress=False)
    stamp = (out / "dataset.json").stat().st_mtime_ns
    assert convert("table", table, out, progress=False) == first
    assert (out / "dataset.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="already holds a dataset made from table with other"):
        convert("table", table, out, seed=1, progress=False)
    other = tmp_path / "photos"
    save(other / "mine.png")
    with pytest.raises(DataError, match="already holds something else; choose another --out"):
        convert("table", table, other, progress=False)
    assert [path.name for path in other.iterdir()] == ["mine.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "fields"}, "--task is 'fields', but takes one of transcription"),
        ({"pattern": "x"}, "--pattern is no option of table"),
        ({"layout": "csv"}, "--layout is 'csv'"),
        ({"limit": 0}, "--limit is 0"),
        ({"workers": 0}, "--workers is 0"),
        ({"split": "0.5"}, "--split is '0.5'"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, options, sentence):
    table = make_table(tmp_path / "in", 1)
    with pytest.raises(UsageError, match=sentence):
        convert("table", table, tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path / "out")


def test_failed_conversion_leaves_no_output_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="nothing of table is here"):
        convert("table", tmp_path / "in", out, progress=False)
    (tmp_path / "in" / "t.jsonl").write_text('{"image": "a.png", "text": "x"}\n')
    with pytest.raises(DataError, match=r"none of 1 items became a row \(1 missing image"):
        convert("table", tmp_path / "in", out, progress=False)
    with pytest.raises(DataError, match="no such file or folder"):
        convert("table", tmp_path / "nowhere", out, progress=False)

    def full(*_):
        raise OSError(28, "No space left on device")

    save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(module.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        convert("table", tmp_path / "in", out, progress=False)
    # What became of the items before is still there to be read.
    assert [path.name for path in out.iterdir()] == ["rejects.jsonl"] and leftovers(out) == []


# --- the command ---


def test_convert_command_prints_its_counts(tmp_path, capsys):
    table, out = make_table(tmp_path / "in", 3), tmp_path / "out"
    (tmp_path / "in" / "1.png").unlink()
    arguments = ["table", str(table), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "3 found = 2 rows" in output and "1 rejects" in output and "1  missing image" in output
    assert main(arguments) == 0
    assert "exists already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["tabel", "x", "--out", "o"], 2, "No source is called 'tabel'; did you mean 'table'?"),
        (["table", "x", "--out", "o", "--pattern", "y"], 2, "--pattern is no option of table"),
        (["table", "x", "--out", "o"], 1, "x: there is no such file or folder"),
        (["table"], 2, "required"),
    ],
)
def test_wrong_commands_end_with_one_sentence(arguments, code, sentence, tmp_path):
    ended = command(*arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert ended.returncode == code
    assert sentence in ended.stderr and "Traceback" not in ended.stderr


def test_python_calls_expand_the_home_folder(tmp_path, monkeypatch):
    table = make_table(tmp_path / "in", 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "in")
    convert("table", f"~/in/{table.name}", "~/out", progress=False)
    assert (tmp_path / "out" / "dataset.json").is_file()
    table.rename(tmp_path / "in" / "~nobody.csv")
    convert("table", "~nobody.csv", tmp_path / "other", progress=False)
    assert (tmp_path / "other" / "dataset.json").is_file()


def test_list_shows_every_source_and_loads_nothing_heavy():
    ended = command("--list")
    for name in source_names():
        assert f"\n  python -m data_prep.convert {name} " in ended.stdout.replace(" " * 16, "")
    heavy = "import sys, data_prep.convert as c; c.list_sources(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout
    for module_name in ("torch", "numpy", "pyarrow", "datasets", "tqdm"):
        assert f"'{module_name}'" not in loaded


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_conversion_is_completed_by_the_same_command(tmp_path, kills):
    table = make_table(tmp_path / "in", 400)
    whole, out = tmp_path / "whole", tmp_path / "out"
    convert("table", table, whole, progress=False)
    arguments = [sys.executable, "-m", "data_prep.convert", "table", table, "--workers", "2"]
    start = time.perf_counter()
    subprocess.run([*map(str, arguments), "--out", str(tmp_path / "timed")], capture_output=True)
    whole_time = time.perf_counter() - start
    for kill in range(kills):
        process = subprocess.Popen(
            [*map(str, arguments), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(whole_time * (kill + 1) / (kills + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Never a half-made folder: it is not there yet, or whole.
        if out.exists():
            assert snapshot(out) == snapshot(whole)
            shutil.rmtree(out)
    assert command("table", table, "--out", out, "--workers", "2").returncode == 0
    assert snapshot(out) == snapshot(whole) and leftovers(out) == []


def test_a_second_conversion_into_the_same_folder_is_refused(tmp_path):
    out = tmp_path / "out"
    with staging_folder(out) as staging:
        (staging / "half.txt").touch()
        with pytest.raises(DataError, match=r"Another command is writing .*out; wait"):
            staging_folder(out).__enter__()
        assert (staging / "half.txt").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_a_full_disk_at_any_write_leaves_nothing_and_is_named(tmp_path, full_disk, form):
    table, out = make_table(tmp_path / "in", 12), tmp_path / "out"
    refused, done = 0, False
    while not done:
        with full_disk(refused) as writes:
            try:
                convert("table", table, out, format=form, progress=False)
                done = True
            except OSError as error:
                assert str(error).startswith(f"No space left on the disk of {tmp_path} (")
                assert f"while writing {out}; free some" in str(error)
                assert not out.exists() and leftovers(out) == []
        refused += 1
    assert len(writes) >= 15 and (out / "dataset.json").is_file()


@pytest.mark.parametrize("language", ["Korean", "english", "k", "ko KR", "한국어", "\udcff"])
def test_a_language_that_is_no_code_is_wrong_usage(language, tmp_path, capsys):
    command = ["table", "labels.csv", "--language", language, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "takes a language's code, such as en, bn, ko or zh-Hans" in error
    assert "Traceback" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", ["ko", "ben", "zh-Hans", "chi_sim", "EN-us", "und"])
def test_a_languages_code_is_taken(language):
    module.check_language(language)


@pytest.mark.parametrize("name", ["--out", "--sheet"])
def test_empty_out_option_is_wrong_usage(name, tmp_path, monkeypatch, capsys):
    from data_prep import synthesize

    monkeypatch.chdir(tmp_path)
    commands = [["lines", name, ""], ["invoices", name, ""]]
    if name == "--out":
        commands += [["receipts", name, ""], ["toys", name, " "]]
        with pytest.raises(SystemExit, match="2"):
            main(["table", "a.csv", name, ""])
    for command_line in commands:
        with pytest.raises(SystemExit, match="2"):
            synthesize.main(command_line)
    assert f"an empty value is given for {name}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["table", "", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())
