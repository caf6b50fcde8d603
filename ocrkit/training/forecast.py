"""Forecast of a run on GPUs that are not at hand: memory, largest batch and hours, a line a card.

A step is simulated (`ocrkit.training.simulation`) in a process of its own, since Unsloth has to be
imported before transformers; it needs a model's config.json and processor files, and no weights.
"""

import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ocrkit.config import TrainConfig
from ocrkit.display.notebook import show
from ocrkit.display.tables import Table
from ocrkit.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

GIB = 2**30
# Peak memory is trusted up to this factor, and CUDA's context, cuBLAS and the code of kernels take
# this many GiB beside torch's allocator.
MARGIN, CONTEXT = 1.2, 0.5
# Share of a card's peak that its matrix products reach, share of its bandwidth, and seconds that
# launching a kernel takes: with these a step is its roofline. Published runs took 1.3 to 3 times.
_PRODUCTS, _BANDWIDTH, _LAUNCH = 0.5, 0.8, 8e-6
SLOWEST = 3
# Architectures whose simulated peaks were held to real ones on a CPU or to published ones.
MEASURED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "paddleocr_vl", "gemma3")
# Model types whose memory under Unsloth is not known, and why.
UNKNOWN_UNDER_UNSLOTH = {
    "mllama": "Unsloth recomputes other layers of Llama-3.2-Vision than transformers"
}


@dataclass(frozen=True)
class Card:
    """Card as its maker states it, and the memory that torch finds on it.

    Attributes:
        tflops: dense products in 16 bits, summed in float32, in 10^12 operations a second.
        bandwidth: in GB a second; None, as `tflops`, where only the memory is given.
        gib: of memory, in GiB, as torch reports it.
    """

    name: str
    gib: float
    tflops: float | None = None
    bandwidth: float | None = None
    bfloat16: bool = True


# NVIDIA's data sheets of each card (where a sheet states products with sparsity: half of them):
# T4 2019, L4 2023, A10 2021, L40S 2023, A100 2021 (SXM), H100 and H200 (SXM), the architecture
# whitepapers GA102, Ada (AD102) and Blackwell (GB202) for GeForce; A10G: AWS's page of its G5.
CARDS = {
    card.name: card
    for card in (
        Card("t4", 14.56, 65, 320, bfloat16=False),
        Card("rtx3090", 23.5, 71, 936),
        Card("rtx4090", 23.5, 165, 1008),
        Card("rtx5090", 31.3, 209, 1792),
        Card("l4", 22.0, 121, 300),
        Card("a10", 22.0, 125, 600),
        Card("a10g", 22.0, 70, 600),
        Card("l40s", 44.4, 362, 864),
        Card("a100-40", 39.4, 312, 1555),
        Card("a100-80", 79.1, 312, 2039),
        Card("h100", 79.1, 989, 3350),
        Card("h200", 139.7, 989, 4800),
    )
}
# Share of the gigabytes on a card's label that torch finds at least (T4: 14.56 of 16).
_USABLE = 0.91


def parse_cards(text: str) -> list[Card]:
    """Cards of a list such as "t4,a100-80,24GB".

    Raises:
        ConfigError: a name that is not known.
    """
    cards = []
    for name in filter(None, (part.strip().lower() for part in text.split(","))):
        if size := re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b", name):
            if not 1 <= float(size[1]) <= 4096:
                raise ConfigError(f"--on {name} is no memory of a card; give 1GB to 4096GB.")
            cards.append(Card(name, round(_USABLE * float(size[1]), 2)))
            continue
        plain = re.sub(r"nvidia|geforce|tesla|\s|gb$|_", "", name)
        known = next((key for key in (plain, f"rtx{plain}") if key in CARDS), None)
        if known is None:
            raise ConfigError(
                f"--on {name!r} is no card of the list: {', '.join(CARDS)}; or give the memory of "
                "any card, as 24GB."
            )
        cards.append(CARDS[known])
    if not cards:
        raise ConfigError(f"--on {text!r} names no card; give some of {', '.join(CARDS)}, or 24GB.")
    return cards


@dataclass
class CardForecast:
    """Forecast for a card.

    Attributes:
        verdict: "fits", "tight" or "does not fit".
        batch: training samples a step of the forecast; of "auto" the largest power of 2 that fits.
        peak_gib: most memory of a step, in GiB, without `CONTEXT`.
        parts: {weights, adapters, gradients, optimizer, logits, activations: GiB of the peak}.
        largest_batch: the largest that fits, 0 for none.
        hours: (least, most) of training, without evaluations; None where that is not known.
    """

    card: str
    gib: float
    verdict: str
    batch: int
    peak_gib: float
    parts: dict[str, float]
    largest_batch: int
    hours: tuple[float, float] | None


