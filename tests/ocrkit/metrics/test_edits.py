import random
import time
import unicodedata

import jiwer
import pytest
import regex
from rapidfuzz.distance import Levenshtein

from ocrkit import metrics as metrics_module
from ocrkit.metrics import edits as metrics
from ocrkit.metrics.text import normalize
from tests.benchmarks.drawn import ALPHABETS, noisy


def generated(alphabet, count=1250, seed=0):
    rng = random.Random(seed)
    references = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(count)]
    return references, [noisy(text, alphabet, rng, rng.random()) for text in references]


@pytest.mark.parametrize("name", ALPHABETS)
def test_cer_and_wer_equal_jiwer(name):
    references, predictions = generated(ALPHABETS[name])
    references = list(map(normalize, references))
    predictions = list(map(normalize, predictions))
    kept = [number for number, text in enumerate(references) if text]
    references = [references[number] for number in kept]
    predictions = [predictions[number] for number in kept]
    theirs = jiwer.process_characters(references, predictions)
    ours = metrics.process_edits(references, predictions)
    assert ours.substitutions.sum() == theirs.substitutions
    assert ours.deletions.sum() == theirs.deletions
    assert ours.insertions.sum() == theirs.insertions
    assert metrics.cer(references, predictions) == pytest.approx(theirs.cer, abs=1e-12)
    assert metrics.wer(references, predictions) == pytest.approx(
        jiwer.wer(references, predictions), abs=1e-12
    )


@pytest.mark.parametrize("name", ALPHABETS)
def test_graphemes_equal_regex_and_rapidfuzz(name):
    references, predictions = generated(ALPHABETS[name], 300)
    errors = length = 0
    for reference, prediction in zip(references, predictions):
        reference = regex.findall(r"\X", unicodedata.normalize("NFC", reference))
        prediction = regex.findall(r"\X", unicodedata.normalize("NFC", prediction))
        errors += Levenshtein.distance(reference, prediction)
        length += len(reference)
    assert metrics.cer_grapheme(references, predictions) == errors / length


def test_error_rates_equal_hand_computed_values():
    assert metrics.cer(["abcd", "xy"], ["abed", "xyz"]) == 2 / 6
    assert metrics.cer(["ab"], ["abcdef"]) == 2.0
    assert metrics.wer(["a b\u3000c"], ["a x c"]) == 1 / 3
    assert metrics.cr_ar(["abcd"], ["abxde"]) == (1 - 1 / 4, 1 - 2 / 4)
    assert metrics.cer(["Total "], ["total"]) == 2 / 6


def test_grapheme_rate_counts_a_conjunct_once():
    assert metrics.cer(["ক্ষি"], ["ক"]) == 3 / 4
    assert metrics.cer_grapheme(["ক্ষি"], ["ক"]) == 1.0


def test_metrics_compose_references_and_predictions_to_nfc():
    for text in ("\u09df\u09dc", "ক\u09c7\u09be", "한글", "é"):
        decomposed = unicodedata.normalize("NFD", text)
        assert metrics.cer([text], [decomposed]) == metrics.cer([decomposed], [text]) == 0
        assert metrics.normalized_match([text], [decomposed]) == 1
    assert metrics.exact_match(["한"], [unicodedata.normalize("NFD", "한")]) == 0
    assert metrics.cer(["র\u200d্য"], ["র্য"]) == 1 / 4
    assert metrics.cer(["10²"], ["102"]) == 1 / 3


def test_nfc_is_applied_wherever_it_changes_a_text():
    rng = random.Random(0)
    changing = [
        chr(code)
        for code in range(0x300, 0x20000)
        if unicodedata.combining(chr(code))
        or unicodedata.decomposition(chr(code))
        or 0x1100 <= code < 0x1200
    ]
    bases = "aeক\u09c7가각ᄀ\u0b47한zé"
    texts = [
        "".join(
            rng.choice(bases if rng.random() < 0.5 else changing) for _ in range(rng.randint(0, 4))
        )
        for _ in range(20_000)
    ]
    texts += ["e\u0327\u0301", "a\u05ae\u0300", "\u09c7\u09be", "\u09df", "ᄀ\u1161\u11a8"]
    normal = [unicodedata.normalize("NFC", text) for text in texts]
    assert metrics.pairs(texts, normal) == (normal, normal)


