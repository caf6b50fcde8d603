import random

import pytest

from data_prep.dataset.schema import DataError
from data_prep.synthetic import fonts
from data_prep.synthetic.fonts import (
    FACES,
    KINDS,
    LANGUAGES,
    check_font,
    find_fonts,
    font_name,
    font_table,
    has_capitals_only,
    installed_fonts,
    missing_glyphs,
    require_shaping,
)
from data_prep.synthetic.render import shipped_fonts

DEJAVU = str(shipped_fonts("DejaVuSans")[0])


def font_of(language: str, face: str, family: str) -> str:
    """A font of a family, or a skip that names the package which has it."""
    if family not in installed_fonts():
        pytest.skip(f"{family} is not installed: apt-get install {FACES[language][face][family]}")
    return find_fonts(language, face)[family][0]


def test_every_language_has_every_face_and_packages_of_debian():
    assert FACES.keys() == LANGUAGES.keys()
    for faces in FACES.values():
        assert tuple(faces) == KINDS
        for families in faces.values():
            assert families and all(name.startswith("fonts-") for name in families.values())


def test_coverage_is_by_character_and_asks_for_ink():
    assert missing_glyphs(DEJAVU, "Ab1 .~é") == ""
    assert missing_glyphs(DEJAVU, "A가나 가") == "가나"
    # A joiner draws nothing by itself and is no reason to refuse a font.
    assert missing_glyphs(DEJAVU, "a\u200db\u200c") == ""


def test_a_syllable_that_a_font_maps_to_a_blank_glyph_is_missing():
    font = font_of("ko", "sign", "BM DoHyeon")
    assert missing_glyphs(font, "한글똠") == "똠"


def test_a_vowel_sign_alone_is_judged_without_the_circle_that_shaping_adds():
    assert missing_glyphs(DEJAVU, "া্ক") == "া্ক"
    assert missing_glyphs(font_of("bn", "print", "Lohit Bengali"), "া্কড়") == ""


def test_faces_of_a_collection_are_distinguished():
    family = "WenQuanYi Micro Hei Mono"
    if family not in installed_fonts():
        pytest.skip(f"{family} is not installed: apt-get install fonts-wqy-microhei")
    font = installed_fonts()[family][0][1]
    assert font.endswith("wqy-microhei.ttc#1") and font_name(font) == family


def test_fonts_of_capitals_only_are_recognized():
    assert not has_capitals_only(DEJAVU)
    assert has_capitals_only(font_of("en", "sign", "Bebas Neue"))


@pytest.mark.parametrize("face", KINDS)
@pytest.mark.parametrize("language", FACES)
def test_every_installed_font_opens_and_draws_its_script(language, face):
    sample = {"bn": "আমি বাংলা", "ko": "한국어", "zh": "中文", "en": "Latin"}[language]
    try:
        families = find_fonts(language, face)
    except DataError as error:
        pytest.skip(str(error))
    assert installed_fonts() == {} or set(families) <= set(FACES[language][face])
    for font in (font for family in families.values() for font in family):
        assert missing_glyphs(check_font(font), sample) == "", font


def test_a_missing_face_names_its_packages(monkeypatch):
    monkeypatch.setattr(fonts, "installed_fonts", lambda: {"Other": [(80, DEJAVU)]})
    with pytest.raises(DataError, match=r"No handwriting font for Korean .* fonts-nanum-extra"):
        find_fonts("ko", "handwriting")
    assert "fonts-woowa-bm" in font_table() and "missing" in font_table()
    monkeypatch.setattr(fonts, "installed_fonts", dict)
    with pytest.raises(DataError, match="apt-get install fontconfig fonts-"):
        find_fonts("bn", "sign")
    # Latin print needs nothing but what matplotlib ships.
    assert DEJAVU in find_fonts("en", "print")["DejaVuSans"]


def test_signs_take_the_bold_styles_of_a_family(monkeypatch):
    listed = {"NanumGothic": [(80, "thin.ttf"), (200, "bold.ttf")], "BM JUA_TTF": [(80, "jua.ttf")]}
    monkeypatch.setattr(fonts, "installed_fonts", lambda: listed)
    assert find_fonts("ko", "sign") == {"NanumGothic": ["bold.ttf"], "BM JUA_TTF": ["jua.ttf"]}
    assert find_fonts("ko", "print") == {"NanumGothic": ["thin.ttf", "bold.ttf"]}


def test_fontconfig_list_is_parsed(monkeypatch):
    rows = [
        "Twice,다시\tRegular\t80\tFalse\t/b/twice.otf\t0",
        "Twice\tRegular\t80\tFalse\t/a/twice.ttf\t0",
        "Many\tBold\t200\tFalse\t/c/many.ttc\t2",
        "Many\tOutline\t80\tFalse\t/c/outline.ttf\t0",
        "Waver\tRegular\t80\tTrue\t/d/waver.ttf\t0",
        "Waver\tBold\t200\tFalse\t/d/waver.ttf\t131072",
    ]
    random.Random(0).shuffle(rows)
    installed_fonts.cache_clear()
    answer = type("Answer", (), {"stdout": "\n".join(rows).encode()})
    monkeypatch.setattr(fonts.subprocess, "run", lambda *a, **k: answer)
    try:
        assert installed_fonts() == {
            "Twice": [(80, "/a/twice.ttf")],
            "다시": [(80, "/b/twice.otf")],
            "Many": [(200, "/c/many.ttc#2")],
            "Waver": [(200, "/d/waver.ttf#131072")],
        }
    finally:
        installed_fonts.cache_clear()


def test_invalid_font_file_raises_one_sentence(tmp_path):
    (tmp_path / "no.ttf").write_text("no font")
    for name in ("no.ttf", "missing.ttf"):
        with pytest.raises(DataError, match=r"cannot be read as a font .*name a \.ttf"):
            check_font(str(tmp_path / name))


def test_without_raqm_bangla_is_refused(monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "raqm")
    with pytest.raises(DataError, match="it would draw Bangla wrongly; install it with"):
        require_shaping()
