"""The splits of a dataset, of which a missing one says what to do."""

from typing import Any

from datasets import DatasetDict

from ocrkit.data import DataError


class Splits(DatasetDict):
    """A DatasetDict of one dataset folder; with `streaming` its train split is a `RowStream`."""

    def __init__(self, splits: dict[str, Any], folder: str = ""):
        super().__init__(splits)
        self.folder = folder

    def __missing__(self, split: str) -> None:
        """Say which splits there are.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self.folder} has no {split} split; it has {', '.join(self)}. Deal it anew: "
            "`python -m data_prep.convert ... --split 0.8,0.1,0.1`."
        )
