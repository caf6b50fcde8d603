import json
from types import SimpleNamespace

import pytest

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Reject
from data_prep.sources._pages import (
    Page,
    Word,
    corners,
    page_rows,
    read_json,
    read_word,
    stated_size,
)
from tests.helpers.sources_common import save

LEFT, RIGHT, BELOW = [2, 2, 20, 12], [30, 2, 50, 12], [2, 30, 20, 40]


@pytest.fixture
def tree(tmp_path):
    save(tmp_path / "a.png", (60, 50))
    return Tree(tmp_path)


def rows(tree, words, task):
    page = Page("a.png", (60, 50), words)
    options = SimpleNamespace(task=task)
    return list(page_rows(tree, page, "a.json", "a", options, language="en"))


def test_words_become_items_or_rejects(tree):
    words = [Word("one", LEFT), Word("###", RIGHT, problem="illegible"), Word(None, BELOW)]
    item, illegible, null = rows(tree, words, "words")
    assert (item.text, item.group, item.where) == ("one", "a", "a.json word 0")
    assert item.pictures[0].box == (2, 2, 20, 12)
    assert (illegible.reason, illegible.detail) == ("illegible", "###")
    assert null.reason == "null text"


def test_a_page_joins_its_words_in_reading_order(tree):
    words = [Word("below", BELOW), Word("right", RIGHT), Word("left", LEFT)]
    words.append(Word("?", LEFT, problem="illegible"))
    (item,) = rows(tree, words, "pages")
    assert item.text.split() == ["left", "right", "below"]
    assert item.meta == {"left_out": 1} and item.pictures[0].box is None


def test_a_page_with_a_word_that_cannot_be_placed_is_a_reject(tree):
    (reject,) = rows(tree, [Word("one", LEFT), Word("two", [1, "x"])], "pages")
    assert isinstance(reject, Reject)
    assert reject.reason == "malformed box" and reject.detail.startswith("word 1: ")


def test_illegible_words_are_kept_on_request():
    word = Word("dim", None, problem="illegible")
    assert read_word(word, "x").reason == "illegible"
    assert read_word(word, "x", keep=True) == ("dim", None)


def test_boxes_and_sizes_are_checked():
    assert corners([1, 2, 3, 4]) == [1, 2, 4, 6]
    assert corners([1, 2, -3, 4]) == corners([1, 2, 3]) == corners(None) == "malformed"
    assert stated_size(3, 4) == (3, 4)
    assert stated_size(0, 4) is stated_size("3", 4) is stated_size(3, None) is None


def test_a_label_file_is_a_json_object(tmp_path):
    (tmp_path / "good.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "list.json").write_text("[1]")
    tree = Tree(tmp_path)
    assert read_json(tree, "good.json") == {"a": 1}
    with pytest.raises(ValueError, match="a JSON object is expected, not list"):
        read_json(tree, "list.json")
