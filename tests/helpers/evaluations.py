"""Rows with drawn pictures, records, and two evaluations of the same rows."""

import json

from PIL import Image

from ocrkit.evaluation.evaluation import score

TRUTH = ["TOTAL 9.00", "ক্ষুধার্ত মানুষ", "서울특별시", "北京大学", "a < b & c", ""]


def rows(count: int = 6) -> list[dict]:
    """Rows of a dataset; the grey value of a row's picture is its number."""
    return [
        {
            "id": f"r{number}",
            "prompt": [{"role": "user", "content": "Read."}],
            "completion": [{"role": "assistant", "content": f"line {number}"}],
            "images": [Image.new("L", (8, 8), number)],
            "language": "en",
            "group": f"g{number // 2}",
            "task": "transcription",
            "source": "drawn",
            "meta": json.dumps({"need_external_knowledge": number % 2 == 0, "box": [1, 2]}),
        }
        for number in range(count)
    ]


def records(predictions: list[tuple], **more: object) -> list[dict]:
    """Records of (reference, prediction) pairs, two in a group."""
    return [
        {"id": n, "reference": reference, "prediction": prediction, "group": n // 2, **more}
        for n, (reference, prediction) in enumerate(predictions)
    ]


BASE = score(records([(text, text[:2] + "x") for text in TRUTH]), "base")
TUNED = score(
    records([(text, text[:-1] + "!" if "<" in text else text) for text in TRUTH]), "tuned"
)
