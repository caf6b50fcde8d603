import random
import unicodedata

import pytest

from data_prep.dataset.schema import DataError
from data_prep.synthetic.texts import (
    BANGLA_CONJUNCTS,
    LENGTHS,
    cut,
    graphemes,
    line_text,
    load_vocabulary,
    random_text,
    standard_characters,
)

LANGUAGES = ("bn", "ko", "zh", "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_lists_are_nfc_and_of_their_script(language):
    words = load_vocabulary(language).words
    assert len(words) > 400
    assert all(unicodedata.is_normalized("NFC", word) for word in words)
    script = {"bn": "BENGALI", "ko": "HANGUL", "zh": "CJK", "en": "LATIN"}[language]
    letters = "".join(words)
    own = sum(unicodedata.name(c, "").startswith(script) for c in letters)
    assert own / len(letters) > 0.97


def test_standard_characters_are_as_many_as_the_standards_say():
    assert len(standard_characters("ko")) == 2350
    assert "힝" in standard_characters("ko") and "뷁" not in standard_characters("ko")
    assert len(standard_characters("zh")) == 3755
    assert "的" in standard_characters("zh") and "麗" not in standard_characters("zh")
    assert len(standard_characters("en")) == 94
    bangla = standard_characters("bn")
    assert len(set(bangla)) > 2000
    single = sum("্" not in unit for unit in bangla) / len(bangla)
    assert 0.4 < single < 0.6
    assert {"ক", "ক্ষা", "র্কি", "র‍্যা", "ন্ত্রী", "ৎ"} <= set(bangla)
    # Every unit is one character to a reader, and as a row would hold it.
    assert all(unicodedata.is_normalized("NFC", unit) for unit in bangla)
    assert all(len(graphemes(unit)) == 1 for unit in bangla)
    assert len(BANGLA_CONJUNCTS) == len(set(BANGLA_CONJUNCTS))


@pytest.mark.parametrize("language", LANGUAGES)
def test_lines_are_clean_and_of_the_length_asked_for(language):
    vocabulary = load_vocabulary(language)
    low, high = LENGTHS[language]
    texts = [line_text(vocabulary, 0, random.Random(i), low, high) for i in range(500)]
    assert len(set(texts)) > 450
    for text in texts:
        assert text and text == unicodedata.normalize("NFC", " ".join(text.split()))
    lengths = sorted(len(graphemes(text)) for text in texts)
    # Numbers and marks may add to what words were chosen for.
    assert lengths[-1] <= high * 1.5 + 12 and lengths[250] >= low


def test_random_share_and_own_characters(tmp_path):
    (tmp_path / "c.txt").write_text("ক্ষ\nহ্ম র‍্য", encoding="utf-8")
    own = load_vocabulary("bn", characters=tmp_path / "c.txt", random_share=1.0)
    text = line_text(own, 0, random.Random(1), 20, 20)
    assert set(graphemes(text.replace(" ", ""))) <= {"ক্ষ", "হ্ম", "র‍্য"}
    assert len(graphemes(text.replace(" ", ""))) == 20
    words = load_vocabulary("ko", random_share=0.0)
    known = set("".join(words.words)) | set("0123456789원층월일시분%-,.?!() ")
    for i in range(300):
        assert set(line_text(words, 0, random.Random(i), 3, 20)) <= known
    assert len(random_text(load_vocabulary("en"), random.Random(0), 30)) <= 30


def test_own_words_and_text(tmp_path):
    (tmp_path / "w.txt").write_text("\ufeff# no word\n사과\r\n배 사과", encoding="utf-8")
    assert load_vocabulary("ko", words=tmp_path / "w.txt").words == ("사과", "배")
    (tmp_path / "t.txt").write_text("one  two three\n\nfour\n", encoding="utf-8")
    vocabulary = load_vocabulary("en", text=tmp_path / "t.txt", longest=8)
    assert vocabulary.lines == ("one two", "three", "four")
    texts = [line_text(vocabulary, i, random.Random(0), 1, 9) for i in range(4)]
    assert texts == ["one two", "three", "four", "one two"]


def test_text_is_cut_between_words_and_never_inside_a_character():
    assert cut("a bb ccc", 4) == ["a bb", "ccc"]
    assert cut("abcdefgh i", 3) == ["abc", "def", "gh", "i"]
    assert cut("x abcdef", 3) == ["x", "abc", "def"]
    assert cut("ক্ষক্ষক্ষ", 2) == ["ক্ষক্ষ", "ক্ষ"]
    assert cut("中文中文中", 2) == ["中文", "中文", "中"]
    assert cut("", 5) == []
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("abকি ্ষ 中") for _ in range(rng.randint(0, 30)))
        longest = rng.randint(1, 9)
        pieces = cut(text, longest)
        assert all(len(graphemes(piece)) <= longest for piece in pieces)
        whole = unicodedata.normalize("NFC", "".join(text.split()))
        assert unicodedata.normalize("NFC", "".join("".join(pieces).split())) == whole


def test_unusable_text_files_raise_one_sentence(tmp_path):
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "latin1.txt").write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(DataError, match="holds no word"):
        load_vocabulary("en", words=tmp_path / "empty.txt")
    with pytest.raises(DataError, match="is not UTF-8 at byte 1; save it as UTF-8"):
        load_vocabulary("en", text=tmp_path / "latin1.txt")
    with pytest.raises(DataError, match=r"cannot be read .*check the path"):
        load_vocabulary("en", text=tmp_path / "none.txt")
    (tmp_path / "blank.txt").write_text(" \n ")
    with pytest.raises(DataError, match="holds no character"):
        load_vocabulary("en", characters=tmp_path / "blank.txt")
    with pytest.raises(DataError, match="holds no text"):
        load_vocabulary("en", text=tmp_path / "blank.txt")
