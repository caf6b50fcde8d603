"""Environments of Colab and Kaggle in stand-ins, and what the install cell would change in them.

`python -m tests.tools.hosts LIST...` takes lists of NAME==VERSION lines, such as Colab's pip
freeze, makes an environment with an empty distribution of each, and asks notebooks/install.py what
it would install there. It downloads only what pip needs to decide. Stand-ins require nothing, so
conflicts among a host's own packages are not seen; this machine's Python takes the place of the
host's.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

from notebooks.install import KEPT

ROOT = Path(__file__).parents[2]
# What Kaggle's Dockerfile pins, and what is known of its image of August 2026 besides.
KAGGLE = (
    "torch==2.10.0+cu128 torchvision==0.25.0+cu128 transformers==5.0.0 numpy==2.0.2 pillow==11.3.0 "
    "ipykernel==6.17.1 ipywidgets==8.1.5 protobuf==5.29.5 pandas==2.2.3 datasets==4.0.0 "
    "peft==0.16.0 accelerate==1.9.0 torchao==0.10.0"
).split()
# Colab's CPU list names these by the address of a file.
COLAB_CPU = ["torch==2.11.0+cpu", "torchvision==0.26.0+cpu"]
GPU_PACKAGES = {"triton", "xformers", "unsloth", "unsloth-zoo"}


class Change(NamedTuple):
    """What the install cell would do: {package: version} of new ones, {package: (old, new)}."""

    installed: dict[str, str]
    replaced: dict[str, tuple[str, str]]


def read_list(path: Path) -> list[str]:
    """The NAME==VERSION lines of a pip freeze, without those of a file or an address."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if re.fullmatch(r"[\w.-]+==\S+", line.strip())]


def make_environment(folder: Path, packages: list[str]) -> Path:
    """Make an environment with an empty distribution of each package; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # The install cell itself needs this one, as it is.
    own = distribution("packaging")
    (site / "own.pth").write_text(str(_copy_of_packaging(folder, Path(str(own.locate_file(""))))))
    for package in packages:
        name, version = package.split("==")
        if name.lower() in ("pip", "setuptools", "packaging"):
            continue
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text, encoding="utf-8")
        (info / "RECORD").write_text("", encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
    return python


def _copy_of_packaging(folder: Path, site: Path) -> Path:
    target = folder / "own"
    target.mkdir()
    for path in site.glob("packaging*"):
        (target / path.name).symlink_to(path)
    return target


def changes(packages: list[str], gpu: bool) -> Change:
    """What the install cell would install and replace beside these packages.

    Raises:
        RuntimeError: it stops; the message is its sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(Path(folder, "env"), packages)
        command = [python, ROOT / "notebooks" / "install.py", "--dry-run"]
        command += ["--gpu", "yes" if gpu else "no"]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return parse(done.stdout)


def parse(text: str) -> Change:
    """Read the last line that notebooks/install.py prints."""
    line = text.strip().splitlines()[-1]
    new, old = re.search(r"installed: (.*); replaced: (.*)\.$", line).groups()
    installed = dict(item.split(" ") for item in new.split(", ") if " by " not in item)
    replaced = {}
    if old != "nothing":
        for item in old.split(", "):
            name, before, _, after = item.split(" ")
            replaced[name] = (before, after)
    return Change({} if new == "nothing new" else installed, replaced)


def faults(change: Change, gpu: bool) -> list[str]:
    """Name what must not be: a kept package replaced, or packages for a GPU without one."""
    kept = [f"{name} is replaced" for name in change.replaced if name.lower() in KEPT]
    kept += [f"{name} is installed" for name in change.installed if name.lower() in KEPT[:2]]
    names = {name.lower().replace("_", "-") for name in (*change.installed, *change.replaced)}
    needless = sorted(names & GPU_PACKAGES) if not gpu else []
    lacking = sorted({"unsloth"} - names) if gpu else []
    return [
        *kept,
        *(f"{name} is installed without a GPU" for name in needless),
        *(f"{name} is not installed" for name in lacking),
    ]


def hosts(folder: Path) -> dict[str, tuple[list[str], bool]]:
    """{host: its packages and whether it has a GPU}, from Colab's lists in a folder."""
    listed: dict[str, tuple[list[str], bool]] = {"kaggle-gpu": (KAGGLE, True)}
    for path in sorted(folder.glob("colab-*.txt")):
        gpu = "gpu" in path.stem
        listed[path.stem] = (read_list(path) + ([] if gpu else COLAB_CPU), gpu)
    return listed


def main() -> int:
    """Print what the install cell would change on every host; 1 where it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.hosts", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of colab-gpu-*.txt and colab-cpu-*.txt")
    wrong = 0
    for host, (packages, gpu) in hosts(parser.parse_args().folder).items():
        change = changes(packages, gpu)
        replaced = ", ".join(f"{n} {old} by {new}" for n, (old, new) in change.replaced.items())
        new = ", ".join(f"{name} {version}" for name, version in change.installed.items())
        print(f"{host}: {len(packages)} packages; replaced: {replaced or 'none'}; new: {new}")
        found = faults(change, gpu)
        wrong += len(found)
        for fault in found:
            print(f"  {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
