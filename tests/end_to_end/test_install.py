"""The install cell of the notebooks, and notebooks/install.py, which it runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from notebooks import install
from notebooks.build import INSTALL, install_cells, project

ROOT = Path(__file__).parents[2]
RELEASE = f"v{project()['version']}"


def git(*arguments, folder):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def origin(tmp_path):
    """A small repository in the place of the kit's, with the release's tag."""
    folder = tmp_path / "origin"
    for name, text in {
        "ocrkit/__init__.py": "",
        "ocrkit/__main__.py": "print('the kit')",
        "data_prep/__init__.py": "",
        "data_prep/convert.py": "print('convert')",
        "requirements.txt": "# a range\njiwer>=4\nnot-of-any-index>=1  # GPU\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "install.py", folder / "notebooks")
    git("init", "--quiet", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "--quiet", "-m", "a", folder=folder)
    git("tag", RELEASE, folder=folder)
    return folder


@pytest.fixture
def run(origin, tmp_path):
    """Run the install cell in an empty folder, then the kit's commands from another folder."""
    home = tmp_path / "home"
    home.mkdir()

    def run(release=RELEASE, address=None):
        cell = install_cells()[1].source
        cell = cell.replace(RELEASE, release).replace(
            project()["urls"]["Repository"], address or origin.as_uri()
        )
        # As in a system's Python, whose folder holds no clone.
        cell = cell.replace("Path(sys.prefix)", "Path('/nowhere/env')")
        after = "for name in ('ocrkit', 'data_prep.convert'):\n"
        after += "    subprocess.run([sys.executable, '-m', name], cwd='/', check=True)\n"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["HOME"] = str(home)
        return subprocess.run(
            # Without the current folder among the paths, as where it is not the kit's.
            [sys.executable, "-P", "-c", f"{cell}\n{after}"],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    run.home = home
    return run


def test_the_release_is_cloned_and_its_commands_run_from_any_folder(run):
    for _ in range(2):  # the second time it is there
        done = run()
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2:] == ["the kit", "convert"]
        assert f"ocrkit of {run.home / 'ocrkit-src'}, without a GPU; installed: nothing new" in (
            done.stdout
        )
    assert (run.home / "ocrkit-src" / "requirements.txt").is_file()


def test_a_clone_in_a_folder_ocrkit_is_used_and_not_taken_for_the_package(run, origin):
    shutil.copytree(origin, run.home / "ocrkit")
    done = run(address="file:///nowhere")
    assert done.returncode == 0 and "the kit" in done.stdout
    assert f"ocrkit of {run.home / 'ocrkit'}" in done.stdout


def test_a_folder_ocrkit_without_the_kit_is_not_taken_for_it(run):
    (run.home / "ocrkit" / "notes").mkdir(parents=True)
    done = run()
    assert done.returncode == 0 and f"ocrkit of {run.home / 'ocrkit-src'}" in done.stdout


def test_a_half_made_clone_is_made_anew(run):
    (run.home / "ocrkit-part" / ".git").mkdir(parents=True)
    assert run().returncode == 0
    assert not (run.home / "ocrkit-part").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [({"release": "v99"}, "v99"), ({"address": "file:///nowhere"}, "does not appear")],
)
def test_a_clone_that_fails_is_one_sentence(run, arguments, cause):
    done = run(**arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "failed, so nothing is installed" in line and cause in line
    assert run().returncode == 0  # the next try starts anew


def test_a_package_that_cannot_be_installed_is_one_sentence(run, origin):
    (origin / "requirements.txt").write_text("not-of-any-index>=1\n")
    git("commit", "--quiet", "-am", "b", folder=origin)
    git("tag", "--force", RELEASE, folder=origin)
    environment = {"PIP_NO_INDEX": "1"}
    os.environ.update(environment)
    try:
        done = run()
    finally:
        del os.environ["PIP_NO_INDEX"]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pip could not install the kit's packages: ERROR" in done.stderr


def test_a_torch_outside_the_ranges_is_told_with_both_versions():
    with pytest.raises(SystemExit, match=r"has torch 2.8.0\+cu128, and the kit needs torch .*2.9"):
        install.missing([Requirement("torch>=2.9,<2.15")], {"torch": "2.8.0+cu128"})


def test_lines_for_a_gpu_are_left_out_without_one():
    names = {gpu: {line.name for line in install.requirements(gpu)} for gpu in (False, True)}
    assert names[True] - names[False] == {"unsloth"}
    assert "torch" in names[False]


@pytest.mark.parametrize(
    ("torch", "held"), [("2.9.1", True), ("2.10.0", False), ("2.11.0+cu128", False)]
)
def test_pip_keeps_what_runs_and_a_torchao_that_fits(torch, held, monkeypatch):
    asked = {}

    def pip(command, **options):
        asked["constraints"] = Path(command[command.index("--constraint") + 1]).read_text()
        asked["lines"] = command[command.index("--constraint") + 2 :]
        report = Path(command[command.index("--report") + 1])
        report.write_text(
            json.dumps({"install": [{"metadata": {"name": "torchao", "version": "0.16.0"}}]})
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(install.subprocess, "run", pip)
    versions = {"torch": torch, "ipykernel": "6.17.1", "torchao": "0.10.0", "datasets": "4.0.0"}
    lines = install.missing([Requirement("torchao>=0.16,<0.19")], versions)
    assert install.pip_install(lines, versions, dry_run=False) == {"torchao": "0.16.0"}
    constraints = asked["constraints"].splitlines()
    assert {f"torch=={torch}", "ipykernel==6.17.1"} <= set(constraints)
    assert ("torchao<0.17" in constraints) == held and "datasets==4.0.0" not in constraints
    assert [Requirement(line).name for line in asked["lines"]] == ["torchao"]


def test_the_cell_has_no_address_of_its_own():
    assert "github.com" not in "".join(INSTALL)
