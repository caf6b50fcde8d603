"""Tesseract, through pytesseract: its language of each row, and its reading of each picture."""

import math
import os
from collections.abc import Iterator
from typing import Any

import regex

from data_prep.dataset.pictures import open_image
from ocrkit.data.rows import first_picture, without_images

#: Tesseract's names of the languages that rows carry.
TESSERACT = {"bn": "ben", "ko": "kor", "zh": "chi_sim", "en": "eng"}
TRADITIONAL = {"zh-hant", "zh-tw", "zh-hk", "zh-mo"}
HAN = r"[\p{Han}\u3000-\u303f\uff00-\uff65]"  # with the marks that Chinese is set with


# --- engines


def _tesseract_language(row: dict) -> str:
    code = (row.get("language") or "en").lower().replace("_", "-")
    if any(code == tag or code.startswith(f"{tag}-") for tag in TRADITIONAL):
        return "chi_tra"
    code = code.split("-")[0]
    return TESSERACT.get(code, code)


def _tesseract(rows: Any, language: str | None, psm: int | None) -> Iterator[dict]:
    from tqdm.auto import tqdm

    # Its threads wait for one another on a single line, and for minutes where the machine is busy.
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")
    for number, row in enumerate(tqdm(without_images(rows), desc="tesseract", delay=2)):
        item = {"id": row["id"], "prediction": None, "confidence": None, "finish_reason": None}
        try:
            picture = first_picture(rows, number)
            if picture is None:
                raise ValueError("the row has no picture")
            item |= _tesseract_one(picture, language or _tesseract_language(row), psm)
            yield item | {"finish_reason": "stop", "error": None}
        except (RuntimeError, OSError, ValueError) as error:  # pytesseract's are RuntimeErrors
            yield item | {"error": str(error)}


def _tesseract_one(picture: Any, language: str, psm: int | None) -> dict:
    import pytesseract

    picture = open_image(picture)
    mode = psm or (7 if picture.width >= 3 * picture.height else 6)
    words = pytesseract.image_to_data(
        picture, language, f"--psm {mode}", output_type=pytesseract.Output.DICT
    )
    lines: dict[tuple, list[str]] = {}
    sure = []
    for text, confidence, *line in zip(
        *(words[key] for key in ("text", "conf", "block_num", "par_num", "line_num"))
    ):
        if float(confidence) >= 0 and text.strip():
            lines.setdefault(tuple(line), []).append(text)
            sure.append(max(float(confidence) / 100, 1e-6))
    text = "\n".join(" ".join(line) for line in lines.values())
    # Tesseract cuts Chinese into words and marks, which the page does not space.
    text = regex.sub(rf"(?<={HAN}) (?={HAN})", "", text)
    confidence = math.exp(sum(map(math.log, sure)) / len(sure)) if sure else None
    return {"prediction": text, "confidence": confidence}
