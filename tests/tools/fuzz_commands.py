"""Command-line fuzzing: absurd values for every option of ocrkit and data_prep, in one process.

The options come from the parsers, so new options are included. Model loading, training and
evaluation are replaced by stubs; parsing, settings, datasets, reports and conversions are real.
`python -m tests.tools.fuzz_commands [COUNT] [SEED]` prints every fault.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from ocrkit.errors import ModelError
from ocrkit.models.base import TINY, resolve_model

BLANK = ("", " ")
NO_NUMBERS = ("nan", "1e400", "-inf", "010", "1:30", "0x10", "1_000", "many", "٣", "9" * 5000)
ABSURD = (
    *("-1", "0", "1", "2", "0.5", "1e6", "1e23", "4294967296", "none", "true", "on", "[", "{a: b}"),
    *("[a, b]", "a,b", "x" * 3000, "\udcff", "🙂", "a\nb", "..", "nowhere/x.yaml", "user/name"),
    *("data", "evaluation", "a.png", "cer > 0.5", "change of cer > 1e400", "text", "auto", "~"),
)
# Options whose large values are valid but slow: no number above 1.
SLOW = ("count", "workers", "limit", "dpi", "width", "height", "length")
COMMANDS = {
    "train": ["--dataset", "data", "--output_dir", "out"],
    "plan": ["--dataset", "data", "--output_dir", "out"],
    "find-lr": ["--dataset", "data", "--output_dir", "out"],
    "evaluate": ["--dataset", "data", "--output_dir", "out"],
    "predict": ["a.png"],
    "export": ["--out", "exported"],
    "compare": ["evaluation"],
    "baseline": ["data"],
    "sweep": ["nowhere.ipynb", "--seeds", "1"],
    "recipes": [],
    "doctor": [],
    "data_prep.convert": ["table", "labels.csv", "--workers", "1", "--out", "converted"],
    "data_prep.validate": ["data", "--workers", "1"],
    "data_prep.pack": ["data", "data.tar"],
    "data_prep.unpack": ["packed.tar", "unpacked"],
    "data_prep.synthesize lines": ["en", "--count", "1", "--out", "lines"],
    "data_prep.synthesize invoices": ["--languages", "en", "--count", "1", "--out", "bills"],
    "data_prep.synthesize receipts": ["--count", "1", "--out", "receipts"],
    "data_prep.synthesize toys": ["--count", "1", "--out", "toys"],
}
RARE = ("doctor", "recipes", "sweep", "data_prep.synthesize invoices", "data_prep.synthesize lines")
PLAIN_CODES = {"sweep": 2}  # exit code without absurd values, if it is not 0


def entry(command: str):
    """Main function of a command, and its first arguments."""
    name, *first = command.split()
    if not name.startswith("data_prep"):
        return importlib.import_module("ocrkit.__main__").main, [name]
    return importlib.import_module(name).main, first


def options(command: str) -> list[argparse.Action]:
    """Options of a command, from the parser that its main function builds."""

    class Built(Exception):
        pass

    parsers = []

    def stop(self, *_):
        parsers.append(self)
        raise Built

    main, first = entry(command)
    with (
        patch("argparse.ArgumentParser.parse_args", stop),
        patch("argparse.ArgumentParser.parse_known_args", stop),
        contextlib.suppress(Built),
    ):
        main([*first, *COMMANDS[command]])
    parser = parsers[0]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices[first[-1]]
    return [a for a in parser._actions if a.option_strings and a.dest not in ("help", "version")]


def numeric(action: argparse.Action) -> bool:
    """Whether an option takes a number, by its type or metavar."""
    kinds = {"INT", "FLOAT"}
    return action.metavar in kinds or "_option" in getattr(action.type, "__qualname__", "")


def generate(command: str, rng: random.Random) -> tuple[list[str], int | None]:
    """Generate a command line and its expected exit code; None if 0, 1 and 2 are all valid."""
    line, code, used = list(COMMANDS[command]), PLAIN_CODES.get(command, 0), 0
    for action in rng.sample(options_of(command), min(len(options_of(command)), rng.randrange(4))):
        line.append(rng.choice(action.option_strings))
        used += 1
        if action.nargs == 0:
            continue
        value = rng.choice(rng.choice((BLANK, NO_NUMBERS, ABSURD, ABSURD)))
        if action.dest in SLOW:
            value = rng.choice(("1", "0", "-1", *BLANK, *NO_NUMBERS))
        values = [value] * (action.nargs if isinstance(action.nargs, int) else 1)
        line += values
        if (
            value in BLANK
            or (value in NO_NUMBERS and numeric(action))
            or (action.choices and value not in action.choices)
        ):
            code = 2
    return line, 2 if code == 2 else (None if used else code)


_OPTIONS: dict[str, list[argparse.Action]] = {}


def options_of(command: str) -> list[argparse.Action]:
    """Cached `options` of a command."""
    if command not in _OPTIONS:
        _OPTIONS[command] = options(command)
    return _OPTIONS[command]


def prepare() -> None:
    """Write the files that the command lines name: dataset, picture, evaluation and tar."""
    from PIL import Image

    from data_prep.pack import pack
    from data_prep.synthetic.receipts import thermal_receipts
    from ocrkit.evaluation.evaluation import score

    thermal_receipts("data", receipts=3, seed=1, split=(0.4, 0.3, 0.3), progress=False)
    Image.new("RGB", (60, 32), "white").save("a.png")
    Path("labels.csv").write_text("image,text\na.png,TOTAL\n")
    Path("text").write_text("TOTAL\n")
    records = [{"id": "a", "reference": "TOTAL", "prediction": "TOTAI"}]
    Path("evaluation").mkdir()
    score(records, "tuned").save("evaluation")
    pack("data", "packed.tar")


@contextlib.contextmanager
def replaced(loads: list):
    """Replace model loading and the functions that use a model by stubs."""

    def load(config):
        loads.append(config)
        if resolve_model(config.model_name_or_path)[0] != str(TINY):
            raise ModelError(f"model_name_or_path={config.model_name_or_path!r} is not here.")
        return None, None

    def train(model, processor, data, config):
        return SimpleNamespace(global_step=1, training_loss=1.0, seconds=1.0, adapter_dir="out")

    def evaluate(model, processor, rows, config, name):
        from ocrkit.evaluation.evaluation import score

        return score([{"id": "a", "reference": "A", "prediction": "A"}], name)

    def evaluate_server(url, model, rows, config, name, **_):
        return evaluate(None, None, rows, config, name)

    def read(reader, pictures, prompt):
        return [{"id": p.id, "prediction": prompt, "error": None} for p in pictures]

    verbs = {
        "ocrkit.load_model": load,
        "ocrkit.models.load.load_model": load,
        "ocrkit.train": train,
        "ocrkit.evaluate": evaluate,
        "ocrkit.evaluation.evaluate.evaluate_server": evaluate_server,
        "ocrkit.evaluation.page_lines.LineReader": lambda *_: None,
        "ocrkit.evaluation.server.ServerReader": lambda *_, **__: None,
        "ocrkit.baseline": lambda *_: "table",
        "ocrkit.forecast": lambda *_, **__: None,
        "ocrkit.plan": lambda *_: None,
        "ocrkit.find_lr": lambda *_, **__: None,
        "ocrkit.export": lambda *_, **__: Path("exported"),
        "ocrkit.models.read.Reader": lambda *_: None,
        "ocrkit.models.read_files.read_pictures": read,
        "ocrkit.models.predictions.write_predictions": lambda *_, **__: (1, 0),
        "data_prep.validate.draw": lambda *_: b"",
    }
    for name in verbs:
        # Import first: a module that is imported while the stubs are active would keep them.
        module, _, verb = name.rpartition(".")
        getattr(importlib.import_module(module), verb)
    with contextlib.ExitStack() as stack:
        for name, verb in verbs.items():
            stack.enter_context(patch(name, verb, create=True))
        yield


def run(command: str, line: list[str]) -> tuple[object, str, str]:
    """Exit code (or traceback), stdout and stderr of a command line."""
    main, first = entry(command)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*first, *line])
        except SystemExit as ended:
            code = ended.code
        except Exception as error:  # a traceback of any kind is a fault to report
            code = f"{type(error).__name__}: {traceback.format_exc()}"
    return code, out.getvalue(), err.getvalue()


def fuzz(count: int, seed: int = 0, rare: bool = True) -> dict:
    """Run `count` generated lines in a temporary folder; returns counts, seconds and faults.

    Args:
        rare: whether every twentieth line is of a slow command.
    """
    rng = random.Random(seed)
    faults, codes, loads = [], Counter(), []
    seconds: dict[str, float] = dict.fromkeys(COMMANDS, 0.0)
    before = Path.cwd()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, replaced(loads):
        place = Path(folder) / "a" / "b" / "c"
        place.mkdir(parents=True)
        os.chdir(place)
        try:
            prepare()
            prepared = set(Path().iterdir())
            names = [name for name in COMMANDS if name not in RARE]
            for number in range(count):
                slow = rare and number % 20 == 19
                command = rng.choice(RARE) if slow else names[number % len(names)]
                line, expected = generate(command, rng)
                files = sum(1 for _ in Path(folder).rglob("*")) if expected == 2 else 0
                loaded, began = len(loads), time.perf_counter()
                code, _, err = run(command, line)
                seconds[command] += time.perf_counter() - began
                codes[code if code in (0, 1, 2) else "traceback"] += 1
                for path in set(Path().iterdir()) - prepared if expected != 2 else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                fault = None
                if code not in (0, 1, 2):
                    fault = code
                elif expected is not None and code != expected:
                    fault = f"exit code {code} instead of {expected}"
                elif code and not err.strip():
                    fault = f"exit code {code} without a message"
                elif code == 2 and len(loads) > loaded:
                    fault = "a model was loaded before wrong usage was seen"
                elif expected == 2 and sum(1 for _ in Path(folder).rglob("*")) != files:
                    fault = "something was written before wrong usage was seen"
                if fault:
                    faults.append({"command": command, "line": line, "fault": fault, "err": err})
        finally:
            os.chdir(before)
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:6]
    return {
        "lines": count,
        "seconds": round(time.perf_counter() - started, 1),
        "codes": dict(codes),
        "faults": faults,
        "by_command": {name: round(seconds[name], 1) for name in slowest},
    }


def main(arguments: list[str]) -> int:
    """Fuzz, and print every fault; exit code 0."""
    count = int(arguments[0]) if arguments else 2000
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    result = fuzz(count, seed)
    for fault in result.pop("faults"):
        print(json.dumps(fault, indent=1)[:3000])
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
