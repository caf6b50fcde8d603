"""Line texts: words, numbers in a language's notation, and random characters.

Words come from data_prep/words/<language>.txt or from a user's file. Random strings use the
syllables or characters of a language's standard character set, so that rare ones occur as well.
"""

import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data_prep.dataset.schema import DataError
from data_prep.synthetic.receipts import random_line

# Shortest and longest line in graphemes, on pages and on signs.
LENGTHS = {"bn": (4, 26), "ko": (3, 22), "zh": (2, 20), "en": (6, 40)}
SIGN_LENGTHS = {"bn": (2, 16), "ko": (2, 11), "zh": (2, 8), "en": (3, 20)}

BANGLA_CONSONANTS = "কখগঘঙচছজঝঞটঠডঢণতথদধনপফবভমযরলশষসহড়ঢ়য়"
BANGLA_VOWELS = "অআইঈউঊঋএঐওঔ"
BANGLA_SIGNS = ("", "া", "ি", "ী", "ু", "ূ", "ৃ", "ে", "ৈ", "ো", "ৌ")
# Common conjuncts; bangla_syllables adds র্ before and ্য ্র ্ব after single consonants.
BANGLA_CONJUNCTS = """
ক্ক ক্ট ক্ত ক্ন ক্ম ক্ল ক্ষ ক্ষ্ণ ক্ষ্ম ক্স গ্ধ গ্ন গ্ম গ্ল ঘ্ন ঙ্ক ঙ্ক্ষ ঙ্খ ঙ্গ ঙ্ঘ চ্চ
চ্ছ চ্ছ্ব জ্জ জ্জ্ব জ্ঝ জ্ঞ ঞ্চ ঞ্ছ ঞ্জ ঞ্ঝ ট্ট ড্ড ণ্ট ণ্ঠ ণ্ড ণ্ঢ ণ্ণ ণ্ম ত্ত ত্ত্ব ত্থ
ত্ন ত্ম দ্গ দ্ঘ দ্দ দ্দ্ব দ্ধ দ্ধ্ব দ্ভ দ্ম ন্ট ন্ঠ ন্ড ন্ত ন্ত্ব ন্ত্র ন্থ ন্দ ন্দ্র ন্ধ
ন্ন ন্ম প্ট প্ত প্ন প্প প্ল প্স ফ্ল ব্জ ব্দ ব্ধ ব্ব ব্ল ভ্ল ম্ন ম্প ম্প্র ম্ফ ম্ব ম্ব্র
ম্ভ ম্ম ম্ল ল্ক ল্গ ল্ট ল্ড ল্প ল্ফ ল্ম ল্ল শ্চ শ্ছ শ্ন শ্ম শ্ল ষ্ক ষ্ক্র ষ্ট ষ্ট্র ষ্ঠ
ষ্ণ ষ্প ষ্ফ ষ্ম স্ক স্ক্র স্খ স্ট স্ট্র স্ত স্ত্র স্থ স্ন স্প স্প্র স্ফ স্ম স্ল হ্ণ হ্ন
হ্ম হ্ল
""".split()
_BANGLA_DIGITS = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")


@dataclass(frozen=True)
class Vocabulary:
    """Text source of one language.

    `lines` are used verbatim, in order. Without `lines`, a line consists of `words` and numbers or,
    with the probability `random_share`, of random `characters`.
    """

    language: str
    words: tuple[str, ...]
    characters: tuple[str, ...]
    lines: tuple[str, ...] = ()
    random_share: float = 0.2


def load_vocabulary(
    language: str,
    text: str | Path | None = None,
    words: str | Path | None = None,
    characters: str | Path | None = None,
    random_share: float = 0.2,
    longest: int | None = None,
) -> Vocabulary:
    """Load the vocabulary of a language, optionally from a user's UTF-8 files.

    Args:
        text: file whose lines are used, split between words into pieces of at most `longest`.
        words: file of words separated by whitespace; lines that begin with "#" are comments.
        characters: file of characters for random strings, instead of the standard set.
        random_share: probability of a random string, 0 to 1.
        longest: graphemes of a piece of `text`; None takes the language's default.

    Raises:
        DataError: a file cannot be read or is empty.
    """
    own = words or Path(__file__).parents[1] / "words" / f"{language}.txt"
    word_lines = [line for line in read_text(own).splitlines() if not line.startswith("#")]
    chosen = dict.fromkeys(unicodedata.normalize("NFC", " ".join(word_lines)).split())
    if not chosen:
        raise DataError(f"{own} holds no word; write words with spaces or line ends between them.")
    units = standard_characters(language)
    if characters:
        units = tuple(dict.fromkeys("".join(read_text(characters).split())))
        if language == "bn":
            units = tuple(dict.fromkeys(graphemes("".join(read_text(characters).split()))))
        if not units:
            raise DataError(f"{characters} holds no character.")
    pieces: list[str] = []
    for line in read_text(text).splitlines() if text else ():
        pieces += cut(" ".join(line.split()), longest or LENGTHS[language][1])
    if text and not pieces:
        raise DataError(f"{text} holds no text.")
    return Vocabulary(language, tuple(chosen), units, tuple(pieces), random_share)


