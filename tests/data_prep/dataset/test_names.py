import unicodedata

import pytest

from data_prep.dataset.names import fits_split, match_rank, spelling


def test_names_of_one_file_are_spelled_alike():
    decomposed = unicodedata.normalize("NFD", "한글é")
    assert spelling(f"{decomposed}.JPG") == spelling("한글é.jpg")
    assert spelling("A.jpg") != spelling("a.jpg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("set/images/a.png", (2, 1)),
        ("images/a.png", (2, 0)),
        ("set/a.png", (1, 1)),
        ("a.PNG", (1, 0)),
        ("other/a.png", None),
        ("set/images/b.png", None),
    ],
)
def test_files_are_ranked_by_the_folders_that_they_share_with_a_label(path, expected):
    """The label lies in `set` and names `images/a.png`."""
    assert match_rank(path, ["images", "a.png"], "set") == expected


def test_a_file_in_the_folder_of_another_split_is_refused():
    assert fits_split("train", "train/a.png") and fits_split("train", "a.png")
    assert not fits_split("train", "test/a.png")
    assert fits_split(None, "test/a.png")
