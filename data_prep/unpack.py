"""Unpacks a dataset from a network drive: `python -m data_prep.unpack TAR DIR`, see `pack`."""

import sys

from data_prep.pack import run, unpack


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m data_prep.unpack`."""
    return run(unpack, arguments, ("TAR", "DIR"), "Unpack a dataset onto a local disk, checked.")


if __name__ == "__main__":
    sys.exit(main())
