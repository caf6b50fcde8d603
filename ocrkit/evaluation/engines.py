"""OCR engines that read without fine-tuning: RapidOCR (PP-OCR models) and Tesseract.

`open_engine` checks that an engine can be run, and `read_rows` reads the rows of a dataset with it.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, NamedTuple

import regex

from data_prep.dataset.pictures import open_image
from ocrkit.data.rows import first_picture, text_of, without_images
from ocrkit.metrics.text import language_code, script
from ocrkit.models.base import ENGINES

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

#: Tesseract's codes by the language of a row.
TESSERACT = {"bn": "ben", "ko": "kor", "zh": "chi_sim", "en": "eng"}
#: Tesseract's codes by the script of a text whose language nobody stated.
TESSERACT_SCRIPTS = {"Bengali": "ben", "Hangul": "kor", "Han": "chi_sim"}
TRADITIONAL = {"zh-hant", "zh-tw", "zh-hk", "zh-mo", "chi-tra"}
HAN = r"[\p{Han}\u3000-\u303f\uff00-\uff65]"  # with Chinese punctuation
LINE = 3  # times as wide as high: a picture is taken for one line of text
PAGE_HEIGHT = 96  # pixels: a picture that is lower is not searched for several lines by RapidOCR


class Reading(NamedTuple):
    """Text of a picture, its lines apart by line feeds, and the engine's confidence, 0 to 1."""

    text: str
    confidence: float | None


class Engine(NamedTuple):
    """An OCR engine that can be run.

    Attributes:
        name: one of `ENGINES`.
        version: of the program or package, which a fingerprint holds.
        language_of: the engine's own code of a row's language; None where it has one model for all.
        read: picture (PIL, L or RGB) and that code to a `Reading`.
    """

    name: str
    version: str
    language_of: Callable[[Mapping[str, Any]], str | None]
    read: Callable[["Image", str | None], Reading]


def open_engine(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    language: str | None = None,
    psm: int | None = None,
) -> Engine:
    """Check an engine, and return it ready to read `rows`.

    Args:
        name: `rapidocr` (PP-OCR models inside the package) or `tesseract` (the program).
        rows: rows that it shall read; their languages are looked at, not their pictures.
        language: Tesseract's own code, such as `eng` or `kor+eng`; None takes each row's language.
        psm: Tesseract's page segmentation mode; None takes 7 (one line) for pictures at least
            three times as wide as high and 6 (one block) for the others.

    Raises:
        ValueError: the name is unknown, an option is not the engine's, or Tesseract lacks a
            language.
        RuntimeError: the engine is not installed.
    """
    if name == "tesseract":
        chosen = (lambda row: language) if language else tesseract_language
        version = check_tesseract({chosen(row) for row in rows})
        return Engine(name, version, chosen, partial(_read_with_tesseract, psm=psm))
    if name != "rapidocr":
        raise ValueError(f"Engine {name!r} is unknown: use {' or '.join(ENGINES)}.")
    if language or psm:
        raise ValueError("language and psm are Tesseract's: RapidOCR reads with one model.")
    _rapidocr()
    return Engine(name, package_version(name), lambda row: None, _read_with_rapidocr)


def read_rows(rows: Any, engine: Engine) -> Iterator[dict[str, Any]]:
    """Yield {id, prediction, confidence, finish_reason, error} of every row.

    Args:
        rows: a `datasets.Dataset` or a list of dicts.
        engine: as `open_engine` returns it.
    """
    from tqdm.auto import tqdm

    for number, row in enumerate(tqdm(without_images(rows), desc=engine.name, delay=2)):
        item = {"id": row["id"], "prediction": None, "confidence": None, "finish_reason": None}
        try:
            picture = first_picture(rows, number)
            if picture is None:
                raise ValueError("the row has no picture")
            reading = engine.read(open_image(picture), engine.language_of(row))
            item |= {"prediction": reading.text, "confidence": reading.confidence}
            yield item | {"finish_reason": "stop", "error": None}
        except (RuntimeError, OSError, ValueError) as error:  # pytesseract's are RuntimeErrors
            yield item | {"error": str(error)}


# --- Tesseract


def check_tesseract(languages: Collection[str]) -> str:
    """Return Tesseract's version, if it runs and has the languages, such as `kor+eng`.

    Raises:
        ValueError: Tesseract lacks a language.
        RuntimeError: Tesseract or pytesseract is not installed.

    """
    codes = sorted({code for joined in languages for code in joined.split("+")})
    packages = {code: f"tesseract-ocr-{code.replace('_', '-')}" for code in codes}
    try:
        import pytesseract

        version = str(pytesseract.get_tesseract_version())
        installed = set(pytesseract.get_languages())
    except (ImportError, OSError, SystemExit) as error:
        names = " ".join(["tesseract-ocr", *(packages[code] for code in codes if code != "eng")])
        raise RuntimeError(
            f"Tesseract cannot be run ({error}): install pytesseract, and with "
            f"`apt-get install {names}` the program and its data."
        ) from None
    for code in codes:
        if code not in installed:
            raise ValueError(
                f"Tesseract has no data for {code!r}: install {packages[code]}, or pass a language "
                f"that it has ({', '.join(sorted(installed - {'osd'}))})."
            )
    return version