@dataclass
class Forecast:
    """Forecast of a run, a line a card.

    Attributes:
        architecture: the model's `model_type`.
        longest: tokens of the longest training sample.
        steps: optimizer steps of the run.
        notes: sentences on what is not known.
    """

    model: str
    architecture: str
    longest: int
    steps: int
    cards: list[CardForecast]
    notes: list[str]

    def table(self) -> Table:
        """The forecast as a table: what decides comes first, the parts of the memory last."""
        names = ["weights", "adapters", "gradients", "optimizer", "logits", "activations"]
        rows = [
            {
                "card": card.card,
                "GiB": f"{card.gib:.1f}",
                "": card.verdict,
                "hours": " to ".join(map(_hours, card.hours)) if card.hours else "not known",
                "largest batch": card.largest_batch or "none",
                "batch": card.batch,
                "peak": f"{card.peak_gib:.2f}",
                **{name: f"{round(card.parts.get(name, 0), 2) + 0:.2f}" for name in names},
            }
            for card in self.cards
        ]
        text = f"forecast, not measured: {self.model}, {self.steps} steps, longest sample "
        text += f"{self.longest} tokens; memory in GiB"
        return Table(rows, "\n".join([text, *self.notes]), wide=True)


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


def forecast(
    config: TrainConfig, data: "DatasetDict", on: str = "t4,l4,a100-40,a100-80,h100"
) -> Forecast:
    """Forecast which card holds a run, its peak memory and its hours, and print it.

    No weights are loaded and no GPU is used: the longest training row is collated (with blank
    pictures of its sizes), and a step of the model is simulated for it once and twice; the peak of
    larger batches follows, since it grows by the same amount with each row. A card fits where 1.2
    times the peak and half a GiB are below its memory; it does not where the peak and half a GiB
    are above it; between, it is tight. Hours are 1 to 3 times the roofline of all training batches,
    for adapters alone.

    Args:
        config: settings of the run.
        data: as `load_data` returns it.
        on: cards, separated by commas: names of `CARDS`, or a memory such as "24GB".

    Raises:
        ConfigError: a card that is not known.
        DataError: no training row, or none that fits the context.
        ModelError: no config.json, no network, or a model that cannot be simulated.
    """
    cards = parse_cards(on)
    from ocrkit.training.rows import epoch_samples

    if "train" not in data:
        raise DataError(f"{config.dataset} has no train split; it has {', '.join(map(str, data))}.")
    rows = epoch_samples(data, config)
    columns = [name for name in ("id", "prompt", "completion", "sizes") if name in rows.features]
    job = {"config": config.to_dict(), "cards": cards, "rows": rows.select_columns(columns)}
    fields = _in_own_process(pickle.dumps(job))
    lines = [CardForecast(**card) for card in fields.pop("cards")]
    result = Forecast(**fields, cards=lines)
    show(result.table())
    return result


def _in_own_process(job: bytes) -> dict[str, Any]:
    """Run `simulated` on a pickled job in a new process, and show its progress."""
    root = f"{Path(__file__).parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "MASTER_ADDR")}
    command = [sys.executable, "-m", "ocrkit.training.forecast"]
    pipe = subprocess.PIPE
    result: dict[str, Any] = {}
    with (
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment | hidden
        ) as process,
        tqdm(total=4, desc="forecast", bar_format="{desc}: {bar} {elapsed}") as bar,
    ):
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.write(job)
            process.stdin.close()
        except BrokenPipeError:
            pass
        for line in process.stdout:
            result = json.loads(line)
            if stage := result.get("stage"):
                bar.set_description_str(f"forecast: {stage}")
                bar.update()
        errors = process.stderr.read().decode(errors="replace").strip()
        bar.set_description_str("forecast")
    if "forecast" in result:
        return result["forecast"]
    kinds = {kind.__name__: kind for kind in (ConfigError, DataError, ModelError)}
    if result.get("error") in kinds:
        raise kinds[result["error"]](result["message"])
    cause = result.get("message") or (errors.splitlines() or ["its process was ended"])[-1]
    model = pickle.loads(job)["config"]["model_name_or_path"]
    raise ModelError(
        f"{model} cannot be simulated ({' '.join(cause.split())[:200]}); `python -m ocrkit plan` "
        "without --on tries a step on the machine at hand."
    )


