"""Synthetic datasets: `python -m data_prep.synthesize lines|invoices|receipts|toys`."""

import argparse
import importlib
import sys
from collections.abc import Callable

from data_prep.dataset.command import exit_code, parse_arguments

COMMANDS = {
    "lines": "lines of Bangla, Korean, Chinese and Latin: printed, handwritten, on signs",
    "invoices": "business documents with their fields as JSON",
    "receipts": "lines of worn till receipts, in fonts that need no download",
    "toys": "small tasks for the embedded model: fields, tables and questions",
}

# Commands whose module has another name.
MODULES = {"invoices": "invoices.make"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return exit_code(lambda: _work(arguments), "nothing is left behind, run it again")


def _work(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthesize",
        description="Make a dataset where there is none.",
        epilog="COMMAND --help tells the options of each, with examples.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run: Callable[[argparse.Namespace], int] | None = None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"Make {summary}.")
        # Only the module of the chosen command is imported, so that --help is fast.
        if arguments[:1] == [name]:
            module = importlib.import_module(f"data_prep.synthetic.{MODULES.get(name, name)}")
            command.epilog = module.GUIDE
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(command)
            run = module.run
    options = parse_arguments(parser, arguments)
    assert run is not None, "argparse accepts the commands of COMMANDS only"
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
