"""Staging folders: atomic writes of whole folders, and locks against a second command."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from data_prep.dataset.schema import DataError


@contextlib.contextmanager
def staging_folder(out: Path) -> Generator[Path]:
    """Make an empty `.<out>.partial` beside `out`, for `rename_folder`; delete it afterwards.

    What a killed command left in it is deleted, too.

    Raises:
        DataError: as `locked`.
    """
    staging = out.parent / f".{out.name}.partial"
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def locked(out: Path) -> Generator[None]:
    """Lock a folder against a second command that writes it, where the system has file locks.

    Raises:
        DataError: another command holds the lock.
    """
    from filelock import FileLock, Timeout

    path = out.parent / f".{out.name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"Another command is writing {out}; wait for it to end.") from None
    except OSError:  # a network drive without locks
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file; release() does it
            path.unlink(missing_ok=True)
        lock.release()


def rename_folder(staging: Path, out: Path) -> None:
    """Rename a finished staging folder to `out`, which must not exist or be an empty folder."""
    if out.exists():
        out.rmdir()
    staging.rename(out)
