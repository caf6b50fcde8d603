"""Command line of ocrkit, `python -m ocrkit COMMAND`: the notebook's verbs as commands.

One file, above 400 lines, so that a command's options and the function that runs it are together.
"""

import argparse
import re
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_prep.dataset.command import (
    LARGEST_INT,
    check_arguments,
    escape_unprintable,
    expand_home,
    float_option,
    import_problem,
    int_option,
)
from data_prep.dataset.files import sentence
from data_prep.dataset.schema import one_line
from ocrkit.environment import is_main_process
from ocrkit.errors import ConfigError
from ocrkit.models.base import ENGINES, EXPORT_FORMATS, PAGE_FORMATS, run_folder, settings_of_run

if typing.TYPE_CHECKING:
    from ocrkit.config import TrainConfig
    from ocrkit.models.read_files import PictureReader

_EPILOG = """first, on a new machine:
  python -m ocrkit doctor

examples:
  python -m ocrkit train --recipe quickstart --dataset data/sroie --output_dir runs/s1
  torchrun --nproc_per_node 2 -m ocrkit train --recipe bangla --dataset data/bn --output_dir runs/b1
  python -m ocrkit plan --recipe bangla --dataset data/bn
  python -m ocrkit plan --recipe bangla --dataset data/bn --on t4,l4,24GB
  python -m ocrkit find-lr --recipe quickstart --dataset data/sroie --output_dir runs/s1
  python -m ocrkit baseline data/sroie
  python -m ocrkit evaluate --model_name_or_path runs/s1 --name tuned
  python -m ocrkit compare runs/s1/eval/base runs/s1/eval/tuned --out runs/s1/report
  python -m ocrkit compare runs/s1/eval/tuned runs/s2/eval/tuned --fail-if "change of cer > 0"
  python -m ocrkit predict scans/ invoice.pdf --model runs/s1 --out predictions.jsonl
  python -m ocrkit predict book.pdf --lines --model runs/s1 --out book/ --format text pdf
  python -m ocrkit predict scans/ --server http://localhost:8000/v1 --model NAME --out texts/
  python -m ocrkit export --model_name_or_path runs/s1 --format merged_16bit --out runs/s1/merged
  python -m ocrkit sweep notebooks/quickstart.ipynb --grid lora_r=8,32 --seeds 42,43
"""

_SWEEP = """\
Every combination of the --grid values is a member: the notebook, run headless by papermill in its
own process, so that memory and GPU are free again before the next member starts. Its folder
OUT/NAME is named after its parameters and holds

  notebook.ipynb   the notebook as executed             log.txt   what it printed, as it comes
  status.json      parameters, state, time, error       and the run folder's own files

A member that fails or is killed is recorded, and the others run. The same command started again
continues after a stop: members that are done are skipped, the others run, with `-p
resume_from_checkpoint auto` from their last checkpoint.

  python -m ocrkit sweep notebooks/quickstart.ipynb --grid learning_rate=0.002,0.005,0.01
  python -m ocrkit sweep notebooks/quickstart.ipynb --grid lora_r=8,32 --seeds 42,43 \\
      -p max_steps 200 --out runs/rank
  papermill notebooks/compare_runs.ipynb runs/rank/compared.ipynb -p runs runs/rank

Any setting of `python -m ocrkit train --help` may be varied, and any name in the notebook's
parameters cell. Commas inside brackets separate nothing: --grid "tags=[a,b],[c]". Exit code 0:
every member is done; 1: some are not; 2: wrong usage, and nothing was run.
"""


