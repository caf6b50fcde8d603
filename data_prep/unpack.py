"""Unpacks a dataset from a network drive: `python -m data_prep.unpack TAR DIR`, see `pack`."""

import argparse
import sys

from data_prep.dataset.command import exit_code, parse_arguments
from data_prep.pack import unpack


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m data_prep.unpack`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.unpack",
        description="Unpack a dataset onto a local disk; checksums are compared.",
    )
    parser.add_argument("archive", metavar="TAR")
    parser.add_argument("out", metavar="DIR")
    options = parse_arguments(parser, arguments)

    def work() -> int:
        print(unpack(options.archive, options.out))
        return 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
