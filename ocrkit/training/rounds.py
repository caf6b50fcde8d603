"""Rounds of labelling, simulated: draft, correct the next pictures, train, draft again.

For the same number of corrected pictures: the error rate after training on those of which the model
was least sure beside random ones, and keystrokes with drafts beside typing.
"""

import gc
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import DatasetDict

from ocrkit.config import TrainConfig
from ocrkit.data.rows import select_rows, text_of, without_images
from ocrkit.display.tables import Table, interval
from ocrkit.evaluation.drafts import keystrokes
from ocrkit.evaluation.evaluate import evaluate
from ocrkit.metrics.edits import process_cer
from ocrkit.models.load import load_model
from ocrkit.models.read import predict_stream
from ocrkit.training.train import train

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    from ocrkit.models.read import Prediction

CHOICES = ("least sure", "random")


def rounds(
    config: TrainConfig,
    data: "Mapping[str, Dataset]",
    round_size: int,
    seeds: Sequence[int],
    count: int = 2,
    choices: Sequence[str] = CHOICES,
) -> list[dict[str, Any]]:
    """Run rounds with the truth in place of a person, from the same base each time.

    Args:
        config: settings of training; `max_steps` are the steps of each round.
        data: `train` is what there is to label, `test` what is measured.
        round_size: pictures corrected in a round.
        seeds: of the choice of random pictures and of training.
        count: rounds.
        choices: of `CHOICES`.

    Returns:
        A line a round: {seed, choice, round, pictures, cer, evaluation, draft_cer, typed,
        corrected}; keystrokes and the drafts' rate are of the pictures corrected in that round.
    """
    return [
        line
        for seed in seeds
        for choice in choices
        for line in _rounds(replace(config, seed=seed), data, round_size, choice, count)
    ]


def _rounds(
    config: TrainConfig, data: "Mapping[str, Dataset]", size: int, choice: str, count: int
) -> list[dict[str, Any]]:
    unlabelled = list(range(len(data["train"])))
    random.Random(config.seed).shuffle(unlabelled)
    truths = [text_of(row["completion"]) for row in without_images(data["train"])]
    labelled: list[int] = []
    lines = []
    folder = Path(config.output_dir) / "rounds" / f"{choice.replace(' ', '-')}-{config.seed}"
    model, processor = load_model(config)
    for number in range(1, count + 1):
        drafts = _drafts(model, processor, select_rows(data["train"], unlabelled), config)
        order = list(range(len(unlabelled)))
        if choice == "least sure":
            order.sort(key=lambda place: drafts[place]["confidence"] or 0.0)
        chosen = order[:size]
        texts = [(drafts[place]["prediction"], truths[unlabelled[place]]) for place in chosen]
        typed = [len(truth) + 1 for _, truth in texts]
        corrected = [
            min(keystrokes(text, truth), keys + 2) for (text, truth), keys in zip(texts, typed)
        ]
        labelled += [unlabelled[place] for place in chosen]
        unlabelled = [row for place, row in enumerate(unlabelled) if place not in set(chosen)]
        # From the base each time: what differs is the pictures alone.
        del model, processor
        gc.collect()
        own = replace(
            config,
            output_dir=str(folder / str(number)),
            eval_steps=None,
            load_best_model_at_end=False,
        )
        model, processor = load_model(own)
        rows = DatasetDict({"train": select_rows(data["train"], labelled)})
        train(model, processor, rows, own)
        evaluation = evaluate(model, processor, data["test"], own, name="tuned")
        lines.append(
            {
                "seed": config.seed,
                "choice": choice,
                "round": number,
                "pictures": len(labelled),
                "cer": evaluation.metrics["cer"],
                "evaluation": evaluation,
                "draft_cer": process_cer(
                    [truth for _, truth in texts], [text for text, _ in texts]
                ).rate,
                "typed": sum(typed),
                "corrected": sum(corrected),
            }
        )
    return lines


def _drafts(
    model: "PreTrainedModel", processor: "ProcessorMixin", rows: "Dataset", config: TrainConfig
) -> "list[Prediction]":
    read = {result["id"]: result for result in predict_stream(model, processor, rows, config)}
    return [read[id] for id in rows["id"]]


def rounds_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the rounds: a row a choice, round and seed."""
    in_order = sorted(lines, key=lambda line: (line["round"], line["choice"], line["seed"]))
    return Table(
        [
            {
                "pictures": line["pictures"],
                "choice": line["choice"],
                "seed": line["seed"],
                "CER on test rows": interval(line["cer"]),
                "CER of drafts": f"{line['draft_cer']:.1%}",
                "keys": line["corrected"],
                "typing": line["typed"],
            }
            for line in in_order
        ]
    )
