"""One module a source format: `hwdb_gnt.py` is the source `hwdb-gnt`.

Each holds
    a docstring    its first line is shown by `--list`
    EXAMPLE        INPUT and options of an example command
    TASKS          what `--task` takes, the default first
    OPTIONS        {option of its own: default}
    rows(path, options)
                   yields an `Item` or a `Reject` for everything it finds in one INPUT; a broken
                   part is a Reject, and an input that is no such source at all a DataError;
                   `options` holds what was asked for, and `inputs`, the paths of all INPUTs
"""

import hashlib
import re

from data_prep.dataset.schema import ENDINGS


def slug(name: str) -> str:
    """A name as part of a file name: ASCII, short, and different for different names."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
    if short != name or not short:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        short = f"{short}-{digest}".lstrip("-")
    return short


def stem(name: str) -> str:
    """A name in a `Tree` without its extension, folders kept."""
    folder, _, base = name.rpartition("/")
    base = base.rsplit(".", 1)[0] if "." in base[1:] else base
    return f"{folder}/{base}" if folder else base


def folder_of(name: str) -> str:
    """The folder part of a name in a `Tree`, "" at its root."""
    return name.rpartition("/")[0]


IMAGES = tuple(f"*{ending}" for ending in ENDINGS)
