"""What tests share: small datasets, the embedded model, and a process with one thread."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Small batches gain nothing from more threads, and on a busy machine they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def thermal(tmp_path_factory):
    """A dataset folder of six worn receipts of ten lines: 40 for training, 10 and 10."""
    from data_prep.receipts import thermal_receipts

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

    from ocrkit.base_model import TINY

    return AutoProcessor.from_pretrained(TINY)


def pytest_terminal_summary(terminalreporter):
    """Say how many tests on real data passed, so that a run without any is noticed."""
    passed = terminalreporter.stats.get("passed", [])
    count = sum("real_data" in report.keywords for report in passed)
    terminalreporter.write_line(f"real data: {count} tests passed")
