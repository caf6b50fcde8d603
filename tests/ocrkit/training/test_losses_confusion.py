import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ocrkit.data.collate import Collator
from ocrkit.data.conversation import token_characters
from ocrkit.data.load import load_data
from ocrkit.training.losses import heaviest, label_weights, update_weights, weight_table

BANGLA = "ক্ষমতা দ্বন্দ্ব শ্রীমঙ্গল স্ত্রী র‍্যাব বাংলা ভাষা আমি বাংলায় গান গাই জ্ঞান ক্ষমা"


def _byte_level(trim: bool = False):
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([BANGLA] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _byte_fallback():
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["total due", "ক্ষ"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _by_bytes(tokenizer, text):
    """The characters of each token's bytes, found by laying the tokens' bytes end to end."""
    byte_of = {char: byte for byte, char in enumerate(_byte_alphabet())}
    owner = [number for number, char in enumerate(text) for _ in char.encode()]
    spans, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]):
        data = bytes(byte_of[char] for char in token)
        assert text.encode()[at : at + len(data)] == data
        spans.append(sorted({ord(text[n]) for n in owner[at : at + len(data)]}))
        at += len(data)
    assert at == len(text.encode())
    return spans


def _byte_alphabet():
    """GPT-2's character of each byte: printable Latin-1 stands for itself, the rest from U+0100."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("text", [BANGLA, "ক্ষ ঔষধ  é 漢字 😀\n12", "র‍্য", " ", ""])
def test_characters_of_a_token_are_those_of_its_bytes(text, trim):
    tokenizer = _byte_level(trim)
    assert token_characters(tokenizer, text) == _by_bytes(tokenizer, text)


def test_tokens_are_parts_of_a_character_one_and_several():
    """The text above has all three kinds, so the test before is no test of one of them."""
    tokenizer = _byte_level()
    sizes = {
        len(tokenizer.decode(token)) if "\ufffd" not in tokenizer.decode(token) else 0
        for token in tokenizer("ক্ষমতা ঔষধ")["input_ids"]
    }
    assert {0, 1} < sizes
    assert max(sizes) > 1


def test_characters_of_byte_fallback_tokens():
    tokenizer = _byte_fallback()
    text = "due ঔক্ষ é"
    characters = token_characters(tokenizer, text)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert [points for token, points in zip(tokens, characters) if token.startswith("<0x")] == (
        [[ord("ঔ")]] * 3 + [[ord("é")]] * 2
    )
    assert {point for points in characters for point in points} == set(map(ord, text))


def test_a_token_takes_the_largest_weight_of_its_characters():
    table = weight_table({"ক": 2.0, "ষ": 3.0})
    characters = torch.tensor([[[ord("ক"), ord("ষ")], [ord("ক"), 0], [ord("a"), 0], [0, 0]]])
    assert label_weights(characters, table).tolist() == [[3.0, 2.0, 1.0, 1.0]]


def test_only_mixed_up_characters_gain_weight():
    weights = update_weights({}, ["0 total 10"] * 10, ["O total 1O"] * 10, 3.0, 0.0)
    assert set(weights) == {"0", "O"}
    # Twenty zeros, all misread, beside two readings that are taken on trust.
    assert weights["0"] == weights["O"] == pytest.approx(1 + 2 * 20 / 22)


def test_weights_are_bounded_smoothed_and_forgotten():
    truth, read, right = ["aaaa"] * 500, ["bbbb"] * 500, ["aaaa"] * 500
    weights, seen = {}, []
    for _ in range(20):
        weights = update_weights(weights, truth, read, 3.0, 0.5)
        seen.append(weights["a"])
    assert seen[0] == pytest.approx(2, abs=0.01)
    assert seen == sorted(seen)
    assert 2.99 < seen[-1] <= 3
    for _ in range(20):
        weights = update_weights(weights, truth, right, 3.0, 0.5)
    assert weights == {}
    assert update_weights({"a": 2.0}, truth, read, 3.0, 1.0) == {"a": 2.0}
    assert update_weights({"a": 2.0}, truth, read, 1.0, 0.0) == {}


def test_runaway_text_adds_no_confusions():
    assert update_weights({}, ["ab"], ["ab" + "x" * 500], 3.0, 0.0) == {}


def test_a_character_seen_once_does_not_reach_the_top():
    assert update_weights({}, ["a"], ["b"], 4.0, 0.0)["a"] == pytest.approx(2)


def test_decomposed_text_is_counted_composed():
    assert update_weights({}, ["e\u0301"], ["x"], 3.0, 0.0).keys() == {"é", "x"}


def test_confusion_weights_are_listed_heaviest_first():
    assert heaviest({"a": 1.5, "b": 2.0, "c": 1.0004}, most=2) == {"b": 2.0, "a": 1.5}


def test_collator_gives_the_characters_of_each_label(config, processor):
    data = load_data(config)["train"]
    rows = [data[i] for i in range(4)]
    batch = Collator(processor, config.image_height, characters=True)(rows)
    plain = Collator(processor, config.image_height)(rows)
    assert batch["label_characters"].shape[:2] == batch["labels"].shape
    assert all(torch.equal(plain[key], batch[key]) for key in plain)
    for row, labels, characters in zip(rows, batch["labels"], batch["label_characters"]):
        counted = characters[labels != -100]
        text = row["completion"][0]["content"]
        # The embedded model's tokens are characters, bytes for rare ones; the end touches none.
        assert not characters[labels == -100].any()
        assert not counted[-1].any()
        assert (counted[:-1] != 0).any(dim=-1).all()
        assert {int(c) for c in counted.flatten() if c} == set(map(ord, text))
