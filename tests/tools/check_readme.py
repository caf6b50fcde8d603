"""Figures of `make check` and `make bench`: written between marks of the pages that show them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Names of the evaluations before and after training.
ENDS = ("base", "tuned")

TITLES = {
    "cer": "CER",
    "field_accuracy": "fields right",
    "exact_match": "answers right",
    "numeric_accuracy": "amounts right",
    "teds": "TEDS of the tables",
}


def aims_of(result: dict) -> Iterator[tuple[str, str, dict]]:
    """Yield (part, name, figure) of every figure that has an aim."""
    for part, figures in result.items():
        if isinstance(figures, dict):
            for name, figure in figures.get("aims", {}).items():
                yield part, name, figure


def update_pages(result: dict, root: Path = ROOT) -> None:
    """Write the figures between their marks in `PAGES`; unmeasured parts stay unchanged."""
    for page, parts in PAGES.items():
        texts = {name: draw(result) for name, draw in parts.items() if name in result}
        write_marks(root / page, texts)


def write_marks(page: Path, texts: dict[str, str]) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end of name -->` in a Markdown page.

    Raises:
        ValueError: the page has no such marks.
    """
    content = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, opening, rest = content.partition(start)
        _, closing, after = rest.partition(end)
        if not opening or not closing:
            raise ValueError(f"{page} has no place for {name}: put {start.strip()}{end} into it.")
        content = f"{before}{start}{text}\n{end}{after}"
    page.write_text(content, encoding="utf-8")


def table(*rows: list[str]) -> str:
    """Markdown table whose first row is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def cell(figure: dict) -> str:
    """A rate with its confidence interval."""
    return "{value:.1%} [{low:.1%}, {high:.1%}]".format(**figure)


def demo(result: dict) -> str:
    """Text on `make demo` with three seeds."""
    runs = result["demo"]["runs"]
    seed, first = next(iter(runs.items()))
    head = ["seed", "CER before", "CER after", "exact match before", "exact match after"]
    rows = [
        [name, *(cell(run[end][metric]) for metric in ("cer", "exact_match") for end in ENDS)]
        for name, run in runs.items()
    ]
    text = (
        f"`make demo` on worn till receipts in fonts that the base never saw, {first['samples']} "
        f"lines of receipts kept apart, {result['cores']} CPU cores, 95 % intervals over receipts; "
        f"it took {first['seconds']:.0f} s. The price: "
        f"CER on the base's own clean lines rose from {cell(first['printed-base']['cer'])} to "
        f"{cell(first['printed-tuned']['cer'])} (seed {seed}). The report shows it."
    )
    return f"{table(head, *rows)}\n\n{text}"


def receipts(result: dict) -> str:
    """Text on one fold of real receipts."""
    return cross_validation(result["receipts"]["figures"])


def cross_validation(figures: dict, earlier: dict | None = None) -> str:
    """Table of who reads real receipts how well, and the conditions.

    Args:
        figures: of `tests.benchmarks.receipts.cross_validate`.
        earlier: the same, of the reader that was trained with the recipe's earlier settings.
    """
    head = [f"{figures['lines']:,} lines of {figures['receipts']} real receipts (SROIE)"]
    readers = figures["readers"]
    head += next(iter(readers.values()))
    rows = [[name, *map(cell, rates.values())] for name, rates in readers.items()]
    same_lines = earlier and earlier["folds"] == figures["folds"]
    if earlier and same_lines:
        ((name, rates),) = earlier["readers"].items()
        at = list(readers).index(name)
        rows.insert(at, [f"{name}, earlier recipe", *map(cell, rates.values())])
    folds, of = figures["folds"], figures["of"]
    read = f"all {of} folds" if folds == of else f"only {folds} of {of} folds so far"
    minutes = _minutes(figures)
    before, after = (cell(figures["clean"][when]) for when in ("before", "after"))
    text = (
        f"Cross-validation over receipts, {read}: every line was read once, by a reader that was "
        f"trained on the other {of - 1} of {of} parts and never saw its receipt, with the recipe "
        f"`receipts` ({figures['steps']} steps); 95 % intervals over receipts. The truth is nearly "
        "all capitals, which is why case is left out in the second column. Training a fold took "
        f"{minutes} minutes of CPU. The price: CER on the base's "
        f"own clean lines went from {before} to {after}."
    )
    if earlier:
        text += f" {_earlier(earlier)}"
        if not same_lines:
            ((_, rates),) = earlier["readers"].items()
            text += f" There its {', '.join(f'{n} was {cell(rate)}' for n, rate in rates.items())}."
    return f"{table(head, *rows)}\n\n{text}"


def _earlier(figures: dict) -> str:
    """Sentence on the recipe's earlier settings: the folds that were read, and their price."""
    return (
        f"The earlier recipe had {figures['steps']} steps, no `replay`, no `weight_averaging` "
        f"and a third of the rotation; it read {figures['lines']:,} lines in "
        f"{figures['folds']} of {figures['of']} folds, took "
        f"{_minutes(figures)} minutes of CPU a fold, and clean lines rose to "
        f"{cell(figures['clean']['after'])}."
    )


