"""File names and file kinds that people meet on disks and in archives: read, counted or said."""

import io
import json
import os
import re
import socket
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from data_prep.convert import convert, main
from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import DataError
from ocrkit.__main__ import main as kit
from ocrkit.data.read_rows import usable_row
from ocrkit.models.read_files import list_pictures


def picture(value=0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (40, 20), value).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, files, flag=0, method=0):
    """Write a zip of {name in bytes: content} without the UTF-8 flag, `flag` set in its heads."""
    body, heads = b"", b""
    for name, data in files.items():
        common = struct.pack("<HHHHHIIIHH", 20, flag, method, 0, 33, zlib.crc32(data), len(data),
                             len(data), len(name), 0)  # fmt: skip
        head = b"PK\1\2" + struct.pack("<H", 20) + common + b"\0" * 10
        heads += head + struct.pack("<I", len(body)) + name
        body += b"PK\3\4" + common + name + data
    counts = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(heads), len(body), 0)
    path.write_bytes(body + heads + b"PK\5\6" + counts)


def texts(out):
    lines = [line for path in Path(out).rglob("metadata.jsonl") for line in path.open()]
    return sorted(json.loads(line)["completion"][0]["content"] for line in lines)


def rejects(out):
    return [json.loads(line) for line in (Path(out) / "rejects.jsonl").open()]


def is_one_sentence(error):
    """Whether an error follows the progress bar in one line, without a traceback."""
    *before, last = error.splitlines()
    return last.startswith("error: ") and all("items" in line or not line for line in before)


WORDS = {
    # Second bytes outside those of the others, or code points that only this encoding has.
    "cp932": ("ひらがな", "カタカナ", "ｱｲｳ", "読む"),
    "cp949": ("뷁햏", "똠방각하", "쀍"),
    "big5": ("繁體", "會議", "臺灣"),
    "gbk": ("简体中文", "汉语镕", "朱镕基"),
}


@pytest.mark.parametrize("encoding", list(WORDS))
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_in_an_archive_are_read_in_the_encoding_that_is_named(encoding, kind, tmp_path):
    files = {f"{word}_1.png".encode(encoding): picture(n) for n, word in enumerate(WORDS[encoding])}
    path = tmp_path / f"words.{kind}"
    if kind == "zip":
        write_zip(path, files)
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(os.fsdecode(name))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    out = str(tmp_path / "out")
    assert main(["folder", str(path), "--encoding", encoding, "--out", out, "--workers", "2"]) == 0
    assert texts(out) == sorted(map(str, WORDS[encoding])) or encoding == "cp932"


def test_the_only_encoding_that_fits_is_taken_and_reported(tmp_path, capsys):
    # A half-width Katakana is one byte, which the others take for the first of two.
    write_zip(tmp_path / "words.zip", {"ｱ1_1.png".encode("shift_jis"): picture()})
    assert main(["folder", str(tmp_path / "words.zip"), "--out", str(tmp_path / "out")]) == 0
    assert texts(tmp_path / "out") == ["ｱ1"]
    note = "words.zip: file names are taken for cp932; --encoding takes another."
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "out" / "dataset.json").read_text()


def test_names_of_an_archive_are_decoded_together(tmp_path):
    words = ["ｱ1", "読む"]  # the second alone fits several encodings
    write_zip(tmp_path / "a.zip", {f"{w}_1.png".encode("shift_jis"): picture() for w in words})
    assert sorted(Tree(tmp_path / "a.zip").files("*.png")) == sorted(f"{w}_1.png" for w in words)