def simulated(
    config: TrainConfig, rows: "Dataset", cards: Sequence[Card], stage: Callable[[str], None]
) -> dict[str, Any]:
    """The forecast as a dict of the fields of `Forecast`; imports transformers and PEFT.

    Args:
        rows: of training, with the columns prompt, completion and sizes.
        stage: called with a text before each part of the work.
    """
    from PIL import Image

    from ocrkit.data.collate import Collator
    from ocrkit.data.lengths import row_lengths
    from ocrkit.models.base import TINY, resolve_model
    from ocrkit.models.load import load_configs
    from ocrkit.training.rows import context_length
    from ocrkit.training.simulation import FakeModel

    stage("counting tokens")
    base, adapter = resolve_model(config.model_name_or_path)
    model_config, processor = load_configs(base, config)
    collator = Collator(processor, config.image_height)
    lengths = row_lengths(rows, processor, config, collator.conversation)
    without_weights: Any = SimpleNamespace(config=model_config)
    context = context_length(without_weights, config)
    order = [i for i in range(len(rows)) if lengths[i] <= context]
    order.sort(key=lambda i: -lengths[i])
    if not order:
        shortest = min(lengths, default=0)
        raise DataError(
            f"No training row fits the context of {context} tokens (the shortest needs "
            f"{shortest}); raise max_length or lower max_pixels."
        )
    stage("building the model without weights")
    model = FakeModel(config, model_config, embedded=base == str(TINY), adapter=adapter)
    longest = rows[order[0]]
    # A collator makes its first batch by the model's own processor too, whose copies of a large
    # photograph take more memory than the whole simulation: small pictures come first.
    for sizes in ([(64, 64)] * len(longest["sizes"]), longest["sizes"]):
        blank = [Image.new("L", (width, height), 255) for width, height in sizes]
        batch = collator([{**longest, "images": blank}])
    steps = []
    for copies in (1, 2):
        stage(f"simulating a batch of {copies}")
        steps.append(model.step(batch, copies))
    one, two = steps
    slope = max(two.peak - one.peak, 1)

    def peak(batch: int) -> float:
        return (one.peak + slope * (batch - 1)) / GIB

    mean = sum(lengths[i] for i in order) / len(order)
    trains_adapters = bool(adapter or config.use_peft)
    forecasts = []
    for card in cards:
        largest = math.floor(((card.gib - CONTEXT) / MARGIN * GIB - one.peak) / slope) + 1
        largest = max(0, min(largest, len(order)))
        batch = config.per_device_train_batch_size
        if isinstance(batch, str):
            batch = 2 ** int(math.log2(min(largest, 256))) if largest else 1
        samples = batch * config.gradient_accumulation_steps
        count = config.max_steps
        if count < 0:
            count = round(-(-len(order) // samples) * config.num_train_epochs)
        parts = {
            name: (one.parts.get(name, 0) * (2 - batch) + two.parts.get(name, 0) * (batch - 1))
            / GIB
            for name in {**one.parts, **two.parts}
        }
        hours = None
        if card.tflops and card.bandwidth and trains_adapters:
            # A batch of mean length is as many of the longest rows as its tokens fill.
            share = batch * mean / (2 * lengths[order[0]])
            batches = count * config.gradient_accumulation_steps
            seconds = batches * roofline(two.kernels, card, share)
            hours = (seconds / 3600, SLOWEST * seconds / 3600)
        most = peak(batch)
        line = (card.name, card.gib, verdict(most, card.gib), batch, most, parts, largest, hours)
        forecasts.append(asdict(CardForecast(*line)))
    return {
        "model": config.model_name_or_path,
        "architecture": model_config.model_type,
        "longest": round(lengths[order[0]]),
        "steps": count,
        "cards": forecasts,
        "notes": _notes(config, model_config.model_type, trains_adapters),
    }


def verdict(peak_gib: float, card_gib: float) -> str:
    """Whether a peak "fits" a card, "does not fit", or is "tight"; see `forecast`."""
    if peak_gib * MARGIN + CONTEXT < card_gib:
        return "fits"
    return "does not fit" if peak_gib + CONTEXT > card_gib else "tight"


def roofline(kernels: Sequence[tuple[float, float]], card: Card, share: float = 1.0) -> float:
    """Seconds of a step: each kernel takes the longest of its products, its bytes and its launch.

    Args:
        kernels: (floating-point operations, bytes) of each.
        card: with its speed.
        share: of the work in each kernel, for another batch than the simulated one.
    """
    assert card.tflops and card.bandwidth
    products = share / (_PRODUCTS * card.tflops * 1e12)
    reading = share / (_BANDWIDTH * card.bandwidth * 1e9)
    return sum(max(flops * products, moved * reading, _LAUNCH) for flops, moved in kernels)


def _notes(config: TrainConfig, architecture: str, trains_adapters: bool) -> list[str]:
    """Sentences on what the forecast does not know."""
    notes = []
    if architecture not in MEASURED:
        notes.append(f"no peak of {architecture} was ever held to a measured one")
    if config.backend != "transformers" and (why := UNKNOWN_UNDER_UNSLOTH.get(architecture)):
        notes.append(f"memory under Unsloth is not known ({why}): it may be less")
    if not trains_adapters:
        notes.append("hours are not known where every weight is trained")
    return notes


def main() -> None:
    """Run a pickled job of standard input; progress and result are lines of JSON."""
    job = pickle.load(sys.stdin.buffer)
    out = sys.stdout

    def tell(**values: object) -> None:
        print(json.dumps(values), file=out, flush=True)

    # Whatever else is printed would end up among the lines.
    with redirect_stdout(io.StringIO()):
        try:
            config = TrainConfig.from_dict(job["config"])
            stage = lambda text: tell(stage=text)  # noqa: E731
            tell(forecast=simulated(config, job["rows"], job["cards"], stage))
        except Exception as error:  # told to the process that waits for it
            tell(error=type(error).__name__, message=str(error))


if __name__ == "__main__":
    main()
