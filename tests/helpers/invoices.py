"""Planned and drawn invoices, as the tests of invoices and their kin take them."""

from data_prep.synthetic.invoices.draw import make_setup, missing_fonts, page_of, plan_document
from data_prep.synthetic.invoices.words import LANGUAGES

HERE = [language for language in LANGUAGES if not missing_fonts(language)]

LATIN = ["en", "de", "fr", "es"]


def documents(count, languages=None, layouts=None, seed=5):
    """(document, page) of the first documents of a seed."""
    setup = make_setup(languages, layouts, "clean", 1000)
    for index in range(count):
        yield page_of(seed, index, setup)


def contents(count, seed=5):
    """Documents that nobody lays out."""
    setup = make_setup(None, None, "clean", 1000)
    for index in range(count):
        yield plan_document(seed, index, setup)[0]


def squeezed(text):
    return "".join(text.split()).casefold()
