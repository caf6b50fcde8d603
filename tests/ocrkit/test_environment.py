import pytest

from ocrkit.environment import decided_by_main, is_main_process, process_count, process_rank, where
from ocrkit.errors import ConfigError


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    names = (
        "WORLD_SIZE RANK ACCELERATE_USE_CPU MASTER_ADDR COLAB_RELEASE_TAG KAGGLE_KERNEL_RUN_TYPE"
    )
    for name in names.split():
        monkeypatch.delenv(name, raising=False)


def test_one_process_without_a_launcher():
    assert (process_count(), process_rank(), is_main_process()) == (1, 0, True)


def test_a_launcher_numbers_its_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (process_count(), process_rank(), is_main_process()) == (4, 2, False)


def test_accelerate_that_started_one_process_of_several_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ConfigError, match="accelerate launch was given several processes"):
        process_count()


def test_a_single_process_decides_by_itself():
    assert decided_by_main(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        decided_by_main(lambda: 1 / 0)


def test_colab_and_kaggle_are_known_by_their_variables(monkeypatch):
    assert where() == "local"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert where() == "kaggle"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert where() == "colab"
