"""What tests share: small datasets, the embedded model, and a process with one thread."""

import contextlib
import errno
import io
import itertools
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Results of checks are kept in no folder, so that each process makes its own.
os.environ["OCRKIT_CACHE"] = ""
# Small batches gain nothing from more threads, and on a busy machine they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def thermal(tmp_path_factory):
    """A dataset folder of six worn receipts of ten lines: 40 for training, 10 and 10."""
    from data_prep.synthetic.receipts import thermal_receipts

    folder = tmp_path_factory.mktemp("data") / "thermal"
    thermal_receipts(folder, receipts=6, seed=3, split=(0.7, 0.15, 0.15), progress=False)
    return folder


@pytest.fixture
def config(thermal, tmp_path):
    """The quickstart's recipe for a run of four small steps."""
    from ocrkit import TrainConfig

    return TrainConfig.from_recipe(
        "quickstart",
        dataset=str(thermal),
        output_dir=str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=4,
        logging_steps=1,
        eval_steps=None,
        max_new_tokens=48,
        warmup_steps=1,
    )


@pytest.fixture(scope="session")
def processor():
    """The embedded model's processor."""
    from transformers import AutoProcessor

    from ocrkit.models.base import TINY

    return AutoProcessor.from_pretrained(TINY)


@pytest.fixture
def full_disk(monkeypatch):
    """A context in which the disk takes so many writes to new or extended files, and no more.

    `with full_disk(2) as writes:` lets two files be opened and written; the third and all after
    it are opened, and then refused with ENOSPC at their first byte. `writes` lists the paths.
    """

    @contextlib.contextmanager
    def full(allowed):
        writes, real = [], io.open

        def opened(file, mode="r", *args, **kwargs):
            stream = real(file, mode, *args, **kwargs)
            if not isinstance(file, int) and set(mode) & set("wax+"):
                writes.append(Path(file))
                if len(writes) > allowed:
                    stream.write = _no_space
            return stream

        with monkeypatch.context() as patched:
            patched.setattr(io, "open", opened)
            patched.setattr("builtins.open", opened)
            yield writes

    return full


def _no_space(data):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def killed_at(monkeypatch):
    """A context that is left at the n-th change of a folder, as by a kill: nothing is cleaned up.

    Changes are files opened for writing, renamed or deleted. `with killed_at(2) as killed:` lets
    two of them happen; `killed` is not empty where the third was asked for.
    """

    @contextlib.contextmanager
    def at(allowed):
        killed, count = [], itertools.count()

        def counted(real, changes=lambda *args: True):
            def call(*args, **kwargs):
                if changes(*args) and (killed or next(count) >= allowed):
                    killed.append(True)
                    raise _Killed
                return real(*args, **kwargs)

            return call

        def for_writing(path, mode="r", *args):
            return bool(set(mode) & set("wax+"))

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", counted(Path.open, for_writing))
            for name in ("replace", "rename", "unlink", "rmdir"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            with contextlib.suppress(_Killed):
                yield killed

    return at


class _Killed(BaseException):
    """Stands in for SIGKILL."""


def pytest_collection_modifyitems(items):
    """Lift the time limit of pyproject.toml from tests that only `make check` runs."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(terminalreporter):
    """Say how many tests on real data passed, so that a run without any is noticed."""
    passed = terminalreporter.stats.get("passed", [])
    count = sum("real_data" in report.keywords for report in passed)
    terminalreporter.write_line(f"real data: {count} tests passed")
