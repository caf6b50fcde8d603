import argparse
from importlib import metadata
from pathlib import Path

import pytest

from data_prep.dataset import command
from data_prep.dataset.command import exit_code, expand_home, parse_arguments
from data_prep.dataset.schema import DataError, UsageError


@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_is_that_of_the_command(code, capsys):
    assert exit_code(lambda: code) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error, code, message",
    [
        (UsageError("--x is 0."), 2, "error: --x is 0.\n"),
        (DataError("a.csv is empty."), 1, "error: a.csv is empty.\n"),
        (OSError("disk full"), 1, "error: disk full; run it again.\n"),
        (KeyboardInterrupt(), 1, "Interrupted; run it again.\n"),
    ],
)
def test_expected_errors_print_one_sentence_and_exit_1(error, code, message, capsys):
    def work():
        raise error

    assert exit_code(work, "run it again") == code
    assert capsys.readouterr().err == message


def test_unexpected_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


@pytest.mark.parametrize("value", ["~/a.csv", Path("~/a.csv")])
def test_the_home_folder_is_expanded(value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(value) == type(value)("/home/me/a.csv")
    assert expand_home([value, 1]) == [type(value)("/home/me/a.csv"), 1]


@pytest.mark.parametrize("value", ["~nobody.csv", Path("~nobody.csv"), "a/~/b", None, 3])
def test_other_values_are_not_expanded(value):
    assert expand_home(value) == value


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in", "--out", ""], "an empty value is given for --out"),
        (["in", "--out= "], "an empty value is given for --out"),
        (["", "--out", "x"], "an empty value is given;"),
        (["in", "--out", "a\0b"], "the value for --out holds a NUL"),
    ],
)
def test_empty_values_and_nul_are_wrong_usage(arguments, message, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("--out")
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(parser, arguments)
    assert message in capsys.readouterr().err


def test_installed_requirements_are_found_under_their_import_names():
    # Packages without a module of their own name would be reported as not installed.
    installed = [name for name in command.requirements() if is_installed(name)]
    assert "fonttools" in installed
    assert [name for name in installed if not command.can_be_found(name)] == []


def is_installed(package):
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False
