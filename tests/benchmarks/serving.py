"""Serving an export: llama.cpp's server beside the model that the export was made from."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from ocrkit.config import TrainConfig
from ocrkit.evaluation.evaluation import Evaluation
from tests.helpers.llama_cpp import (
    SERVED_NAME,
    command_of_page,
    patched_llama_cpp,
    reader_for_llama_cpp,
    served,
)
from tests.helpers.unsloth_jobs import run_unsloth, unsloth_job

ROWS = 200


def exported_reader(work: Path, llama_cpp: Path) -> TrainConfig:
    """Export the embedded reader as GGUF into `work / "gguf"`; returns the settings of reading it.

    Args:
        work: a folder for model, files and evaluations, emptied first.
        llama_cpp: a built llama.cpp.
    """
    from data_prep.synthetic.receipts import thermal_receipts

    shutil.rmtree(work, ignore_errors=True)
    (work / "llama.cpp").mkdir(parents=True)
    # The lines of `make demo`.
    thermal_receipts(work / "lines", receipts=300, seed=42, progress=False)
    config = TrainConfig.from_recipe(
        "quickstart",
        dataset=str(work / "lines"),
        model_name_or_path=str(reader_for_llama_cpp(work / "reader")),
        output_dir=str(work / "run"),
        dtype="float32",
        max_eval_samples=ROWS,
    )
    job = unsloth_job(work, config) | {"untrained": True, "gguf": str(work / "gguf")}
    place = {"UNSLOTH_LLAMA_CPP_PATH": str(patched_llama_cpp(llama_cpp, work / "llama.cpp"))}
    (result,) = run_unsloth(work, job, UNSLOTH_OFFLINE="1", **place)
    assert "error" not in result, result["error"]
    return config


def serving(config: TrainConfig, program: Path) -> dict[str, Any]:
    """Figures of `alike` and `rates` of a server of the export, and how busy the machine was.

    Args:
        config: from `exported_reader`.
        program: path of llama-server.
    """
    from ocrkit.data.load import load_data

    with served(program, command_of_page(gguf_folder(config))) as server:
        figures = alike(config, server.url)
        figures["lines an hour"] = rates(server.url, load_data(config)["train"], config)
    return figures | {"load": round(os.getloadavg()[0], 1)}


def gguf_folder(config: TrainConfig) -> Path:
    """Folder of the files that `exported_reader` wrote."""
    return Path(config.output_dir).parent / "gguf"


def alike(config: TrainConfig, url: str) -> dict[str, Any]:
    """Rows that the model and its export read the same, and CER of each.

    The export is read by llama-mtmd-cli, as `export` checks it, and by a server: with pictures as
    the model's processor makes them, and once more with pictures left as they are.
    """
    from ocrkit.data.load import load_data
    from ocrkit.evaluation.evaluate import evaluate, evaluate_server
    from ocrkit.evaluation.evaluation import score
    from ocrkit.models.gguf import llama_cpp_reader, read_gguf
    from ocrkit.models.load import load_model

    rows = load_data(config)["test"]
    loaded, processor = load_model(config)
    model = evaluate(loaded, processor, rows, config, name="model")
    figures: dict[str, Any] = {"rows": len(rows), "model": {"cer": model.metrics["cer"]}}
    program = llama_cpp_reader()
    assert program, "llama-mtmd-cli lies beside llama-server"
    texts = read_gguf(program, gguf_folder(config), processor, list(rows), config)
    by_id = dict(zip(map(str, rows["id"]), texts))
    records = [{**record, "prediction": by_id[str(record["id"])]} for record in model.records]
    figures["program"] = same_rows(model, score(records, "program", config.normalization_profile))
    for name, processor in (("server", config.model_name_or_path), ("unfitted", None)):
        read = evaluate_server(url, SERVED_NAME, rows, config, name, processor=processor)
        figures[name] = same_rows(model, read)
    return figures


def rates(url: str, rows: Any, config: TrainConfig, rounds: int = 3, count: int = 30) -> dict:
    """Lines an hour with eight requests at once and with one: medians of rounds.

    Every line is read once: the server keeps what it computed of a picture.

    Args:
        rows: at least 2 * `rounds` * `count` rows that the server was not asked yet.
        rounds: how often each is measured, in turns.
        count: lines of a round.
    """
    from ocrkit.evaluation.server import ServerReader

    processor = config.model_name_or_path
    seconds: dict[int, list[float]] = {8: [], 1: []}
    for number in range(2 * rounds):
        requests = (8, 1)[number % 2]
        part = rows.select(range(number * count, (number + 1) * count))
        began = time.perf_counter()
        reader = ServerReader(url, SERVED_NAME, config, requests, processor=processor)
        answers = list(reader.read_stream(part))
        seconds[requests].append(time.perf_counter() - began)
        assert not any(answer["error"] for answer in answers)
    # Rounded to hundreds.
    return {str(key): round(count / median(own) * 3600, -2) for key, own in seconds.items()}


def same_rows(model: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Rows that both read the same, with a 95 % interval, failed ones, and the other's CER."""
    from ocrkit.metrics import wilson

    texts: list[Mapping[str, str]] = [
        {str(record["id"]): record["prediction"] for record in evaluation.records}
        for evaluation in (model, other)
    ]
    same = sum(text == texts[1][key] for key, text in texts[0].items())
    low, high = wilson(same, len(texts[0]))
    share = {"value": same / len(texts[0]), "low": low, "high": high}
    return {"same": same, "share": share, "failed": other.failed, "cer": other.metrics["cer"]}