def _minutes(figures: dict) -> str:
    """The least and the most minutes of CPU of a fold; one figure where they are the same.

    Unknown where every fold went on from a checkpoint of an interrupted run.
    """
    minutes = figures["cpu minutes"]
    if not minutes:
        return "an unknown number of"
    return " to ".join(dict.fromkeys(f"{end(minutes):.1f}" for end in (min, max)))


def augmenting(figures: dict) -> str:
    """Table of a recipe's settings on drawn receipts, each changed alone, beside the recipe."""
    kinds = figures["tests"]
    rows = [
        [way, *(_beside(result, way == "the recipe") for result in results)]
        for way, results in figures["variants"].items()
    ]
    apart = [
        result["difference"]["high"] < 0 or result["difference"]["low"] > 0
        for way, results in figures["variants"].items()
        for result in results
        if way != "the recipe"
    ]
    seeds = len(figures["seeds"])
    text = (
        f"CER in %, and in brackets CER minus the recipe's with its 95 % interval, paired over "
        f"receipts. Each trained {figures['steps']} steps on {figures['train']} drawn lines of "
        f"worn receipts ({seeds} {'seed' if seeds == 1 else 'seeds'}) and read "
        f"{' and '.join(sorted({str(count) for count in kinds.values()}))} lines a column of "
        f"receipts drawn with another seed. Intervals without 0: {sum(apart)} of {len(apart)}."
    )
    return f"{table(['trained with', *kinds], *rows)}\n\n{text}"


def _beside(result: dict, is_recipe: bool) -> str:
    """CER in percent, and its difference to the recipe's in points."""
    rate = f"{100 * result['CER']['value']:.1f}"
    points = {end: 100 * value for end, value in result["difference"].items()}
    return (
        rate if is_recipe else rate + " ({value:+.1f} [{low:+.1f}, {high:+.1f}])".format(**points)
    )


def losses(figures: dict) -> str:
    """Tables of losses and curriculum compared with plain training, one for each metric."""
    text = []
    for experiment, compared in figures.items():
        plain = compared["runs"]["plain"]
        for metric in compared["metrics"]:
            head = [f"{TITLES[metric]} after {compared['steps']} steps"]
            head += [f"seed {seed}" for seed in plain]
            rows = [
                [name, *(cell(run[metric]) for run in seeded.values())]
                for name, seeded in compared["runs"].items()
            ]
            text.append(table(head, *rows))
        count = next(iter(plain.values()))["rows"]
        apart = [
            run[metric]["low"] > plain[seed][metric]["high"]
            or run[metric]["high"] < plain[seed][metric]["low"]
            for metric in compared["metrics"]
            for name, seeded in compared["runs"].items()
            for seed, run in seeded.items()
            if name != "plain"
        ]
        text.append(
            f"The same {count:,} worn {experiment}, one setting changed at a time: of "
            f"{len(apart)} results {sum(apart) or 'none'} lies apart from plain training's."
        )
    return "\n\n".join(text)