def line_text(vocabulary: Vocabulary, index: int, rng: random.Random, low: int, high: int) -> str:
    """Text of line `index`: NFC, single spaces, about `low` to `high` graphemes long."""
    if vocabulary.lines:
        return vocabulary.lines[index % len(vocabulary.lines)]
    length = rng.randint(low, high)
    if rng.random() < vocabulary.random_share:
        text = random_text(vocabulary, rng, length)
    else:
        text = _WRITERS[vocabulary.language](vocabulary.words, rng, length)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def random_text(vocabulary: Vocabulary, rng: random.Random, length: int) -> str:
    """Random characters or syllables, `length` of them, that a model cannot guess."""
    if vocabulary.language == "en" and vocabulary.characters == standard_characters("en"):
        return random_line(rng, length)[:length]
    text = ""
    for count in range(length):
        space = vocabulary.language != "zh" and count and rng.random() < 0.3
        text += (" " if space else "") + rng.choice(vocabulary.characters)
    return text


def standard_characters(language: str) -> tuple[str, ...]:
    """Characters of a language's random strings.

    Korean: the 2,350 syllables of KS X 1001. Chinese: the 3,755 characters of GB 2312 level 1.
    Bangla: consonants and conjuncts with every vowel sign, and vowels. Latin: ASCII.
    """
    if language == "ko":
        return _two_bytes("euc_kr", range(0xB0, 0xC9))
    if language == "zh":
        return _two_bytes("gb2312", range(0xB0, 0xD8))
    return bangla_syllables() if language == "bn" else tuple(map(chr, range(33, 127)))


@lru_cache(maxsize=4)
def _two_bytes(codec: str, first_bytes: range) -> tuple[str, ...]:
    codes = (bytes((a, b)) for a in first_bytes for b in range(0xA1, 0xFF))
    return tuple(text for code in codes if (text := code.decode(codec, "ignore")))


@lru_cache(maxsize=1)
def bangla_syllables() -> tuple[str, ...]:
    """Syllables of a consonant or conjunct with every vowel sign, and single vowels, in NFC."""
    consonants = graphemes(unicodedata.normalize("NFC", BANGLA_CONSONANTS))
    plain = [c for c in consonants if c not in "ঙঞ" and len(c) == 1]
    joined = [f"র্{c}" for c in plain if c != "র"]
    joined += [c + tail for c in plain for tail in ("্য", "্র", "্ব") if c != "র"]
    # A zero-width joiner keeps the shape of র before য. Consonants are repeated 8 times, so that
    # single consonants are about as frequent as all conjuncts together.
    bases = [*consonants * 8, *BANGLA_CONJUNCTS, *joined, "র‍্য"]
    return (*BANGLA_VOWELS, *(base + sign for base in bases for sign in BANGLA_SIGNS), "ৎ")


def graphemes(text: str) -> list[str]:
    """Extended grapheme clusters of a text: the characters that a reader sees."""
    import regex

    return regex.findall(r"\X", text)


def cut(text: str, longest: int) -> list[str]:
    """Split a text into pieces of at most `longest` graphemes, between words where possible."""
    pieces, piece = [], ""
    for word in text.split():
        for start in range(0, len(units := graphemes(word)), longest):
            chunk = "".join(units[start : start + longest])
            joined = f"{piece} {chunk}" if piece and not start else chunk
            if len(graphemes(joined)) > longest or start:
                pieces.append(piece)
                joined = chunk
            piece = joined
    return [unicodedata.normalize("NFC", piece) for piece in (*pieces, piece) if piece]


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file; DataError with the reason if that fails."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from None


