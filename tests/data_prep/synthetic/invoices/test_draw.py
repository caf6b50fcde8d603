import time

import pytest

from data_prep.dataset.schema import DataError
from data_prep.synthetic.fonts import missing_glyphs
from data_prep.synthetic.invoices import draw
from data_prep.synthetic.invoices.draw import make_setup, missing_fonts
from data_prep.synthetic.invoices.locale import LOCALES
from data_prep.synthetic.invoices.words import LANGUAGES
from tests.helpers.invoices import LATIN, documents


def test_latin_needs_no_installed_font(monkeypatch):
    monkeypatch.setattr(draw, "installed_fonts", dict)
    draw.faces.cache_clear()
    try:
        assert set(LATIN) <= {language for language in LANGUAGES if not missing_fonts(language)}
        assert "fonts-noto-cjk" in missing_fonts("ko") and "Korean" in missing_fonts("ko")
        with pytest.raises(DataError, match=r"No font for documents in Bangla.*fonts-noto-core"):
            make_setup(["en", "bn"], None, "clean", 1000)
        names = make_setup(None, None, "clean", 1000).locales
        assert {LOCALES[name].language for name in names} == set(LATIN)
    finally:
        draw.faces.cache_clear()


def test_no_glyph_is_missing():
    for document, page in documents(50):
        for text in page.texts:
            shown = "".join(sorted(set(text.text)))
            assert not any(missing_glyphs(path, shown) for path in page.face), (
                document.locale.name,
                shown,
            )


@pytest.mark.slow
def test_drawing_is_fast():
    """Ten documents a second of processor time and more on a quiet machine; half on a busy one."""
    setup = make_setup(None, None, "mixed", 1000)
    draw.draw_document(0, 0, setup)
    start = time.process_time()
    for index in range(60):
        draw.draw_document(1, index, setup)
    assert 60 / (time.process_time() - start) > 5