def tesseract_language(row: Mapping[str, Any]) -> str:
    """Return Tesseract's code of a row's language, or else of its text's script.

    English where neither is known: the language is `und` or missing, and the script another.
    """
    stated = row.get("language") or ""
    code = language_code(stated)
    if code is None:
        return TESSERACT_SCRIPTS.get(script(text_of(row.get("completion") or ())), "eng")
    tag = stated.lower().replace("_", "-")
    if any(tag == traditional or tag.startswith(f"{traditional}-") for traditional in TRADITIONAL):
        return "chi_tra"
    return TESSERACT.get(code, code)


def _read_with_tesseract(picture: "Image", language: str | None, psm: int | None = None) -> Reading:
    import pytesseract

    mode = psm or (7 if picture.width >= LINE * picture.height else 6)
    with _one_thread_in_programs():
        words = pytesseract.image_to_data(
            picture, language, f"--psm {mode}", output_type=pytesseract.Output.DICT
        )
    lines: dict[tuple, list[str]] = {}
    confidences = []
    for text, confidence, *line in zip(
        *(words[key] for key in ("text", "conf", "block_num", "par_num", "line_num"))
    ):
        if float(confidence) >= 0 and text.strip():
            lines.setdefault(tuple(line), []).append(text)
            confidences.append(max(float(confidence) / 100, 1e-6))
    text = "\n".join(" ".join(line) for line in lines.values())
    # Tesseract puts spaces between Chinese words and marks that the page does not have.
    text = regex.sub(rf"(?<={HAN}) (?={HAN})", "", text)
    # The geometric mean over words.
    mean = math.exp(sum(map(math.log, confidences)) / len(confidences)) if confidences else None
    return Reading(text, mean)


@contextmanager
def _one_thread_in_programs() -> Generator[None]:
    """Let programs that are started meanwhile use one thread, unless the user chose a number.

    On a single line several threads wait for each other, on a busy machine for minutes. The limit
    must not outlast the program: torch, imported later, would train with one thread.
    """
    chosen = os.environ.get("OMP_THREAD_LIMIT")
    os.environ["OMP_THREAD_LIMIT"] = chosen or "1"
    try:
        yield
    finally:
        if not chosen:
            del os.environ["OMP_THREAD_LIMIT"]


# --- RapidOCR


@cache
def _rapidocr() -> Any:
    """The models that lie in RapidOCR's package, loaded once; nothing is downloaded."""
    try:
        from rapidocr import RapidOCR

        # One thread: of two, on a line, one waits and takes a core's whole time for it.
        threads = {"EngineConfig.onnxruntime.intra_op_num_threads": 1}
        return RapidOCR(params={"Global.log_level": "error", **threads})
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"RapidOCR cannot be run ({error}): `pip install rapidocr onnxruntime`."
        ) from None


def _read_with_rapidocr(picture: "Image", language: str | None = None) -> Reading:
    engine = _rapidocr()
    if picture.height >= PAGE_HEIGHT and picture.width < LINE * picture.height:
        page = engine(picture, use_det=True, use_cls=True, use_rec=True)
        lines = _lines(page.boxes, page.txts) if page.txts else []
        # A single line is read better from the whole picture than from its cut-out parts.
        if len(lines) > 1:
            return Reading("\n".join(lines), sum(page.scores) / len(page.scores))
    line = engine(picture, use_det=False, use_cls=False, use_rec=True)
    return Reading(line.txts[0], line.scores[0]) if line.txts else Reading("", None)


def _lines(boxes: "np.ndarray", texts: Sequence[str]) -> list[str]:
    """Join the texts of boxes (n, 4 corners, 2) that lie side by side, from top to bottom."""
    lines: list[list[tuple[float, str]]] = []
    bottom = -1.0
    tops, bottoms = boxes[:, :, 1].min(1), boxes[:, :, 1].max(1)
    for number in ((tops + bottoms) / 2).argsort():
        if (tops[number] + bottoms[number]) / 2 > bottom:
            lines.append([])
            bottom = bottoms[number]
        lines[-1].append((boxes[number, :, 0].min(), texts[number]))
    return [" ".join(text for _, text in sorted(line)) for line in lines]


def detect_boxes(picture: "Image") -> list:
    """Corners of the lines that RapidOCR's detector finds, (4, 2) each, in no certain order.

    Raises:
        RuntimeError: RapidOCR is not installed.
    """
    boxes = _rapidocr()(picture, use_det=True, use_cls=False, use_rec=False).boxes
    return [] if boxes is None else boxes.tolist()


def unknown_letters(texts: Iterable[str]) -> tuple[float, str]:
    """Tell which letters of the texts RapidOCR's model cannot write.

    Returns:
        Their share among all letters, and the script of most of them (`Hangul`, `Bengali`; `other`
        where it is none that `ocrkit.metrics.text.script` names).
    """
    engine = _rapidocr()
    if engine.text_rec is None:
        from PIL import Image

        engine(Image.new("RGB", (48, 48)), use_det=False, use_cls=False, use_rec=True)
    known = set(engine.text_rec.postprocess_op.character)
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    unknown = {letter: count for letter, count in letters.items() if letter not in known}
    share = sum(unknown.values()) / (letters.total() or 1)
    most = script("".join(letter * count for letter, count in unknown.items()))
    return share, "other" if most == "Common" else most