# --- lines of words and numbers, by language ---


def _join(words: tuple[str, ...], rng: random.Random, length: int, space: str) -> list[str]:
    """Random words that, joined by `space`, have about `length` graphemes."""
    chosen = [rng.choice(words)]
    total = len(graphemes(chosen[0]))
    while total < length:
        chosen.append(rng.choice(words))
        total += len(graphemes(chosen[-1])) + len(space)
    if total > length and len(chosen) > 1:
        chosen.pop()
    return chosen


def _number(rng: random.Random, digits: int = 5) -> int:
    return rng.randrange(10 ** rng.randint(1, digits))


def _mix_in(chosen: list[str], rng: random.Random, share: float, make: Callable[[], str]) -> None:
    if rng.random() < share:
        chosen[rng.randrange(len(chosen))] = make()


def _latin(words: tuple[str, ...], rng: random.Random, length: int) -> str:
    chosen = _join(words, rng, length, " ")

    def number() -> str:
        n = _number(rng)
        form = rng.choice(("{0}", "${0:,}", "£{0}.{1:02d}", "{0}%", "No. {0}", "{2}:{1:02d}"))
        return form.format(n, rng.randrange(60), rng.randint(0, 23))

    _mix_in(chosen, rng, 0.3, number)
    style = rng.random()
    if style < 0.2:
        return " ".join(chosen).upper()
    if style < 0.35:
        return " ".join(word[:1].upper() + word[1:] for word in chosen)
    text = (rng.choice((" ", " ", " ", ", ")) if len(chosen) < 4 else " ").join(chosen)
    if style < 0.75:
        text = text[:1].upper() + text[1:] + rng.choice(("", "", ".", ".", "?", "!", ":", ","))
    return f"({text})" if style > 0.96 else f'"{text}"' if style > 0.93 else text


def _korean(words: tuple[str, ...], rng: random.Random, length: int) -> str:
    chosen = _join(words, rng, length, " ")

    def number() -> str:
        n = _number(rng)
        form = rng.choice(
            ("{0:,}원", "{1}층", "{2}월 {1}일", "{2}시 {1}분", "{0}", "02-{3:03d}-{4:04d}", "{1}%")
        )
        small, month = rng.randint(1, 30), rng.randint(1, 12)
        return form.format(n, small, month, rng.randrange(1000), rng.randrange(10000))

    _mix_in(chosen, rng, 0.25, number)
    end = rng.choice(("", "", "", "", ".", ".", "?", "!", ",")) if len(chosen) > 1 else ""
    text = " ".join(chosen)
    return f"({text})" if rng.random() < 0.03 else text + end


def _chinese(words: tuple[str, ...], rng: random.Random, length: int) -> str:
    chosen = _join(words, rng, length, "")

    def number() -> str:
        form = rng.choice(
            ("{0}元", "￥{0}", "{2}月{1}日", "{1}号", "{0}", "{1}%", "No.{0}", "{1}折")
        )
        return form.format(_number(rng), rng.randint(1, 28), rng.randint(1, 12))

    _mix_in(chosen, rng, 0.2, number)
    for at in range(len(chosen) - 1):
        if rng.random() < 0.12:
            chosen[at] += rng.choice("，，，、：；")
    text = "".join(chosen)
    if rng.random() < 0.04:
        return rng.choice(("“{}”", "《{}》", "（{}）")).format(text)
    return text + (rng.choice("。。。？！") if rng.random() < 0.2 and len(chosen) > 2 else "")


def _bangla(words: tuple[str, ...], rng: random.Random, length: int) -> str:
    chosen = _join(words, rng, length, " ")

    def number() -> str:
        form = rng.choice(("{0}", "৳{0:,}", "{0} টাকা", "{1}%", "{1}/{2}", "{2}টা", "নং {0}"))
        text = form.format(_number(rng), rng.randint(1, 99), rng.randint(1, 12))
        return text.translate(_BANGLA_DIGITS)

    _mix_in(chosen, rng, 0.25, number)
    text = " ".join(chosen)
    if len(chosen) < 3:
        return text
    return text + rng.choice(("", "", "", "।", "।", " ।", "?", "!", ","))


_WRITERS = {"bn": _bangla, "ko": _korean, "zh": _chinese, "en": _latin}
