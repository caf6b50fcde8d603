"""Drafts of a labelling folder: readings by any reader, and corrections by a simulated person."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Indel
from tqdm.auto import tqdm

from data_prep.dataset.files import json_lines, naming, to_bytes
from ocrkit.data.rows import Row
from ocrkit.evaluation.labelling import DRAFTS, Labels
from ocrkit.models.base import ENGINES

if TYPE_CHECKING:
    from ocrkit.config import TrainConfig


def draft(
    labels: Labels, reader: str, config: "TrainConfig", model: str = "", doubts: bool = True
) -> Labels:
    """Read every picture that has no draft yet, the answers of an earlier run being kept.

    Args:
        labels: the labelling folder.
        reader: `rapidocr`, `tesseract`, `tiny`, a model or run folder, or a server's address.
        config: settings of reading.
        model: the name of the model on the server.
        doubts: mark doubtful characters, where the reader tells how sure it is of each.

    Returns:
        The labels, the least sure first.
    """
    path = labels.folder / DRAFTS
    rows = labels.rows()
    for result in tqdm(_stream(reader, config, model, doubts, rows), "drafts", len(rows), delay=2):
        keys = ("id", "prediction", "confidence", "error", "doubts")
        line = {key: result[key] for key in keys if key in result} | {"reader": reader}
        labels.drafts[result["id"]] = line
        with naming(path), path.open("ab") as file:
            file.write(to_bytes(json_lines([line])))
    labels.order()
    return labels


def _stream(
    reader: str, config: "TrainConfig", model: str, doubts: bool, rows: list[Row]
) -> Iterable[Mapping[str, Any]]:
    if not rows:
        return ()
    if reader in ENGINES:
        from ocrkit.evaluation.engines import open_engine, read_rows

        return read_rows(rows, open_engine(reader, rows))
    if reader.startswith(("http://", "https://")):
        from ocrkit.evaluation.server import ServerReader

        return ServerReader(reader, model, config, doubts=doubts).read_stream(rows)
    from ocrkit.models.load import load_model
    from ocrkit.models.read import Reader

    config = replace(config, model_name_or_path=reader)
    return Reader(*load_model(config), config, doubts=doubts).read_stream(rows)


# --- simulated corrections


def simulate(labels: Labels, truths: Mapping[str, str], count: int | None = None) -> dict[str, int]:
    """Answer with the truth in place of a person, the next pictures first.

    Keystrokes are counted as one a character typed or deleted, moves of the cursor left out, and
    Enter; a draft that takes more than typing anew is cleared with two.

    Args:
        labels: the labelling folder.
        truths: {id: text}; without a text the picture is skipped.
        count: of pictures; None answers all.

    Returns:
        {pictures, characters, typed, corrected}: keystrokes without and with drafts.
    """
    totals = {"pictures": 0, "characters": 0, "typed": 0, "corrected": 0}
    while (sample := labels.next()) and (count is None or totals["pictures"] < count):
        text = truths.get(sample["id"], "")
        began = time.perf_counter()
        labels.answer(sample["id"], "take" if text else "skip", text, time.perf_counter() - began)
        typed = len(text) + 1
        totals["pictures"] += 1
        totals["characters"] += len(text)
        totals["typed"] += typed
        totals["corrected"] += min(keystrokes(labels.draft_of(sample), text), typed + 2)
    return totals


def keystrokes(draft: str, text: str) -> int:
    """Keys to make a text of a draft, and Enter: a character replaced takes two."""
    return Indel.distance(draft, text) + 1
