"""The install cell of the notebooks, and notebooks/install.py, which it runs."""

import errno
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from notebooks import install
from notebooks.build import project, shared_cells

ROOT = Path(__file__).parents[2]
# A shell that may mount disks of its own.
FULL = ["unshare", "--map-root-user", "--mount", "sh", "-e", "-c"]
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
    # What is installed for good is not this environment's.
    script = (ROOT / "notebooks" / "install.py").read_text(encoding="utf-8")
    script = script.replace('sysconfig.get_path("purelib")', repr(str(tmp_path)))
    (folder / "notebooks" / "install.py").write_text(script, encoding="utf-8")
    git("init", "--quiet", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "--quiet", "-m", "a", folder=folder)
    git("tag", RELEASE, folder=folder)
    return folder


def require(kit, line):
    """Let a clone, and its release, require a package."""
    (kit / "requirements.txt").write_text(f"{line}\n")
    git("commit", "--quiet", "-am", "b", folder=kit)
    git("tag", "--force", RELEASE, folder=kit)


def offer_large(kit, wheels, files, monkeypatch):
    """Let a clone require a package `large`, and pip know no other; its metadata come first."""
    wheels.mkdir()
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: large\nVersion: 1\n",
        "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheels / "large-1-py3-none-any.whl", "w") as wheel:
        for name, text in metadata.items():
            wheel.writestr(f"large-1.dist-info/{name}", text)
        for name, content in files.items():
            wheel.writestr(name, content)
    require(kit, "large==1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


@pytest.fixture
def run(origin, tmp_path):
    """Run the install cell in an empty folder, then the kit's commands from another folder."""
    home = tmp_path / "home"
    home.mkdir()

    def run(release=RELEASE, address=None, disk=None, python=sys.executable, start=subprocess.run):
        cell = shared_cells("install")[1].source
        cell = cell.replace(RELEASE, release).replace(
            project()["urls"]["Repository"], address or origin.as_uri()
        )
        # As in a system's Python, whose folder holds no clone.
        cell = cell.replace("Path(sys.prefix)", "Path('/nowhere/env')")
        after = "for name in ('ocrkit', 'data_prep.convert'):\n"
        after += "    subprocess.run([sys.executable, '-m', name], cwd='/', check=True)\n"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["HOME"] = str(home)
        # Without the current folder among the paths, as where it is not the kit's.
        command = [str(python), "-P", "-c", f"{cell}\n{after}"]
        if disk and subprocess.run([*FULL, "true"], capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        if disk:  # a small one, which only this command sees
            command = [
                *FULL,
                f'mount -t tmpfs -o size=64k tmpfs {disk}; cd "$PWD"; "$@"',
                "-",
                *command,
            ]
        pipe = subprocess.PIPE
        return start(command, cwd=home, env=environment, stdout=pipe, stderr=pipe, text=True)

    run.home = home
    return run


def test_install_clones_the_release_and_commands_run_from_any_folder(run, tmp_path):
    for _ in range(2):  # the second time it is there
        done = run()
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2:] == ["the kit", "convert"]
        assert f"ocrkit of {run.home / 'ocrkit-src'}, without a GPU; installed: nothing new" in (
            done.stdout
        )
    assert (run.home / "ocrkit-src" / "requirements.txt").is_file()
    # For a kernel that is started anew, in this environment's folder of packages.
    assert (tmp_path / "ocrkit.pth").read_text() == str(run.home / "ocrkit-src")


def test_install_uses_a_clone_in_a_folder_named_ocrkit(run, origin):
    shutil.copytree(origin, run.home / "ocrkit")
    done = run(address="file:///nowhere")
    assert done.returncode == 0 and "the kit" in done.stdout
    assert f"ocrkit of {run.home / 'ocrkit'}" in done.stdout


def test_install_ignores_a_folder_named_ocrkit_without_the_kit(run):
    (run.home / "ocrkit" / "notes").mkdir(parents=True)
    done = run()
    assert done.returncode == 0 and f"ocrkit of {run.home / 'ocrkit-src'}" in done.stdout


def test_install_replaces_an_incomplete_clone(run):
    (run.home / "ocrkit-part" / ".git").mkdir(parents=True)
    assert run().returncode == 0
    assert not (run.home / "ocrkit-part").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [({"release": "v99"}, "v99"), ({"address": "file:///nowhere"}, "does not appear")],
)
def test_install_clone_failure_is_one_sentence(run, arguments, cause):
    done = run(**arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "failed, so nothing is installed" in line and cause in line
    assert run().returncode == 0  # the next try starts anew


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({"PIP_NO_INDEX": "1"}, "ERROR: No matching distribution"),
        (
            {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"},
            "no package index answered: is this machine connected",
        ),
    ],
)
def test_a_package_that_cannot_be_installed_is_one_sentence(
    run, origin, environment, cause, monkeypatch
):
    require(origin, "not-of-any-index>=1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run()
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "pip could not install the kit's packages: ERROR" in done.stderr
    assert cause in done.stderr
    # The kit is there, and the next try needs the packages alone.
    require(run.home / "ocrkit-src", "jiwer>=4")
    assert run(address="file:///nowhere").returncode == 0


def test_a_clone_on_a_full_disk_is_one_sentence(run):
    done = run(disk=run.home)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "failed, so nothing is installed" in done.stderr
    assert "No space left on device" in done.stderr
    assert run().returncode == 0


def test_packages_on_a_full_disk_are_one_sentence(run, origin, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    offer_large(origin, tmp_path / "wheels", {"large/data": os.urandom(300_000)}, monkeypatch)
    monkeypatch.setenv("PIP_PREFIX", str(disk))
    done = run(disk=disk)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr
    assert "installed: large 1" in run().stdout
    assert (tmp_path / "ocrkit.pth").read_text() == str(run.home / "ocrkit-src")


@pytest.fixture
def interrupted(run, origin, tmp_path, monkeypatch):
    """A cell whose pip stands still in the middle of a package, (cell, pip, folder, Python)."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    folder = next((tmp_path / "env").glob("lib/python*/site-packages"))
    # pip and what it needs are those of this environment.
    (folder / "these.pth").write_text(sysconfig.get_path("purelib"))
    files = {f"large/{number}.txt": "" for number in range(3000)}
    offer_large(origin, tmp_path / "wheels", files, monkeypatch)
    python = tmp_path / "env" / "bin" / "python"
    cell = run(python=python, start=subprocess.Popen)
    end = time.monotonic() + 60
    while not (folder / "large-1.dist-info" / "METADATA").exists() and time.monotonic() < end:
        time.sleep(0.001)
    (pip,) = psutil.Process(cell.pid).children()
    pip.suspend()
    assert len(list((folder / "large").glob("*"))) < len(files), (
        "pip was done before it was stopped"
    )
    yield cell, pip, folder, python
    for process in (cell, pip):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    cell.communicate()


def large_is_whole(folder):
    info = folder / "large-1.dist-info"
    return len(list((folder / "large").glob("*"))) == 3000 and (info / "INSTALLER").exists()


def test_install_repairs_what_a_killed_pip_left(run, interrupted):
    cell, pip, folder, python = interrupted
    cell.kill()
    pip.kill()
    (folder / "~arge").mkdir()  # as where pip was replacing an older version
    assert not large_is_whole(folder)
    done = run(python=python)
    assert done.returncode == 0, done.stderr
    assert "installed: large 1; replaced: nothing" in done.stdout
    assert large_is_whole(folder) and not (folder / "~arge").exists()
    assert "installed: nothing new" in run(python=python).stdout


def test_install_waits_for_the_pip_of_a_killed_kernel(run, interrupted):
    cell, pip, folder, python = interrupted
    cell.kill()
    again = run(python=python, start=subprocess.Popen)
    assert (
        again.stdout.readline()
        == "pip is still installing for an earlier kernel; waiting for it.\n"
    )
    pip.resume()
    told, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert "installed: nothing new" in told and large_is_whole(folder)


def test_a_disk_without_room_for_a_list_is_one_sentence(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(install, "pip_install", full)
    monkeypatch.setattr(install, "installed_versions", dict)
    with pytest.raises(SystemExit, match=r"could not be installed: .*No space left on device"):
        install.main()


def test_install_reports_a_torch_outside_the_tested_range():
    with pytest.raises(SystemExit, match=r"has torch 2.8.0\+cu128, and the kit needs torch .*2.9"):
        install.missing([Requirement("torch>=2.9,<2.15")], {"torch": "2.8.0+cu128"})


def test_lines_for_a_gpu_are_left_out_without_one():
    names = {gpu: {line.name for line in install.requirements(gpu)} for gpu in (False, True)}
    assert names[True] - names[False] == {"unsloth"}
    assert "torch" in names[False]


@pytest.mark.parametrize(
    ("torch", "held"), [("2.9.1", True), ("2.10.0", False), ("2.11.0+cu128", False)]
)
def test_install_keeps_installed_torch_and_a_matching_torchao(torch, held, monkeypatch):
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
