import pytest

from data_prep.dataset.command import exit_code
from data_prep.dataset.schema import DataError, UsageError


@pytest.mark.parametrize("code", [0, 1])
def test_work_that_is_done_says_how_it_went(code, capsys):
    assert exit_code(lambda: code) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UsageError("--x is 0."), 2, "error: --x is 0.\n"),
        (DataError("a.csv is empty."), 1, "error: a.csv is empty.\n"),
        (OSError("disk full"), 1, "error: disk full; run it again.\n"),
        (KeyboardInterrupt(), 1, "Interrupted; run it again.\n"),
    ],
)
def test_what_fails_is_one_sentence(error, code, said, capsys):
    def work():
        raise error

    assert exit_code(work, "run it again") == code
    assert capsys.readouterr().err == said


def test_what_is_not_foreseen_is_raised():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)
