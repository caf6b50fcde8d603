import unicodedata
from decimal import Decimal

import pytest

from ocrkit.metrics.text import (
    PROFILE_VERSION,
    graphemes,
    language_code,
    normalize,
    parse_amount,
    script,
)

ZWJ, ZWNJ = "\u200d", "\u200c"
TRICKY = [
    "য়ড়ঢ় \u09df\u09dc\u09dd",
    "র" + ZWJ + "্য",
    "e\ufeff\u0301",
    "e" + ZWNJ + "\u0301",
    "ΐ ΰ ẞ ﬁ İ",
    "ㅋㅋ ﾡￂ ㈜",
    "Ａｂｃ\u3000１２",
    "\ud800 lone",
    "a\r\n b\u2028c\x85d",
    "⼀⽔",
    "“x” — ‘y’",
]


@pytest.mark.parametrize("profile", PROFILE_VERSION)
@pytest.mark.parametrize("text", TRICKY)
def test_profiles_are_idempotent_and_nfc(profile, text):
    once = normalize(text, profile)
    assert normalize(once, profile) == once
    assert unicodedata.is_normalized("NFC", once)


def test_strict_collapses_unicode_whitespace_and_removes_the_bom():
    assert normalize("\ufeff a\r\nb\u3000\u00a0 c\u2003") == "a b c"
    assert normalize("Ab。，１") == "Ab。，１"


@pytest.mark.parametrize("composed", ["\u09df", "\u09dc", "\u09dd"])
def test_nfc_decomposes_bangla_nukta_letters(composed):
    assert len(normalize(composed)) == 2


def test_nfc_composes_bangla_vowel_signs_and_hangul():
    assert normalize("ক\u09c7\u09be") == "ক\u09cb"
    assert normalize("ক\u09c7\u09d7") == "ক\u09cc"
    assert normalize(unicodedata.normalize("NFD", "한글")) == "한글"


@pytest.mark.parametrize("profile", ["strict", "lenient"])
def test_normalize_keeps_zwj(profile):
    assert normalize("র" + ZWJ + "্য", profile) != normalize("র্য", profile)


def test_normalize_drops_zwnj_in_lenient_only():
    with_it, without = "র‌্য" if ZWNJ in "র‌্য" else "র" + ZWNJ + "্য", "র্য"
    assert normalize(with_it, "strict") != normalize(without, "strict")
    assert normalize(with_it, "lenient") == normalize(without, "lenient")


@pytest.mark.parametrize("language", ["bn", "bn-BD", "ben", None, "", "und"])
def test_bangla_spellings_fold_in_lenient(language):
    assert normalize("\u09a4\u09cd\u200d", "lenient", language) == "\u09ce"
    assert normalize("\u0985\u09be", "lenient", language) == "\u0986"
    assert normalize("\u09a4\u09cd\u200d", "strict", language) != "\u09ce"


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        *[(None, None), ("", None), ("und", None), ("und-Beng", None)],
        *[("bn", "bn"), ("BN_bd", "bn"), ("ben", "bn"), ("kor", "ko"), ("zh-Hant-TW", "zh")],
        *[("zho", "zh"), ("cmn-Hans", "zh"), ("chi_sim", "zh"), ("eng", "en"), ("deu", "deu")],
    ],
)
def test_code_of_a_stated_language(stated, code):
    assert language_code(stated) == code


def test_language_rules_belong_to_their_language():
    assert normalize("㈜", "lenient", "ko") == normalize("㈜", "lenient") == "(주)"
    assert normalize("㈜", "lenient", "zh") == "㈜"


def test_lenient_folds_what_the_table_says():
    assert normalize("Ａ１！～\u3000b", "lenient") == "a1!~b"
    assert normalize("\uffa1\uffc2", "lenient") == "\u3131\u314f"
    assert normalize("\uff61\uff62\uff63\uff64\uff65", "lenient") == "。「」、・"
    assert normalize("￥5 ￦6", "lenient") == "¥5₩6"
    assert normalize("⼀⽔⿕", "lenient") == "一水龠"
    assert normalize("‘a’ “b” c–d—e‑f−g", "lenient") == "'a'\"b\"c-d-e-f-g"
    assert normalize("so\u00adft ❤\ufe0f 葛\U000e0100", "lenient") == "soft❤葛"
    assert normalize("Straße", "lenient") == "strasse"


@pytest.mark.parametrize(
    "first, second",
    [
        ("。", "."),
        ("國", "国"),
        ("10²", "102"),
        ("ㅋㅋ", "크크"),
        ("২", "2"),
        ("ﬁ", "f1"),
        ("①", "1"),
    ],
)
def test_lenient_keeps_distinct_characters_apart(first, second):
    assert normalize(first, "lenient") != normalize(second, "lenient")


