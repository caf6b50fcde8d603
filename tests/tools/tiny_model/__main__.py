"""Embedded model command: build, average and measure a Qwen3-VL of 3.1 million parameters.

`python -m tests.tools.tiny_model build` trains from scratch on synthetic lines of four scripts and
writes `ocrkit/assets/tiny`: weights in bf16, tokenizer, processor and chat template.
`python -m tests.tools.tiny_model measure` evaluates the model and writes its model card.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ocrkit.models.base import TINY
from tests.tools.tiny_model.lines import FONTS, HELD_OUT, SCRIPTS, frequent
from tests.tools.tiny_model.measure import READERS, measure
from tests.tools.tiny_model.train import average, train_reader


def write_card(folder: Path, readers: Sequence[str] = READERS) -> None:
    """Evaluate `readers`; write `measured.json`, which keeps the others, and the model card."""
    path = folder / "measured.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    measured = kept | measure(folder, readers=readers)
    text = json.dumps(measured, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    history = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(card(history, measured), encoding="utf-8")


def card(history: dict, measured: dict) -> str:
    """Model card in Markdown, from the training history and the measured metrics."""

    def cell(reader: str, kind: str, metric: str) -> str:
        if reader not in measured:
            return "not measured"
        figure = measured[reader].get(kind, {}).get(metric)
        return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure) if figure else "no model"

    rows = []
    for script, name in SCRIPTS.items():
        cells = [cell("model", f"known/{script}", "cer"), cell("model", f"unseen/{script}", "cer")]
        cells += [cell("model", f"unseen/{script}", "exact_match")]
        cells += [cell(engine, f"unseen/{script}", "cer") for engine in READERS[1:]]
        cells.append(", ".join(HELD_OUT[script]))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    command = (
        "`python -m tests.tools.tiny_model build --minutes {minutes:g} "
        "--learning_rate {learning_rate:g} --seed {seed}` "
        "({steps:,} steps{note})"
    )
    packages = {package for families in FONTS.values() for package in families.values()}
    parts = [
        f"`python -m tests.tools.tiny_model average` of the last {part['averaged']}"
        if "averaged" in part
        else command.format(**{"note": "", **part})
        for part in history["parts"]
    ]
    names = history["fonts"].items()
    classes = history["curve"][-1]["classes"]
    reached = f"the {classes:,} most frequent; rarer ones it has hardly seen"
    template = (Path(__file__).with_name("card.md")).read_text(encoding="utf-8")
    return template.format(
        **history["curve"][-1],
        reached="all of them" if classes >= len(frequent("zh")) else reached,
        parameters=history["parameters"],
        rows="\n".join(rows),
        count=measured["lines"],
        milliseconds=measured["milliseconds"],
        parts=", then ".join(parts),
        packages=", ".join(sorted(packages)),
        fonts="\n".join(
            f"* {SCRIPTS[script]}: {', '.join(installed)}" for script, installed in names
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line of `python -m tests.tools.tiny_model`."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.tiny_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build", help="train the model and write it; `measure` makes its card"
    )
    build.add_argument("--minutes", type=float, default=60, help="how long (default %(default)s)")
    build.add_argument("--steps", type=int, help="stop after so many steps, if that is sooner")
    build.add_argument("--start", type=Path, help="go on from this earlier build")
    build.add_argument("--learning_rate", type=float, default=2e-3, help="peak (%(default)s)")
    build.add_argument("--seed", type=int, default=0, help="seed of weights and lines")
    build.add_argument("--out", type=Path, default=TINY, help="folder (default %(default)s)")
    measured = commands.add_parser(
        "measure", help="read lines in known and unseen fonts beside engines; write the card"
    )
    measured.add_argument(
        "--readers",
        nargs="+",
        choices=READERS,
        default=READERS,
        help="measure some again and keep the figures of the others (default all)",
    )
    measured.add_argument("--folder", type=Path, default=TINY, help="default %(default)s")
    mean = commands.add_parser("average", help="the mean of builds that share a beginning")
    mean.add_argument("folders", type=Path, nargs="+", help="folders of builds")
    mean.add_argument("--out", type=Path, default=TINY, help="folder (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "measure":
        write_card(options.folder, options.readers)
        return 0

    if options.command == "average":
        average(options.folders, options.out)
        return 0
    train_reader(
        options.minutes,
        options.steps,
        options.start,
        options.out,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
