from data_prep.synthetic.invoices.words import LABELS, LANGUAGES, WORDS


def test_every_language_has_all_labels_and_words():
    for language in LANGUAGES:
        assert LABELS[language].keys() == LABELS["en"].keys()
        assert WORDS[language].keys() == WORDS["en"].keys()
        assert all(LABELS[language].values())
        assert all(all(words) for words in WORDS[language].values())