def rounds(figures: dict) -> str:
    """Table of rounds of labelling: the least sure pictures beside random ones, and keys."""
    head = ["pictures corrected", "choice", "seed", "CER on test rows", "CER of the drafts"]
    head += ["keys with drafts", "keys typing"]
    lines = sorted(figures["lines"], key=lambda line: (line["round"], line["choice"], line["seed"]))
    rows = [
        [str(line[name]) for name in ("pictures", "choice", "seed")]
        + [cell(line["cer"]), f"{line['draft_cer']:.1%}"]
        + [f"{line[name]:,}" for name in ("corrected", "typed")]
        for line in lines
    ]
    verdicts = [_verdict(lines, number) for number in sorted({line["round"] for line in lines})]
    text = (
        f"The {figures['inputs']}; each training makes {figures['steps']} steps from the embedded "
        "model, and the truth answers in a person's place. Keys are characters typed or deleted, "
        f"and Enter. {' '.join(verdicts)} {_keys(lines)}"
    )
    return f"{table(head, *rows)}\n\n{text}"


def _keys(lines: list[dict]) -> str:
    """Sentence on the keys that drafts take, in percent of those of typing."""
    shares = {}
    for choice in ("least sure", "random"):
        own = [line for line in lines if line["choice"] == choice]
        shares[choice] = sum(x["corrected"] for x in own) / sum(x["typed"] for x in own)
    sure, other = shares.values()
    return (
        f"To correct drafts took {sure:.0%} of the keys of typing with the least sure pictures, "
        f"and {other:.0%} with random ones."
    )


def _verdict(lines: list[dict], number: int) -> str:
    """Sentence on the least sure pictures beside random ones after a round."""
    sure, other = (
        {
            line["seed"]: line
            for line in lines
            if (line["round"], line["choice"]) == (number, choice)
        }
        for choice in ("least sure", "random")
    )
    better = sum(sure[seed]["cer"]["value"] < other[seed]["cer"]["value"] for seed in sure)
    apart = sum(
        sure[seed]["cer"]["high"] < other[seed]["cer"]["low"]
        or sure[seed]["cer"]["low"] > other[seed]["cer"]["high"]
        for seed in sure
    )
    pictures = next(iter(sure.values()))["pictures"]
    return (
        f"After {pictures} pictures the least sure ones gave the lower CER with {better} of "
        f"{len(sure)} seeds; intervals lie apart with {apart or 'none'}."
    )


def handwriting(result: dict) -> str:
    """Text on real Bangla characters and Chinese lines, with Tesseract if it was installed."""
    head = ["real handwriting, CER", "before", "after", "Tesseract 5"]
    rows = []
    for language, title in (("bn", "Bangla characters"), ("zh", "Chinese lines")):
        rates = result["handwriting"][language]
        systems = ("base", "tuned", "tesseract")
        cells = [cell(rates[name]) if name in rates else "not installed" for name in systems]
        rows.append([f"{rates['n']} {title}", *cells])
    text = (
        "The embedded model was never shown handwriting. For the characters it was trained on "
        "those of one writer and read another's; for the lines it learned the drawn sample of the "
        "Chinese notebook."
    )
    return f"{table(head, *rows)}\n\n{text}"


def baselines(result: dict) -> str:
    """Table of what RapidOCR and Tesseract read without training."""
    columns = ["CER", "CER without case", "CER without case and spaces", "exact match"]
    rows = [
        [f"{name}, {figures['rows']} rows", engine["engine"], *(engine[c] for c in columns)]
        for name, figures in result["baselines"]["samples"].items()
        for engine in figures["engines"]
    ]
    text = (
        "`python -m ocrkit baseline DATASET`, on the shipped samples and on the lines of real "
        "receipts (SROIE) that are kept apart, as far as they stand here. RapidOCR stands where "
        "its package has a model for the script."
    )
    return f"{table(['rows', 'engine', *columns], *rows)}\n\n{text}"


