import platform
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import get_token

from ocrkit.environment import (
    PACKAGES,
    broadcast_from_main,
    is_main_process,
    load_secret,
    load_secrets,
    notebook_host,
    package_versions,
    process_count,
    process_rank,
    software_versions,
)
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


def test_decision_of_a_single_process_is_its_own():
    assert broadcast_from_main(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        broadcast_from_main(lambda: 1 / 0)


def test_colab_and_kaggle_are_known_by_their_variables(monkeypatch):
    assert notebook_host() == "local"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert notebook_host() == "kaggle"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert notebook_host() == "colab"


def test_a_package_that_is_missing_has_no_version():
    versions = package_versions(["torch", "no-such-package"])
    assert versions["torch"][0].isdigit() and versions["no-such-package"] is None


def test_software_versions_name_python_packages_and_processes():
    versions = software_versions()
    assert (versions["python"], versions["processes"]) == (platform.python_version(), 1)
    assert list(versions["packages"]) == PACKAGES


@pytest.mark.parametrize(
    ("place", "where"),
    [("KAGGLE_KERNEL_RUN_TYPE", "ticked for this notebook"), ("COLAB_RELEASE_TAG", "the key")],
)
def test_secrets_that_do_not_exist_are_one_line_and_no_warning(place, where, monkeypatch, capsys):
    monkeypatch.setenv(place, "Interactive")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert load_secrets(("HF_TOKEN",)) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Secrets: none (added") and where in line


def test_kaggle_secret_is_put_where_the_hub_library_reads_it(monkeypatch):
    client = SimpleNamespace(get_secret={"HF_TOKEN": "hf_of_kaggle"}.__getitem__)
    module = SimpleNamespace(UserSecretsClient=lambda: client)
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setenv("HF_TOKEN", "")
    assert not load_secret("HF_TOKEN")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert load_secret("HF_TOKEN")
    assert get_token() == "hf_of_kaggle"


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("COLAB_RELEASE_TAG", "NotebookAccessError", "has no access: switch it on beside"),
        ("COLAB_RELEASE_TAG", "TimeoutException", "run the cell again"),
        ("COLAB_RELEASE_TAG", "", "empty in colab's secrets"),
        ("KAGGLE_KERNEL_RUN_TYPE", "", "empty in kaggle's secrets"),
    ],
)
def test_unreadable_secret_is_reported_with_its_reason(place, error, message, monkeypatch, capsys):
    def get(name):
        if error:
            raise type(error, (Exception,), {})("x")
        return " \n"

    colab = SimpleNamespace(userdata=SimpleNamespace(get=get))
    client = SimpleNamespace(UserSecretsClient=lambda: SimpleNamespace(get_secret=get))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "kaggle_secrets", client)
    monkeypatch.setenv(place, "x")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert not load_secret("HF_TOKEN")
    printed = capsys.readouterr().out
    assert printed.startswith("HF_TOKEN: ") and message in printed and printed.count("\n") == 1


def test_a_result_is_kept_for_its_key_and_versions(tmp_path, monkeypatch):
    from ocrkit import environment

    monkeypatch.setenv("OCRKIT_CACHE", str(tmp_path / "cache"))
    calls = []

    def result(key, value):
        monkeypatch.setattr(environment, "_results", {})
        return environment.remembered("leak", key, lambda: calls.append(key) or value)

    assert result("a", True) is True and result("a", False) is True
    assert result("b", None) is None and calls == ["a", "b"]
    for path in (tmp_path / "cache").iterdir():
        path.write_text("[]")
    assert result("a", False) is False
    monkeypatch.setattr(environment, "package_versions", lambda names: {"transformers": "9"})
    assert result("a", 3) == 3 and calls == ["a", "b", "a", "a"]
    # A folder that cannot be written is as good as none.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCRKIT_CACHE", str(tmp_path / "file" / "below"))
    assert result("c", 1) == 1
