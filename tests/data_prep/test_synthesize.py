import subprocess
import sys

import pytest
from PIL import Image

from data_prep.synthesize import main
from data_prep.synthetic.render import shipped_fonts
from tests.helpers.sources_common import read_rows, snapshot

DEJAVU = str(shipped_fonts("DejaVuSans")[0])


def lines(*more):
    return main(["lines", "en", "--font", DEJAVU, "--workers", "1", *map(str, more)])


def test_lines_makes_a_dataset(tmp_path, capsys):
    assert lines("--count", 20, "--out", tmp_path / "a", "--split", "0.5,0,0.5") == 0
    assert "20 lines (train 10, test 10)" in capsys.readouterr().out
    rows = read_rows(tmp_path / "a")
    assert len(rows) == 20 and {row.task for row in rows} == {"transcription"}
    options = ("--count", 20, "--split", "0.5,0,0.5")
    assert lines(*options, "--out", tmp_path / "b", "--seed", 1) == 0
    assert snapshot(tmp_path / "a") != snapshot(tmp_path / "b")


def test_lines_of_a_text_in_one_face_and_height(tmp_path):
    (tmp_path / "t.txt").write_text("The first line.\nThe second, which is longer.\n")
    out = tmp_path / "out"
    options = ("--text", tmp_path / "t.txt", "--face", "sign", "--length", "1,12", "--height", 40)
    assert lines(*options, "--count", 4, "--out", out, "--split", "1,0,0") == 0
    rows = read_rows(out)
    texts = [row.completion[0]["content"] for row in rows]
    assert texts == ["The first", "line.", "The second,", "which is"]
    assert {row.height for row in rows} == {40}


def test_a_sheet_instead_of_a_dataset(tmp_path, capsys):
    assert lines("--sheet", tmp_path / "s.png") == 0
    assert Image.open(tmp_path / "s.png").width == 960
    assert lines("--sheet", tmp_path / "s.png") == 0
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"mine")
    for kind in (["lines", "en"], ["invoices"]):
        assert main([*kind, "--sheet", str(photo)]) == 1
        assert "photo.png exists and was not written by ocrkit" in capsys.readouterr().err
        assert photo.read_bytes() == b"mine"
    assert lines("--sheet", photo, "--overwrite") == 0 and Image.open(photo).width == 960


def test_the_list_of_fonts_names_packages(capsys):
    assert main(["lines", "--list-fonts"]) == 0
    shown = capsys.readouterr().out
    assert "fonts-nanum-extra" in shown and "fonts-beng-extra" in shown


@pytest.mark.parametrize(
    "wrong, says",
    [
        (["lines", "--out", "x"], "No LANGUAGE is named"),
        (["lines", "fr", "--out", "x"], "LANGUAGE 'fr' is unknown; take one of bn, ko, zh, en"),
        (["lines", "en", "en", "--out", "x"], "named twice"),
        (["lines", "en"], "No output: name --out DIR"),
        (["lines", "en", "ko", "--text", "t", "--out", "x"], "--text is for one language"),
        (["lines", "en", "--count", "0", "--out", "x"], "--count is 0, but takes 1 or more"),
        (["lines", "en", "--workers", "0", "--out", "x"], "--workers is 0"),
        (["lines", "en", "--height", "3", "--out", "x"], "--height is 3, but takes 16 or more"),
        (["lines", "en", "--random", "2", "--out", "x"], "takes a share from 0 to 1"),
        (["lines", "en", "--length", "9,5", "--out", "x"], "--length is '9,5'"),
        (["lines", "en", "--length", "abc", "--out", "x"], "--length is 'abc'"),
        (["lines", "en", "--split", "0.5,0.1", "--out", "x"], "--split is '0.5,0.1'"),
        (["lines", "en", "--split", "source", "--out", "x"], "--split is 'source'"),
        (["receipts", "--count", "-1", "--out", "x"], "--count is -1"),
        (["toys", "--damage", "2", "--out", "x"], "--damage is 2.0"),
        (["toys", "--without-knowledge", "--out", "x"], "--without-knowledge is for questions"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(wrong, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_one_sentence_and_exit_code_1(tmp_path, capsys):
    assert main(["lines", "en", "--font", "none.ttf", "--out", str(tmp_path / "x")]) == 1
    assert lines("--text", tmp_path / "none.txt", "--out", tmp_path / "x") == 1
    error = capsys.readouterr().err
    assert "none.ttf cannot be read as a font" in error and error.count("\n") == 2


@pytest.mark.parametrize("command", ["lines", "invoices", "receipts", "toys"])
def test_every_command_lists_its_options_in_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert {"--out", "--count", "--seed"} <= set(capsys.readouterr().out.replace(",", "").split())


def test_receipts_command_makes_a_dataset(tmp_path, capsys):
    assert main(["receipts", "--count", "2", "--out", str(tmp_path / "r"), "--clean"]) == 0
    assert "test 20" in capsys.readouterr().out


def test_help_imports_no_command_modules():
    code = (
        "import sys; from data_prep.synthesize import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'data_prep.synthetic.lines' not in sys.modules and 'torch' not in sys.modules"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert all(name in shown for name in ("lines", "invoices", "receipts", "toys"))
