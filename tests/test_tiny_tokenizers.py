import pytest

from data_prep.schema import DataError
from data_prep.texts import graphemes
from ocrkit import tiny_tokenizers
from ocrkit.tiny_lines import FONTS, fonts
from ocrkit.tiny_tokenizers import CLUSTERS, SCRIPTS_COMPARED, TOKENIZERS, compare_tokenizers, table

TEXTS = ("ক্ষুদ্র স্বাস্থ্য", "한국어 12", "éclair € 漢")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in TOKENIZERS.items()}


def test_each_can_say_everything(tokenizers):
    for name, tokenizer in tokenizers.items():
        for text in TEXTS:
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text, (name, text)
        assert tokenizer.convert_tokens_to_ids("<|image_pad|>") < len(tokenizer)


def test_a_token_is_a_code_point_a_cluster_or_bytes(tokenizers):
    text = "কি কা কে"  # among the commonest clusters
    counts = {name: len(t(text)["input_ids"]) for name, t in tokenizers.items()}
    assert counts["characters"] == len(text)
    assert counts["graphemes"] == len(graphemes(text)) < len(text)
    assert counts["byte-level BPE"] < len(text.encode())
    sizes = {name: len(tokenizer) for name, tokenizer in tokenizers.items()}
    assert sizes["graphemes"] == sizes["characters"] + CLUSTERS
    assert sizes["byte-level BPE"] >= sizes["graphemes"]


def test_a_comparison_trains_and_reads_with_each(tokenizers, monkeypatch):
    for script in SCRIPTS_COMPARED:  # the lines that it trains on are drawn
        try:
            fonts(script, FONTS[script])
        except DataError as error:
            pytest.skip(str(error))
    made = {name: lambda one=one: one for name, one in tokenizers.items()}
    monkeypatch.setattr(tiny_tokenizers, "TOKENIZERS", made)
    found = compare_tokenizers(minutes=0.01, count=2)
    assert (found["minutes"], found["lines"]) == (0.01, 2)
    for name, tokenizer in tokenizers.items():
        row = found[name]
        assert row["steps"] >= 1 and row["vocabulary"] == len(tokenizer)
        for script in SCRIPTS_COMPARED:
            assert 0 < row[script]["low"] <= row[script]["value"] <= row[script]["high"]
    head, _, *rows = table(found).splitlines()
    assert "Bangla CER | Hangul CER" in head
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(tokenizers)