def _parser(settings: bool = True) -> argparse.ArgumentParser:
    """Build the parser; without `settings` it imports no package that could be missing."""
    parser = argparse.ArgumentParser(
        prog="python -m ocrkit",
        description="Fine-tune vision-language models to read, and measure how well they do.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, add_options, help in (
        ("train", _train, None, "train adapters on a dataset folder"),
        ("plan", _plan, _add_plan, "tokens, memory and time of a run, before it"),
        ("find-lr", _find_lr, _add_find_lr, "try rising learning rates and suggest one"),
        ("evaluate", _evaluate, _add_evaluate, "read a split and write predictions and metrics"),
        ("predict", _predict, _add_predict, "read pictures and print or write what they say"),
        ("export", _export, _add_export, "write the adapter, or the base merged with it"),
    ):
        examples = [line for line in _EPILOG.splitlines() if f"-m ocrkit {name} " in line]
        images = "IMAGE... " if name == "predict" else ""
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help.capitalize()}.",
            # Not argparse's own usage line, which would list all seventy settings.
            usage=f"%(prog)s {images}[OPTION...] [--SETTING VALUE...]",
            epilog="\n".join(["example:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # Otherwise `--lr` would mean --lr_scheduler_type.
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        if settings:
            _add_settings(command)
        if add_options:
            add_options(command)
    for add_command in (_add_baseline, _add_compare, _add_sweep):
        add_command(commands)
    command = commands.add_parser("doctor", help="check this machine before a run")
    command.set_defaults(run=_doctor)
    command.add_argument("--output_dir", default=".", help="the run's folder (%(default)s)")
    commands.add_parser("recipes", help="list the recipes").set_defaults(run=_recipes)
    return parser


def _add_overwrite(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--overwrite", action="store_true", help="replace files that ocrkit did not write, too"
    )


def _add_server(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "reading by a server", "any OpenAI-compatible one; its key is taken from OPENAI_API_KEY"
    )
    group.add_argument(
        "--server", metavar="URL", help="such as http://localhost:8000/v1, with --model its name"
    )
    group.add_argument(
        "--requests",
        type=int_option(at_least=1, at_most=1024),
        default=8,
        help="requests at once (%(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=float_option(above=0, at_most=86400),
        default=120.0,
        help="seconds to wait for an answer (%(default)s)",
    )
    group.add_argument(
        "--price",
        metavar="READ,WRITTEN",
        type=_price,
        help="of a million tokens read and of a million written, such as 0.1,0.4: tells the cost",
    )
    group.add_argument(
        "--processor",
        metavar="MODEL",
        help="resize pictures as this run's or model's processor does; a run's settings are taken",
    )


def _price(text: str) -> tuple[float, float]:
    """Parse two prices; the `type` of an argparse option."""
    try:
        read, written = map(float_option(at_least=0), text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of prices such as 0.1,0.4") from None
    return read, written


def _repository(text: str) -> str:
    """Parse a repository of the Hub, user/name; the `type` of an argparse option."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no repository; give USER/NAME")
    return text


def _add_settings(command: argparse.ArgumentParser) -> None:
    from ocrkit.config import TrainConfig, recipes

    command.add_argument(
        "--recipe",
        help=f"one of {', '.join(recipes())}, or a YAML file; without it quickstart, or, where "
        "--model_name_or_path is a run folder, that run's dataset and settings of reading",
    )
    group = command.add_argument_group("settings (others come from the recipe)")
    hints = typing.get_type_hints(TrainConfig)
    for spec in fields(TrainConfig):
        options = typing.get_args(hints[spec.name]) or (hints[spec.name],)
        kind = next(option for option in options if option is not types.NoneType)
        metavar = (typing.get_origin(kind) or kind).__name__.upper()
        flags = [f"--{spec.name}"]
        if spec.name == "model_name_or_path":
            flags.append("--model")
        group.add_argument(*flags, metavar=metavar, help=spec.metadata["help"])


def _config(arguments: argparse.Namespace) -> "TrainConfig":
    """Build the config from the recipe or the model's run folder; options override both."""
    from ocrkit.config import TrainConfig

    names = {spec.name for spec in fields(TrainConfig)}
    options = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    model = options.get("model_name_or_path")
    if arguments.recipe or not model:
        return TrainConfig.from_recipe(arguments.recipe or "quickstart", **options)
    folder = run_folder(getattr(arguments, "processor", None) or model)
    if folder is None:
        return TrainConfig.from_dict(options)
    settings = settings_of_run(folder)
    if arguments.command == "train":
        settings.pop("output_dir", None)  # the new run must not replace the one it starts from
    settings = {name: value for name, value in settings.items() if name not in options}
    if settings and is_main_process():
        listed = ", ".join(f"{name}={value}" for name, value in settings.items())
        print(f"From {folder / 'config.yaml'}: {listed}", file=sys.stderr)
    return TrainConfig.from_dict({**settings, **options})


def _train(arguments: argparse.Namespace, config: "TrainConfig") -> None:
    from ocrkit import load_data, load_model, train

    data = load_data(config)
    model, processor = load_model(config)
    result = train(model, processor, data, config)
    if is_main_process():
        print(
            f"{result.global_step} steps, mean loss {result.training_loss:.4f}, "
            f"{result.seconds:.0f} s; weights in {result.adapter_dir}"
        )


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on",
        metavar="CARD,CARD",
        help="forecast for these cards instead, without a GPU or weights: t4, l4, rtx4090, "
        "a100-40, a100-80, h100, or a memory such as 24GB",
    )


def _plan(arguments: argparse.Namespace, config: "TrainConfig") -> None:
    from ocrkit import forecast, load_data, load_model, plan

    if arguments.on:
        from ocrkit.training.forecast import parse_cards

        parse_cards(arguments.on)  # before data is loaded
        forecast(config, load_data(config), on=arguments.on)
        return
    data = load_data(config)
    plan(config, data, *load_model(config))


def _add_find_lr(command: argparse.ArgumentParser) -> None:
    rate, steps = float_option(above=0), int_option(at_least=10, at_most=100_000)
    command.add_argument("--min_lr", type=rate, default=1e-6, help="first (%(default)s)")
    command.add_argument("--max_lr", type=rate, default=0.1, help="last (%(default)s)")
    command.add_argument("--steps", type=steps, default=60, help="steps (%(default)s)")


def _find_lr(arguments: argparse.Namespace, config: "TrainConfig") -> None:
    from ocrkit import find_lr, load_data, load_model
    from ocrkit.training.lr_finder import check_range

    check_range(arguments.min_lr, arguments.max_lr, arguments.steps)  # before data is loaded
    data = load_data(config)
    limits = {"min_lr": arguments.min_lr, "max_lr": arguments.max_lr, "steps": arguments.steps}
    find_lr(config, data, *load_model(config), **limits)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--split", default="test", help="split to read (%(default)s)")
    command.add_argument(
        "--name",
        help="name of the evaluation (of a run's model: tuned, of another: base, of an "
        "engine or a file: its own; a split other than test is added, as tuned-validation)",
    )
    command.add_argument("--engine", choices=ENGINES, help="read with this engine instead")
    command.add_argument(
        "--predictions",
        type=Path,
        help="score this file instead, and with --output_dir write the evaluation there",
    )
    command.add_argument("--fail-if", metavar="CONDITION", help="e.g. 'cer > 0.05': exit 1")
    _add_server(command)


def _evaluate(arguments: argparse.Namespace, config: "TrainConfig") -> int:
    from ocrkit.evaluation.evaluate import eval_folder
    from ocrkit.evaluation.evaluation import fails, parse_condition

    # Options are checked before data and model are loaded.
    if arguments.fail_if:
        _usage(parse_condition, arguments.fail_if)
    if arguments.name:
        _usage(eval_folder, config.output_dir, arguments.name)
    if arguments.predictions and arguments.engine:
        raise ConfigError(
            f"--predictions {arguments.predictions} scores a file, and --engine "
            f"{arguments.engine} reads the pictures anew: give one of the two."
        )
    if arguments.server and (arguments.predictions or arguments.engine):
        raise ConfigError("--server reads by a server: leave --engine and --predictions out.")
    _check_server(arguments)
    evaluation = _evaluated(arguments, config)
    print(evaluation)
    if arguments.fail_if and fails(evaluation, arguments.fail_if):
        print(f"ocrkit: {evaluation.name} has {arguments.fail_if}", file=sys.stderr)
        return 1
    return 0


def _check_server(arguments: argparse.Namespace) -> None:
    if not arguments.server:
        for name in ("price", "processor"):
            if getattr(arguments, name):
                raise ConfigError(f"--{name} is for a server: give --server URL, or leave it out.")
        return
    from ocrkit.evaluation.server import check_url

    check_url(arguments.server)
    if not arguments.model_name_or_path:
        raise ConfigError("--server needs --model NAME, which the server knows the model by.")


def _check_lines(arguments: argparse.Namespace) -> None:
    if arguments.format and not arguments.lines:
        raise ConfigError("--format is for pages that are read line by line: add --lines.")
    if arguments.format and (not arguments.out or arguments.out.suffix == ".jsonl"):
        raise ConfigError(
            f"--format {' '.join(arguments.format)} writes files: give --out, a folder for them."
        )


def _usage(check: Callable, *values: Any) -> None:
    """Call a check of options; its ValueError becomes wrong usage, exit code 2."""
    try:
        check(*values)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _evaluated(arguments: argparse.Namespace, config: "TrainConfig") -> Any:
    from ocrkit import evaluate, load_data, load_model
    from ocrkit.errors import DataError
    from ocrkit.evaluation.evaluate import (
        eval_folder,
        evaluate_engine,
        evaluate_file,
        evaluate_server,
    )

    profile, locale = config.normalization_profile, config.locale
    if arguments.predictions:
        evaluation = evaluate_file(
            arguments.predictions, arguments.name, profile=profile, locale=locale
        )
        if arguments.output_dir:
            evaluation.save(eval_folder(config.output_dir, evaluation.name))
        return evaluation
    data = load_data(config)
    if arguments.split not in data:
        raise DataError(f"--split {arguments.split}: the dataset has {', '.join(map(str, data))}.")
    rows = data[arguments.split]
    model = "tuned" if run_folder(config.model_name_or_path) else "base"
    if arguments.server:
        from ocrkit.evaluation.server import evaluation_name

        model = evaluation_name(config.model_name_or_path)
    # Another split's evaluation must not replace the test split's.
    suffix = "" if arguments.split == "test" else f"-{arguments.split}"
    name = arguments.name or (arguments.engine or model) + suffix
    if arguments.engine:
        return evaluate_engine(
            arguments.engine, rows, config.output_dir, name, profile=profile, locale=locale
        )
    if arguments.server:
        return evaluate_server(
            arguments.server,
            config.model_name_or_path,
            rows,
            config,
            name,
            requests=arguments.requests,
            timeout=arguments.timeout,
            price=arguments.price,
            processor=arguments.processor,
        )
    return evaluate(*load_model(config), rows, config, name=name)


def _add_baseline(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "baseline",
        help="read some rows with RapidOCR and Tesseract: what is left to win",
        description="Read some rows with OCR engines that need no training, and say what is left "
        "for fine-tuning to win.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_baseline)
    command.add_argument("dataset", metavar="DATASET", help="dataset folder")
    command.add_argument("--split", default="test", help="split to read (%(default)s)")
    command.add_argument(
        "--samples",
        type=int_option(at_least=1, at_most=LARGEST_INT),
        default=100,
        help="rows to read, drawn at random (%(default)s)",
    )
    command.add_argument("--output_dir", help="keep what was read in OUTPUT_DIR/eval")


def _baseline(arguments: argparse.Namespace, config: object) -> None:
    from tempfile import TemporaryDirectory

    from ocrkit import TrainConfig, baseline, load_data

    with TemporaryDirectory() as scratch:
        folder = arguments.output_dir or scratch
        config = TrainConfig(dataset=arguments.dataset, output_dir=folder)
        rows = load_data(config)[arguments.split]
        print(baseline(rows, config, arguments.samples))


def _add_predict(command: argparse.ArgumentParser) -> None:
    _add_server(command)
    command.add_argument(
        "images", nargs="+", metavar="IMAGE", help="pictures, folders, globs, PDFs"
    )
    command.add_argument(
        "--out",
        type=Path,
        help="a .jsonl file, or a folder for text files; resumable",
    )
    _add_overwrite(command)
    command.add_argument("--prompt", help="what to ask for, instead of the recipe's")
    command.add_argument(
        "--lines",
        action="store_true",
        help="cut pages into lines first (RapidOCR's detector) and read each, in order",
    )
    command.add_argument(
        "--format",
        nargs="+",
        choices=PAGE_FORMATS,
        help="with --lines: files to write into the folder --out, one a document",
    )


def _predict(arguments: argparse.Namespace, config: "TrainConfig") -> int:
    from data_prep.dataset.schema import PROMPTS
    from ocrkit.errors import DataError
    from ocrkit.models.predictions import check_out, write_predictions
    from ocrkit.models.read_files import list_pictures, read_pictures

    _check_server(arguments)
    _check_lines(arguments)
    prompts = PROMPTS | config.prompts
    prompt = arguments.prompt or prompts["transcription"]
    pictures = list_pictures(arguments.images)
    out = arguments.out
    if arguments.lines and out and out.suffix != ".jsonl":
        out = out / "predictions.jsonl"
    if out:
        check_out(pictures, out, arguments.overwrite)
    reader = _reader(arguments, config)
    if out:
        read, failed = write_predictions(reader, pictures, prompt, out, arguments.overwrite)
        if arguments.lines and out != arguments.out:
            from ocrkit.evaluation.page_files import write_pages

            formats = arguments.format or ["text"]
            files = write_pages(pictures, out, formats, arguments.overwrite)
            print(f"{len(files)} documents in {arguments.out}")
        print(
            f"{read} read, {failed} failed, {len(pictures) - read - failed} were there "
            f"already; in {arguments.out}"
        )
        return 1 if failed else 0
    results = read_pictures(reader, pictures, prompt)
    by_id = {result["id"]: result for result in results}
    failed = [picture.id for picture in pictures if by_id[picture.id]["error"]]
    for name in failed:
        print(f"{one_line(name)} left out: {by_id[name]['error']}", file=sys.stderr)
    if len(failed) == len(pictures):
        raise DataError("None of the given pictures can be read.")
    for picture in pictures:
        if picture.id not in failed:
            print(f"{one_line(picture.id)}\t{by_id[picture.id]['prediction']}")
    return 0


def _reader(arguments: argparse.Namespace, config: "TrainConfig") -> "PictureReader":
    """Reader of pictures: the server, or the model, which is loaded; of pages by their lines."""
    if arguments.server:
        from ocrkit.evaluation.server import ServerReader

        reader: PictureReader = ServerReader(
            arguments.server,
            config.model_name_or_path,
            config,
            arguments.requests,
            arguments.timeout,
            price=arguments.price,
            processor=arguments.processor,
        )
    else:
        from ocrkit.models.load import load_model
        from ocrkit.models.read import Reader

        reader = Reader(*load_model(config), config)
    if arguments.lines:
        from ocrkit.evaluation.page_lines import LineReader

        return LineReader(reader)
    return reader


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format", default="adapter", choices=EXPORT_FORMATS, help="what to write"
    )
    command.add_argument(
        "--samples",
        type=int_option(at_least=0, at_most=LARGEST_INT),
        default=20,
        help="rows to compare after a merge (%(default)s)",
    )
    command.add_argument(
        "--min_equal",
        type=float_option(at_least=0, at_most=1),
        default=0.8,
        help="share of the characters to be read alike (%(default)s)",
    )
    command.add_argument("--out", required=True, type=Path, help="folder to write")
    _add_overwrite(command)
    command.add_argument(
        "--push_to_hub",
        metavar="USER/NAME",
        type=_repository,
        help="upload it to this new repository",
    )
    command.add_argument(
        "--hub_private_repo", action="store_true", default=None, help="which is private"
    )


def _export(arguments: argparse.Namespace, config: "TrainConfig") -> None:
    from ocrkit import export, load_data, load_model

    rows = None
    if arguments.format != "adapter" and Path(config.dataset, "dataset.json").is_file():
        data = load_data(config)
        rows = next((data[split] for split in ("test", "validation") if split in data), None)
    folder = export(
        *load_model(config),
        arguments.out,
        format=arguments.format,
        rows=rows,
        config=config,
        samples=arguments.samples,
        min_equal=arguments.min_equal,
        push_to_hub=arguments.push_to_hub,
        hub_private_repo=arguments.hub_private_repo,
        overwrite=arguments.overwrite,
    )
    print(f"{arguments.format} in {folder}")


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "compare",
        help="compare evaluations of the same rows",
        description="Compare evaluations of the same rows, each with the first.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_compare)
    command.add_argument("evaluations", nargs="+", type=Path, metavar="EVALUATION_FOLDER")
    command.add_argument("--out", type=Path, help="folder for a report; none: only the table")
    _add_overwrite(command)
    command.add_argument("--metrics", nargs="+", metavar="NAME", help="show only these")
    command.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="what to call each evaluation (its own name, or RUN/NAME where two have the same)",
    )
    command.add_argument(
        "--fail-if",
        metavar="CONDITION",
        help="e.g. 'cer > 0.05' of the last, or 'change of cer > 0' from first to last: exit 1",
    )


def _compare(arguments: argparse.Namespace, config: object) -> int:
    from ocrkit import compare
    from ocrkit.evaluation.compare import CHANGE, training_of
    from ocrkit.evaluation.evaluation import load_evaluations, parse_condition

    if arguments.fail_if:
        _usage(parse_condition, arguments.fail_if.removeprefix(CHANGE))
    evaluations = load_evaluations(arguments.evaluations, arguments.names)
    known = dict.fromkeys(metric for evaluation in evaluations for metric in evaluation.metrics)
    for metric in arguments.metrics or ():
        if metric not in known:
            raise ConfigError(f"--metrics {metric}: the evaluations have {', '.join(known)}.")
    comparison = compare(*evaluations)
    print(comparison.table(arguments.metrics))
    if arguments.out:
        training = training_of(arguments.evaluations[-1])
        folder = comparison.save(arguments.out, **training, overwrite=arguments.overwrite)
        print(f"report in {folder / 'index.html'}")
    if arguments.fail_if and comparison.fails(arguments.fail_if):
        print(f"ocrkit: {evaluations[-1].name} has {arguments.fail_if}", file=sys.stderr)
        return 1
    return 0


def _add_sweep(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "sweep",
        help="run a notebook for every combination of parameters",
        description=_SWEEP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=_sweep)
    command.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="an .ipynb file")
    command.add_argument(
        "--grid", action="append", default=[], metavar="NAME=VALUE,VALUE", help="what to vary"
    )
    command.add_argument("--seeds", metavar="SEED,SEED", help="vary the seed: --grid seed=...")
    command.add_argument(
        "-p",
        action="append",
        nargs=2,
        default=[],
        dest="parameters",
        metavar=("NAME", "VALUE"),
        help="a parameter that every member shares",
    )
    command.add_argument("--out", default="runs/sweep", type=Path, help="folder (%(default)s)")


