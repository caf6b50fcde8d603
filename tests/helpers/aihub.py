"""Label files and archives as AI Hub lays them out."""

import json
import zipfile

from tests.helpers.sources_common import draw, encoded


def outdoor(name="a.jpg", words=(), size=(200, 100), **more) -> dict:
    boxes = [{"id": 1, "bbox": box, "text": text} for text, box in words]
    image = {"file_name": name, "width": size[0], "height": size[1]}
    return {
        "images": [image],
        "annotations": boxes,
        "metadata": [{"wordorientation": "가로"}],
    } | more


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


WORDS = [
    ("둘", [60, 12, 40, 20]),
    ("하나", [10, 10, 40, 20]),
    ("xxx", [120, 10, 40, 20]),
    ("셋", [10, 50, 40, 20]),
]


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in files.items():
            data = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            archive.writestr(name, data)
    return path


def jpeg(mark):
    return encoded(draw((200, 100), mark=mark), "JPEG")


def wild(images, annotations):
    fields = ("id", "image_id", "bbox", "text")
    rows = [dict(zip(fields, row[:4])) | {"attributes": {"class": row[4]}} for row in annotations]
    return {"info": {"name": "TextInTheWild"}, "images": images, "annotations": rows}