def server(result: dict) -> str:
    """Table of an export behind llama.cpp's server, beside the model it was made from."""
    figures = result["server"]["figures"]
    rows, rate = figures["rows"], figures["lines an hour"]
    head = ["read by", f"of {rows} lines, the same as the model", "CER"]
    lines = [["the model, by `evaluate`", str(rows), cell(figures["model"]["cer"])]]
    for name, title in (
        ("program", "`llama-mtmd-cli`, pictures as the model's processor makes them"),
        ("server", "`llama-server`, with `--processor`"),
        ("unfitted", "`llama-server`, pictures left as they are"),
    ):
        read = figures[name]
        share = "[{low:.0%}, {high:.0%}]".format(**read["share"])
        lines.append([title, f"{read['same']} {share}", cell(read["cer"])])
    aim = result["server"]["aims"]["rows read the same as the model"]
    text = (
        "Worn lines of `make demo`, read by the embedded model in 32 bits, and by its GGUF in 8. "
        f"Aim of the server with `--processor`: {aim['aim']} rows"
        f"{'' if aim['met'] else ' (**below aim**)'}. Intervals are of 95 %, those of CER over "
        f"receipts. Server and reader together read {rate['8']:,.0f} lines an hour with 8 requests "
        f"at once and {rate['1']:,.0f} with one, on {result['cores']} CPU cores and a load average "
        f"of {figures['load']:.1f} (medians of three rounds in turns)."
    )
    return f"{table(head, *lines)}\n\n{text}"


def memory(result: dict) -> str:
    """Table of the peak memory of conversions."""
    rows = []
    for name, figure in result["memory"]["aims"].items():
        below = "" if figure["met"] else " (**below aim**)"
        rows.append([name, f"{figure['value']:.3g}{below}", figure["aim"]])
    return table(["memory of a conversion", "measured", "aim"], *rows)


def notebooks(result: dict) -> str:
    """Table of the notebooks of five domains."""
    rows = []
    for name, run in result["notebooks"]["runs"].items():
        better = result["notebooks"]["aims"][f"{name}, {run['metric']} after"]["met"]
        after = cell(run["after"]) + ("" if better else " (**below aim**)")
        title, seconds = TITLES[run["metric"]], f"{run['seconds']:.0f}"
        rows.append([name, title, cell(run["before"]), after, seconds])
    head = ["notebook on its sample, one CPU core", "measure", "before", "after", "seconds"]
    return table(head, *rows)


def forecast(result: dict) -> str:
    """Table of simulated peaks beside real ones on a CPU."""
    rows = [
        [
            name,
            *(f"{peak[k]:.1f}" for k in ("simulated", "real")),
            f"{peak['simulated'] / peak['real']:.2f}",
        ]
        for name, peak in result["forecast"]["peaks"].items()
    ]
    return table(["configuration", "simulated, MiB", "real, MiB", "ratio"], *rows)


def whole_run(result: dict) -> str:
    """Table of the parts of `make check`: when each was measured last, and its minutes."""
    parts = {name: part for name, part in result.items() if isinstance(part, dict)}
    rows = [
        [name, part["date"], f"{part['minutes']:.1f}"]
        for name, part in parts.items()
        if part.get("minutes") is not None
    ]
    figure = result["whole run"]["aims"]["minutes of all parts"]
    text = (
        f"The minutes add up to {figure['value']:.0f} on {result['cores']} CPU cores "
        f"(aim: {figure['aim']}{'' if figure['met'] else ', **missed**'})."
    )
    return f"{table(['part of `make check`', 'measured', 'minutes'], *rows)}\n\n{text}"


# Each figure stands on one page.
FIGURES_PAGE = "notebooks/benchmarks/README.md"
PAGES = {
    "README.md": {"demo": demo},
    FIGURES_PAGE: {
        "receipts": receipts,
        "handwriting": handwriting,
        "baselines": baselines,
        "server": server,
        "notebooks": notebooks,
        "memory": memory,
        "forecast": forecast,
        "whole run": whole_run,
    },
}
