"""Tesseract through pytesseract: its check, its language of each row, its readings."""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import regex

from data_prep.dataset.pictures import open_image
from ocrkit.data.rows import first_picture, without_images

#: Tesseract's codes by the language of a row.
TESSERACT = {"bn": "ben", "ko": "kor", "zh": "chi_sim", "en": "eng"}
TRADITIONAL = {"zh-hant", "zh-tw", "zh-hk", "zh-mo"}
HAN = r"[\p{Han}\u3000-\u303f\uff00-\uff65]"  # with Chinese punctuation


def check_tesseract(languages: Collection[str]) -> str:
    """Return Tesseract's version, if it runs and has the languages, such as `kor+eng`.

    Raises:
        ValueError: Tesseract lacks a language.
        RuntimeError: Tesseract or pytesseract is not installed.

    """
    try:
        import pytesseract

        version = str(pytesseract.get_tesseract_version())
        installed = set(pytesseract.get_languages())
    except (ImportError, OSError, SystemExit) as error:
        raise RuntimeError(
            f"Tesseract cannot be run ({error}): install pytesseract and the package tesseract-ocr."
        ) from None
    for code in sorted(code for codes in languages for code in codes.split("+")):
        if code not in installed:
            raise ValueError(
                f"Tesseract has no data for {code!r}: install tesseract-ocr-"
                f"{code.replace('_', '-')}, or pass a language that it has "
                f"({', '.join(sorted(installed - {'osd'}))})."
            )
    return version


def tesseract_language(row: Mapping[str, Any]) -> str:
    """Return Tesseract's code of a row's language; English where a row has none."""
    code = (row.get("language") or "en").lower().replace("_", "-")
    if any(code == tag or code.startswith(f"{tag}-") for tag in TRADITIONAL):
        return "chi_tra"
    code = code.split("-")[0]
    return TESSERACT.get(code, code)


def read_rows(rows: Any, language: str | None, psm: int | None) -> Iterator[dict[str, Any]]:
    """Yield {id, prediction, confidence, finish_reason, error} of every row.

    Args:
        rows: a `datasets.Dataset` or a list of dicts.
        language: Tesseract's code; None takes each row's language.
        psm: page segmentation mode, as for `evaluate_engine`.

    """
    from tqdm.auto import tqdm

    # One thread: on a single line several wait for each other, on a busy machine for minutes.
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")
    for number, row in enumerate(tqdm(without_images(rows), desc="tesseract", delay=2)):
        item = {"id": row["id"], "prediction": None, "confidence": None, "finish_reason": None}
        try:
            picture = first_picture(rows, number)
            if picture is None:
                raise ValueError("the row has no picture")
            item |= _read(picture, language or tesseract_language(row), psm)
            yield item | {"finish_reason": "stop", "error": None}
        except (RuntimeError, OSError, ValueError) as error:  # pytesseract's are RuntimeErrors
            yield item | {"error": str(error)}


def _read(image: Any, language: str, psm: int | None) -> dict[str, Any]:
    import pytesseract

    picture = open_image(image)
    mode = psm or (7 if picture.width >= 3 * picture.height else 6)
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
    return {"prediction": text, "confidence": mean}