def test_several_encodings_that_fit_are_refused(tmp_path, capsys):
    write_zip(tmp_path / "words.zip", {"中文_1.png".encode("gbk"): picture()})
    arguments = ["folder", str(tmp_path / "words.zip"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "several encodings fit them all: gbk '中文_1.png'" in error and "cp949 " in error
    assert "name the right one with --encoding" in error and is_one_sentence(error)
    assert main([*arguments, "--encoding", "nope"]) == 2
    assert "--encoding is 'nope', but takes" in capsys.readouterr().err
    assert main([*arguments, "--encoding", "ascii"]) == 1
    assert "neither utf-8 nor ascii" in capsys.readouterr().err
    assert main([*arguments, "--encoding", "gbk"]) == 0 and texts(tmp_path / "out") == ["中文"]


def test_zip_names_in_utf_8_without_flag_and_in_cp437_are_decoded(tmp_path):
    write_zip(tmp_path / "a.zip", {"ক্ষ‍_1.png".encode(): picture(), b"plain_1.png": picture()})
    assert sorted(Tree(tmp_path / "a.zip").files("*.png")) == ["plain_1.png", "ক্ষ‍_1.png"]
    write_zip(tmp_path / "b.zip", {b"\x82.png": picture()})  # "é" of CP437, which is the standard
    assert list(Tree(tmp_path / "b.zip").files("*.png")) == ["é.png"]


@pytest.mark.parametrize(("flag", "method"), [(1, 0), (0, 97)])
def test_an_encrypted_or_unknown_zip_is_a_sentence_or_rejects(flag, method, tmp_path, capsys):
    write_zip(tmp_path / "a.zip", {b"labels.csv": b"image,text\na.png,A\n"}, flag, method)
    out = str(tmp_path / "out")
    assert main(["table", str(tmp_path / "a.zip"), "--out", out]) == 1
    error = capsys.readouterr().err
    assert "a.zip cannot be read" in error and "labels.csv" in error and is_one_sentence(error)
    write_zip(tmp_path / "b.zip", {b"bad_1.png": picture()}, flag, method)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "good_1.png").write_bytes(picture())
    (tmp_path / "b.zip").rename(pictures / "b.zip")
    assert main(["folder", str(pictures), "--out", out]) == 0
    assert [(r["where"], r["reason"]) for r in rejects(out)] == [
        ("b.zip/bad_1.png", "unreadable image")
    ]


def test_folders_and_pipes_among_pictures_are_counted_rejects(tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "folder_1.png").mkdir(parents=True)
    (pictures / "good_1.png").write_bytes(picture())
    os.mkfifo(pictures / "pipe_1.png")
    (pictures / "device_1.png").symlink_to("/dev/zero")
    (pictures / "gone_1.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(pictures / "socket_1.png"))
    (pictures / "left_1.png.part").write_bytes(b"half")
    result = convert("folder", pictures, tmp_path / "out", progress=False)
    assert sum(result["rows"].values()) == 1
    assert result["rejects"] == {"unreadable image": 3, "missing image": 1}
    details = {Path(reject["where"]).name: reject["detail"] for reject in rejects(tmp_path / "out")}
    assert details["pipe_1.png"].endswith("is a FIFO")
    assert details["device_1.png"].endswith("is a device")


@pytest.mark.parametrize("name", ["labels.csv", "labels.zip", "labels.tar"])
def test_labels_or_input_that_are_no_file_raise_one_sentence(name, tmp_path, capsys):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        assert main(["table", str(path), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert "is a FIFO" in error and is_one_sentence(error)


def test_file_names_that_are_not_utf_8_are_read_or_counted(tmp_path):
    pictures = tmp_path / os.fsdecode(b"b\xff")
    pictures.mkdir()
    for stem in (b"\xff\xfe", b"good"):
        (pictures / os.fsdecode(stem + b"_1.png")).write_bytes(picture())
    arguments = [str(pictures), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["folder", *arguments]) == 0
    assert texts(tmp_path / "out") == ["good"]
    assert [r["reason"] for r in rejects(tmp_path / "out")] == ["text is not UTF-8"]
    # The same command again finds its dataset.
    assert main(["folder", *arguments]) == 0
    # Where the text does not come from the name, the row is read.
    pdfs = tmp_path / "pages"
    pdfs.mkdir()
    with (pdfs / os.fsdecode(b"\xff.pdf")).open("wb") as file:
        Image.new("L", (40, 20)).save(file, "PDF", title="")
    (pdfs / os.fsdecode(b"\xff.txt")).write_text("TOTAL")
    convert("pdf", pdfs, tmp_path / "read", progress=False)
    assert texts(tmp_path / "read") == ["TOTAL"]


def test_tilde_in_a_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good_1.png").write_bytes(picture())
    assert main(["folder", "~/raw", "--out=~/out", "--workers", "1"]) == 0
    assert texts(tmp_path / "out") == ["good"]
    assert stat.S_ISDIR((tmp_path / "out" / "train").stat().st_mode)
    assert not Path("~").exists()


def test_zip_names_equal_those_of_the_standard_library(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("한글_1.png", picture())  # sets the flag
    assert list(Tree(tmp_path / "a.zip").files("*.png")) == ["한글_1.png"]


def test_predict_lists_odd_file_names_and_counts_pipes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    scans = tmp_path / "scans"
    (scans / "folder.png").mkdir(parents=True)
    for name in (b"\xff.png", b"a\x1b[31m.png"):
        (scans / os.fsdecode(name)).write_bytes(picture())
    os.mkfifo(scans / "pipe.png")
    os.mkfifo(scans / "pipe.pdf")
    ids = [listed.id for listed in list_pictures(["~/scans"])]
    assert len(ids) == 4 and any(id.endswith(r"/\udcff.png") for id in ids)
    for listed in list_pictures([str(scans)]):
        if "pipe" in listed.id:
            with pytest.raises((OSError, ValueError), match="is a FIFO"):
                listed.open()

    def read(reader, pictures, prompt):
        return [{"id": p.id, "prediction": "A", "error": None} for p in pictures]

    monkeypatch.setattr("ocrkit.models.load.load_model", lambda config: (None, None))
    monkeypatch.setattr("ocrkit.models.read.Reader", lambda *_: None)
    monkeypatch.setattr("ocrkit.models.read_files.read_pictures", read)
    assert kit(["predict", str(scans)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and r"a\x1b[31m.png" in printed and printed.count("\n") == 4


def test_messages_escape_terminal_control_characters(tmp_path, capsys):
    name = f"no\x1b[2J\u202egpj\nwhere{os.fsdecode(bytes([255]))}"
    for run, arguments in (
        (main, ["folder", name, "--out", str(tmp_path)]),
        (kit, ["predict", name]),
    ):
        assert run(arguments) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert r"no\x1b[2J\u202egpj where\udcff" in error


def test_parquet_pictures_with_path_and_no_bytes_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    row = {"id": "1", "completion": [{"role": "assistant", "content": "A"}]}
    row["prompt"] = [{"role": "user", "content": "Read."}]
    taken, _ = usable_row(
        tmp_path / "x.parquet", 1, row | {"images": [{"path": "a.png", "bytes": None}]}
    )
    assert taken["images"] == [str(tmp_path / "a.png")]
    _, left = usable_row(tmp_path / "x.parquet", 1, row | {"images": [{"path": "b.png"}]})
    assert left["reason"] == "missing picture"
    assert "has the path 'b.png' of its picture without the bytes" in left["detail"]


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.zip.001", "a.z01"])
def test_unsupported_archive_error_asks_to_unpack_it(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"7z")
    with pytest.raises(DataError, match=r"is an archive that is not read; unpack it\."):
        convert("pairs", tmp_path / "in" / name, tmp_path / "out", progress=False)
    with pytest.raises(DataError, match=rf"unpack them, such as {re.escape(name)}"):
        convert("pairs", tmp_path / "in", tmp_path / "out", progress=False)


def test_nested_archive_error_asks_to_unpack_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.writestr("inner.zip", b"PK")
    with pytest.raises(DataError, match=r"unpack them, such as inner\.zip"):
        convert("pairs", tmp_path / "outer.zip", tmp_path / "out", progress=False)