def test_empty_references_follow_jiwer():
    assert metrics.cer([""], ["abc"]) == jiwer.cer("", "abc") == 3
    assert metrics.cer(["ab", ""], ["ab", "c"]) == 1 / 2
    assert metrics.cer([""], [""]) == metrics.wer([""], [""]) == 0
    assert metrics.cer([], []) == 0
    assert isinstance(metrics.wer([""], [""]), float)
    assert metrics.cr_ar([""], ["ab"]) == (1.0, -1.0)


def test_missing_predictions_are_empty_strings():
    for missing in (None, float("nan"), ""):
        assert metrics.cer(["abc", "de"], [missing, "de"]) == 3 / 5
        assert metrics.exact_match(["abc", ""], [missing, missing]) == 0.5
    assert metrics.char_confusions(["ab"], [None]) == {("a", ""): 1, ("b", ""): 1}


def test_metrics_do_not_modify_their_arguments():
    references, predictions = [unicodedata.normalize("NFD", "한"), "b"], ["한", None]
    before = references.copy(), predictions.copy()
    assert metrics.process_edits(references, predictions).cer.part.tolist() == [0, 1]
    assert (references, predictions) == before


def test_a_single_string_is_one_pair():
    assert metrics.cer("abc", "abd") == 1 / 3
    assert metrics.exact_match("abc", "abc") == 1


def test_exact_and_normalized_match():
    assert metrics.exact_match(["a", "b"], ["a", "B"]) == 0.5
    assert metrics.normalized_match(["a  b", "B"], ["a b\r\n", "b"]) == 0.5
    assert metrics.normalized_match(["B"], ["b"], profile="lenient") == 1
    assert metrics.normalized_match(["the cat"], ["Cat."], "en", "squad") == 1
    assert metrics.normalized_match(["㈜"], ["(주)"], "ko", "lenient") == 1
    with pytest.raises(ValueError, match="2 references but 1 languages: give one language per"):
        metrics.normalized_match(["a", "b"], ["a", "b"], language=["en"])


def test_ned_and_share_similar():
    assert metrics.ned_similarity(["abcd", ""], ["abcx", ""]) == (0.75 + 1) / 2
    assert metrics.ned_similarity([""], ["abc"]) == 0
    assert metrics.share_similar(["abcde", "ab"], ["abcdx", "ax"]) == 0.5
    assert metrics.share_similar(["ab"], ["ax"], threshold=0.5) == 1


def test_char_confusions_count_pairs():
    confusions = metrics.char_confusions(["0123", "ক্ষি"], ["O12", "ক্ষ"])
    assert confusions == {("0", "O"): 1, ("3", ""): 1, ("ি", ""): 1}
    assert metrics.char_confusions(["ক্ষি"], ["ক্ষ"], unit="grapheme") == {("ক্ষি", "ক্ষ"): 1}
    assert metrics.char_confusions(["a"], ["ab"]) == {("", "b"): 1}
    with pytest.raises(ValueError, match="'word' is unknown"):
        metrics.char_confusions(["a"], ["b"], unit="word")


def test_confusions_of_more_characters_than_a_table_holds():
    references = [chr(0x4E00 + number) for number in range(2100)] * 2
    predictions = [chr(0xAC00 + number) for number in range(2100)] * 2
    confusions = metrics.char_confusions(references, predictions)
    assert confusions == dict.fromkeys(zip(references, predictions), 2)


VERBS = ["cer", "cer_grapheme", "wer", "exact_match", "normalized_match", "ned_similarity"]
VERBS += ["share_similar", "cr_ar", "char_confusions"]


@pytest.mark.parametrize("verb", VERBS)
def test_bad_input_is_one_sentence(verb):
    function = getattr(metrics, verb)
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        function(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="Reference 1 is None"):
        function(["a", None], ["a", "b"])
    with pytest.raises(ValueError, match="Prediction 0 is 7"):
        function(["a"], [7])


@pytest.mark.parametrize("verb", ["exact_match", "normalized_match", "ned_similarity"])
def test_share_of_no_samples_is_refused(verb):
    with pytest.raises(ValueError, match="no samples to score"):
        getattr(metrics, verb)([], [])


@pytest.mark.parametrize("verb", VERBS)
def test_lone_surrogates_are_characters(verb):
    getattr(metrics, verb)(["a\ud800b"], ["a\ud801"])
    assert metrics.cer(["a\ud800b"], ["a\ud801b"]) == 1 / 3


