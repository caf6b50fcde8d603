"""Rounds of labelling with the truth in place of a person: which pictures to correct, and keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import ratio_row

SAMPLE = "korean"
ROUND_SIZE = 60
STEPS = 40
SEEDS = (42, 43, 44)


def rounds(
    work: Path,
    seeds: Sequence[int] = SEEDS,
    round_size: int = ROUND_SIZE,
    steps: int = STEPS,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of two rounds on a shipped sample; the first holds a line a seed, choice and round.

    Args:
        work: a folder for the runs.
        limit: use only the first rows of the sample.
    """
    from ocrkit import TrainConfig, load_data
    from ocrkit.places import sample
    from ocrkit.training.rounds import rounds as run_rounds

    config = TrainConfig.from_recipe(
        "tiny",
        dataset=str(sample(SAMPLE)),
        output_dir=str(work),
        max_steps=steps,
        max_train_samples=limit,
        max_eval_samples=limit,
    )
    data = load_data(config)
    lines = [
        {name: value for name, value in line.items() if name != "evaluation"}
        for line in run_rounds(config, data, round_size, seeds)
    ]
    last = max(line["round"] for line in lines)
    sides = [
        [line["cer"]["value"] for line in lines if (line["choice"], line["round"]) == (side, last)]
        for side in ("least sure", "random")
    ]
    inputs = f"{SAMPLE} sample, {len(data['train'])} lines to label, {len(data['test'])} to test"
    rates = ratio_row(
        f"labelling: CER after {last * round_size} of the least sure pictures",
        "as many random pictures",
        *([100 * rate for rate in rates] for rates in sides),
        aim=None,
        unit="%",
        inputs=inputs,
    )
    keys = ratio_row(
        "labelling: keys to correct the drafts of a round",
        "typing what the pictures say",
        [line["corrected"] for line in lines],
        [line["typed"] for line in lines],
        aim=None,
        unit="keys",
        inputs=inputs,
    )
    return [{**rates, "figures": {"lines": lines, "steps": steps, "inputs": inputs}}, keys]
