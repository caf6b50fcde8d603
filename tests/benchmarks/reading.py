"""Reading: generation for an evaluation, and metrics over many pairs, each beside its peer."""

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.drawn import noisy_pairs, printed_lines
from tests.benchmarks.measure import in_turns, limit_row, ratio_row


def generation(folder: Path, rounds: int = 3, count: int = 192, single: int = 24) -> list[dict]:
    """Samples per second of the embedded model: the kit, batches in file order, one at a time.

    Args:
        single: rows that are read one at a time, evenly chosen.
    """
    from dataclasses import replace

    from ocrkit.config import TrainConfig
    from ocrkit.data.load import load_data
    from ocrkit.models.load import load_model
    from ocrkit.models.read import predict_stream

    printed_lines(folder / "data", count)
    config = TrainConfig.from_recipe(
        "quickstart",
        dataset=str(folder / "data"),
        output_dir=str(folder / "run"),
        backend="transformers",
        use_peft=False,
        # As many batches as an evaluation of some hundred rows has.
        per_device_eval_batch_size=24,
    )
    model, processor = load_model(config)
    rows = load_data(config)["train"].select(range(count))
    few = rows.select(range(0, count, count // single))
    size = config.per_device_eval_batch_size

    def read(part: Any, settings: TrainConfig) -> None:
        list(predict_stream(model, processor, part, settings))

    def in_file_order() -> None:
        for start in range(0, count, size):
            read(rows.select(range(start, min(start + size, count))), config)

    def one_by_one() -> None:
        for number in range(len(few)):
            read(few.select([number]), replace(config, per_device_eval_batch_size=1))

    sides = {"ours": lambda: read(rows, config), "order": in_file_order, "single": one_by_one}
    seconds = in_turns(sides, rounds)
    inputs = f"{count} lines, as short and long as on receipts, embedded model, batches of {size}"
    counted: dict[str, Any] = {"unit": "samples/s", "count": count, "inputs": inputs}
    what = "generation for evaluation"
    return [
        ratio_row(
            what,
            f"one generate call a sample ({len(few)} of the lines)",
            seconds["ours"],
            seconds["single"],
            8,
            their_count=len(few),
            **counted,
        ),
        ratio_row(what, "batches in file order", seconds["ours"], seconds["order"], 1.5, **counted),
    ]


def metrics(folder: Path, rounds: int = 3, count: int = 100_000) -> list[dict[str, Any]]:
    """CER, NED, matches and confusions of pairs of texts beside jiwer's alignment, in CPU time."""
    import jiwer

    from ocrkit.metrics import bootstrap_ci
    from ocrkit.metrics.edits import process_edits

    rows = []
    for rate in (0.05, 0.3):
        references, predictions = noisy_pairs(count, rate)

        def ours(pair: tuple = (references, predictions)) -> None:
            edits = process_edits(*pair)
            # Counted when they are asked for.
            assert edits.cer.rate and edits.confusions and edits.exact_match.rate < 1
            assert edits.ned_similarity.rate

        def theirs(pair: tuple = (references, predictions)) -> None:
            jiwer.process_characters(*pair)

        sides = {"ours": ours, "theirs": theirs}
        seconds = in_turns(sides, rounds, time.process_time)
        inputs = f"{count:,} pairs of 30 characters in four scripts, {rate:.0%} errors, CPU time"
        what = f"CER, NED, matches, confusions, {rate:.0%} errors"
        rows.append(
            ratio_row(
                what,
                "jiwer.process_characters",
                seconds["ours"],
                seconds["theirs"],
                aim=None,
                unit="pairs/s",
                count=count,
                inputs=inputs,
            )
        )
        tally = process_edits(references, predictions).cer

        def replicates(tally: Any = tally) -> None:
            bootstrap_ci(*tally, n=1000)

        took = in_turns({"ours": replicates}, rounds, time.process_time)["ours"]
        what = f"1,000 bootstrap replicates, {rate:.0%} errors"
        rows.append(limit_row(what, took, "s", 1, inputs))
    return rows