def test_compatibility_jamo_stay():
    assert normalize("ㅋㅋ", "lenient") == "ㅋㅋ"


def test_superscripts_survive_every_profile():
    assert all("²" in normalize("10²", profile) for profile in PROFILE_VERSION)


def test_squad_drops_case_punctuation_and_articles():
    assert normalize("The  Cat, and an Apple!", "squad") == "cat and apple"
    assert normalize("Theory another", "squad") == "theory another"
    with pytest.raises(ValueError, match="cannot serve language 'bn'"):
        normalize("ক", "squad", "bn")
    for language in ("und", "en-US", "eng"):
        assert normalize("the cat", "squad", language) == "cat"


def test_unknown_profile_is_one_sentence():
    with pytest.raises(ValueError, match=r"'loose' is unknown: use strict, lenient, squad"):
        normalize("a", "loose")


def test_graphemes_of_every_script():
    assert graphemes("ক্ষি a") == ["ক্ষি", " ", "a"]
    assert graphemes("a\r\nb") == ["a", "\r\n", "b"]
    assert graphemes(unicodedata.normalize("NFD", "한")) == [unicodedata.normalize("NFD", "한")]
    assert graphemes("") == []
    assert graphemes("👨‍👩‍👧") == ["👨‍👩‍👧"]


@pytest.mark.parametrize(
    "text, name",
    [
        ("abc 1", "Latin"),
        ("é", "Latin"),
        ("12.5", "Common"),
        ("", "Common"),
        ("。、", "Common"),
        ("বাংলা a", "Bengali"),
        ("한국 (주)", "Hangul"),
        ("你好。", "Han"),
    ],
)
def test_script_of_a_text(text, name):
    assert script(text) == name


# --- amounts and dates


@pytest.mark.parametrize(
    "text, locale, amount",
    [
        ("1,234.50", "en", "1234.50"),
        ("(1,234)", "en", "-1234"),
        ("−1,234", "en", "-1234"),
        ("1,234-", "en", "-1234"),
        ("$ -5", "en", "-5"),
        ("-$5", "en", "-5"),
        ("（１，２３４．５）", "en", "-1234.5"),
        ("+7", "en", "7"),
        ("5,000", "en", "5000"),
        ("5.000", "en", "5.000"),
        ("5.000", "de", "5000"),
        ("5,000", "de", "5.000"),
        ("1.234.567,89", "de-DE", "1234567.89"),
        ("1 234,50 €", "fr", "1234.50"),
        ("1\u202f234,50", "fr-FR", "1234.50"),
        ("1'234.50", "de-CH", "1234.50"),
        ("১,২৩,৪৫৬", "bn", "123456"),
        ("৳ ১২৩.৫০", "bn", "123.50"),
        ("1,23,456.00/-", "en-IN", "123456"),
        ("１２３", "ko", "123"),
        ("₩5,000", "ko", "5000"),
        ("5,000원", "ko", "5000"),
        ("RM 9.00", "en-MY", "9"),
        ("RM9.00", "en", "9"),
        ("9.00 USD", "en", "9"),
        ("US$3", "en", "3"),
        (".50", "en", "0.5"),
        ("-0.00", "en", "0"),
        (7, "en", "7"),
        (0.1, "en", "0.1"),
        ("1" * 40 + ".5", "en", "1" * 40 + ".5"),
    ],
)
def test_parse_amount_reads_amounts_of_every_locale(text, locale, amount):
    assert parse_amount(text, locale) == Decimal(amount)


def test_a_negative_amount_keeps_all_its_digits():
    assert str(parse_amount("-" + "1" * 40)) == "-" + "1" * 40


@pytest.mark.parametrize(
    "text, locale",
    [
        ("10²", "en"),
        ("²", "en"),
        ("1,23", "en"),
        ("1,23,456", "en"),
        ("12,3456", "en"),
        ("1,2,345", "bn"),
        ("1.23", "de"),
        ("1.2.3", "en"),
        ("5.", "en"),
        ("--5", "en"),
        ("-(5)", "en"),
        ("(-5)", "en"),
        ("6%", "en"),
        ("A5", "en"),
        ("", "en"),
        ("NaN", "en"),
        ("1e5", "en"),
        ("12/05/2018", "en"),
        ("1 234", "en"),
        ("5" * 1_000_000, "en"),
        ("\ud8005", "en"),
        (True, "en"),
        (None, "en"),
        (float("nan"), "en"),
        (float("inf"), "en"),
        ([5], "en"),
    ],
)
def test_parse_amount_rejects_other_text(text, locale):
    assert parse_amount(text, locale) is None


def test_an_unknown_locale_is_one_sentence():
    with pytest.raises(ValueError, match="Locale 'xx-YY' is unknown: use one of"):
        parse_amount("1", "xx-YY")