def _sweep(arguments: argparse.Namespace, config: object) -> int:
    from ocrkit.runs.sweep import parse_grid, report, sweep, value_of

    grid = parse_grid(arguments.grid, arguments.seeds)
    shared = {name: value_of(value) for name, value in arguments.parameters}
    rows = sweep(arguments.notebook, grid, shared, arguments.out)
    print(f"\n{report(rows)}\n\n95 % intervals; all in {arguments.out / 'sweep.json'}")
    return 1 if any(row["state"] != "done" for row in rows) else 0


def _doctor(arguments: argparse.Namespace, config: object) -> int:
    from ocrkit.doctor import doctor, next_step, table

    findings = doctor(arguments.output_dir)
    print(f"{table(findings)}\n\n{next_step(findings)}")
    return 1 if any(state == "fail" for state, *_ in findings) else 0


def _recipes(arguments: argparse.Namespace, config: object) -> None:
    from ocrkit.config import TrainConfig, recipes

    for name in recipes():
        print(f"{name:12} {TrainConfig.from_recipe(name).model_name_or_path}")


def _resume_hint(arguments: argparse.Namespace) -> str:
    """Tell how to resume a stopped command; empty where it starts over."""
    if arguments.command == "train":
        return "; go on with --resume_from_checkpoint auto"
    resumable = arguments.command in ("evaluate", "sweep")
    if resumable or (arguments.command == "predict" and arguments.out):
        return "; the same command again goes on from here"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 the work failed or the data is invalid, 2 wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    escape_unprintable()
    try:
        return _run(argv)
    except ImportError as error:
        print(f"ocrkit: {import_problem(error)}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    # The doctor has to start without the packages that it reports missing.
    parser = _parser(settings=argv[:1] != ["doctor"])
    check_arguments(parser, argv)
    arguments, unknown = parser.parse_known_args(argv)
    arguments = expand_home(arguments)
    try:
        if unknown and unknown[0].startswith("--") and "recipe" in arguments:
            from ocrkit.config import check_name

            check_name(unknown[0][2:].partition("=")[0])
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        config = _config(arguments) if "recipe" in arguments else None
    except (ConfigError, OSError) as error:
        text = sentence(error) if isinstance(error, OSError) else one_line(error)
        print(f"ocrkit: {text}", file=sys.stderr)
        return 2
    try:
        code = arguments.run(arguments, config)
    except KeyboardInterrupt:
        print(f"ocrkit: stopped{_resume_hint(arguments)}", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        text = sentence(error) if isinstance(error, OSError) else str(error)
        print(f"ocrkit: {one_line(text)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