def test_megabyte_prediction_is_counted():
    assert metrics.cer(["ab"], ["ab" * 500_000]) == (1_000_000 - 2) / 2


# --- speed


def test_100000_pairs_in_a_second():
    rng = random.Random(0)
    alphabet = ALPHABETS["latin"] + ALPHABETS["hangul"]
    references = ["".join(rng.choices(alphabet, k=30)) for _ in range(100_000)]
    predictions = [noisy(text, alphabet, rng, 0.05) for text in references]
    started = time.process_time()
    edits = metrics.process_edits(references, predictions)
    rates = edits.cer.rate, edits.ned_similarity.rate, edits.exact_match.rate
    assert edits.confusions
    ours = time.process_time() - started
    # A tenth of the pairs is enough to see what jiwer takes; make check measures all of them.
    started = time.process_time()
    jiwer.process_characters(references[::10], predictions[::10])
    theirs = 10 * (time.process_time() - started)
    print(f"all four {ours:.2f} s, jiwer {theirs:.2f} s, {theirs / ours:.1f} times")
    assert ours < 1
    assert theirs > 2 * ours
    verbs = metrics.cer, metrics.ned_similarity, metrics.exact_match
    assert rates == tuple(verb(references, predictions) for verb in verbs)
    started = time.process_time()
    metrics_module.bootstrap_ci(*edits.cer, n=1000)
    assert time.process_time() - started < 1


# --- several right answers


def plain_anls(references, predictions, threshold):
    """ANLS as its paper writes it, slowly."""

    def distance(first, second):
        table = [list(range(len(second) + 1))]
        for i, a in enumerate(first, 1):
            row = [i]
            for j, b in enumerate(second, 1):
                row.append(min(table[-1][j] + 1, row[-1] + 1, table[-1][j - 1] + (a != b)))
            table.append(row)
        return table[-1][-1]

    total = 0.0
    for texts, prediction in zip(references, predictions):
        best = 0.0
        for text in [texts] if isinstance(texts, str) else texts:
            first, second = text.lower().strip(), (prediction or "").lower().strip()
            longest = max(len(first), len(second))
            share = distance(first, second) / longest if longest else 0.0
            best = max(best, 1 - share if share < threshold else 0.0)
        total += best
    return total / len(references)


@pytest.mark.parametrize("threshold", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_anls_equals_a_plain_count(seed, threshold):
    chance = random.Random(seed)

    def text():
        return "".join(chance.choice("aAbঅ ") for _ in range(chance.randrange(8)))

    references = [chance.choice((text(), [text() for _ in range(3)])) for _ in range(60)]
    predictions = [chance.choice((None, text(), text(), text())) for _ in references]
    expected = plain_anls(references, predictions, threshold)
    assert metrics.anls(references, predictions, threshold) == pytest.approx(expected, abs=1e-12)


def test_anls_of_known_answers():
    assert metrics.anls(["coca cola"], ["coca-cola"]) == pytest.approx(1 - 1 / 9)
    assert metrics.anls([["1/8/93", "January 8, 1993"]], ["january 8, 1993 "]) == 1
    assert metrics.anls(["abcd"], ["abxy"]) == 0  # half of it is wrong, which the threshold is
    assert metrics.anls(["", "a"], ["", None]) == 0.5
    with pytest.raises(ValueError, match="Reference 1 is \\[\\]: it names no text"):
        metrics.anls(["a", []], ["a", "b"])
    with pytest.raises(ValueError, match="2 references but 1 predictions"):
        metrics.anls(["a", ["b"]], ["a"])
    with pytest.raises(ValueError, match="no samples"):
        metrics.anls([], [])


def test_matches_take_the_best_of_several_right_answers():
    references = [["1/8/93", "January 8, 1993"], "Ann", ["x", "y"]]
    predictions = ["January 8, 1993", "Bob", None]
    assert metrics.process_exact_match(references, predictions).part.tolist() == [1, 0, 0]
    predictions = ["january  8, 1993", "ANN", "Y"]
    assert metrics.exact_match(references, predictions) == 0
    matched = metrics.process_normalized_match(references, predictions, "en", "lenient")
    assert matched.part.tolist() == [1, 1, 1]
    assert metrics.normalized_match(references, predictions, ["en", "en", "en"], "strict") == 0
