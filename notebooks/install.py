"""Install what the kit requires into the environment that runs this file, and make it importable.

The first code cell of every notebook runs it in its kernel; `python notebooks/install.py --dry-run`
tells what would be installed. Requirements that are met stay as they are, as do `KEPT` packages,
whose replacement would need a restart of Colab or Kaggle. Lines of requirements.txt marked `# GPU`
are left out where there is no CUDA driver.
"""

import argparse
import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[1]
# Is there, and locked, while pip runs; stays behind, unlocked, where pip was killed.
MARK = ROOT / ".installing"
KEPT = "torch torchvision numpy pillow ipykernel ipython ipywidgets protobuf pandas".split()
# The largest torchao for a torch below 2.10, which newer ones cannot be imported with.
OLD_TORCH, OLD_TORCHAO = Version("2.10"), "torchao<0.17"


def has_gpu() -> bool:
    """Whether this machine has a CUDA driver."""
    return bool(ctypes.util.find_library("cuda")) or Path("/proc/driver/nvidia").exists()


def installed_versions() -> dict[str, str]:
    """{package: version} of this environment, names in lower case and with dashes."""
    listed = [(d.metadata["Name"], d.version) for d in distributions()]
    # Of several copies Python imports the first.
    return {name.lower().replace("_", "-"): v for name, v in reversed(listed) if name and v}


@contextmanager
def marked() -> Iterator[tuple[int, ...]]:
    """Keep `MARK` until the block ends; a process with the yielded files keeps it locked too."""
    try:
        mark = MARK.open("w")
    except OSError:  # a read-only kit
        yield ()
        return
    with mark:
        if fcntl:
            fcntl.flock(mark, fcntl.LOCK_EX)
        yield (mark.fileno(),) if fcntl else ()
    MARK.unlink(missing_ok=True)


def finish_earlier() -> None:
    """Wait for the pip of a kernel that has gone, and remove what a killed pip left half.

    A package whose metadata are there counts as installed, also for pip, but pip writes INSTALLER
    only after all files of a package. What pip was replacing lies in folders that begin with "~".
    """
    if not MARK.exists():
        return
    began = MARK.stat().st_mtime
    with MARK.open("a") as mark:
        if fcntl:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("pip is still installing for an earlier kernel; waiting for it.", flush=True)
                fcntl.flock(mark, fcntl.LOCK_EX)
        for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            half = [
                info
                for info in Path(folder).glob("*.dist-info")
                if info.stat().st_mtime >= began and not (info / "INSTALLER").exists()
            ]
            for path in (*half, *Path(folder).glob("~*")):
                shutil.rmtree(path, ignore_errors=True)
        MARK.unlink(missing_ok=True)


def requirements(gpu: bool) -> list[Requirement]:
    """The lines of requirements.txt that this machine needs."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#") for line in lines if line and not line.startswith("#")]
    chosen = [Requirement(text) for text, _, mark in wanted if gpu or mark.strip() != "GPU"]
    return [line for line in chosen if line.marker is None or line.marker.evaluate()]


def missing(wanted: list[Requirement], versions: dict[str, str]) -> list[Requirement]:
    """Requirements that the installed versions do not meet.

    Raises:
        SystemExit: a kept package lies outside its range.
    """
    lacking = []
    for line in wanted:
        version = versions.get(line.name)
        if version is not None and line.specifier.contains(version, prereleases=True):
            continue
        if version is not None and line.name in KEPT:
            sys.exit(
                f"This machine has {line.name} {version}, and the kit needs {line.name} "
                f"{line.specifier}: choose a runtime that has it, or install it, restart the "
                "kernel and run this cell again."
            )
        lacking.append(line)
    return lacking


def pip_install(
    lines: list[Requirement], versions: dict[str, str], dry_run: bool
) -> dict[str, str]:
    """Install requirements with pip, keeping `KEPT` packages; returns {package: new version}.

    Raises:
        SystemExit: pip failed; the message is its last error.
    """
    pins = [f"{name}=={versions[name]}" for name in KEPT if name in versions]
    if "torch" in versions and Version(versions["torch"]) < OLD_TORCH:
        pins.append(OLD_TORCHAO)
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder, "report.json"), Path(folder, "constraints.txt")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--report", str(report)]
        command += ["--constraint", str(constraints), *(["--dry-run"] * dry_run), *map(str, lines)]
        with nullcontext(()) if dry_run else marked() as held:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, pass_fds=held
            )
        if done.returncode:
            sys.exit(f"pip could not install the kit's packages: {cause(done.stderr)}")
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in chosen}


def cause(messages: str) -> str:
    """Why pip failed, in a sentence, from what it wrote on stderr."""
    lines = [line for line in messages.splitlines() if line.strip()] or ["it gave no reason"]
    last = ([line for line in lines if line.lower().startswith("error")] or lines)[-1]
    if any("connection broken" in line for line in lines):
        last += " (no package index answered: is this machine connected to the internet?)"
    return last


def make_importable(permanently: bool) -> None:
    """Let this kernel and the processes that it starts import the kit from any folder.

    Args:
        permanently: also for other processes of this environment, by a .pth file.
    """
    root = str(ROOT)
    if root not in sys.path:
        sys.path.insert(0, root)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *filter(None, paths)]))
    if permanently:
        with suppress(OSError):  # a read-only environment
            Path(sysconfig.get_path("purelib"), "ocrkit.pth").write_text(root, encoding="utf-8")


def main(arguments: Sequence[str] = ()) -> None:
    """Install what is missing and print what was done in a line."""
    parser = argparse.ArgumentParser(prog="python notebooks/install.py", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tell what would be installed")
    parser.add_argument("--gpu", choices=("auto", "yes", "no"), default="auto")
    options = parser.parse_args(arguments)
    gpu = has_gpu() if options.gpu == "auto" else options.gpu == "yes"
    package = importlib.util.find_spec("ocrkit")
    importable = package is not None and package.origin is not None
    if not options.dry_run:
        finish_earlier()
    before = installed_versions()
    lacking = missing(requirements(gpu), before)
    after: dict[str, str] = {}
    if lacking:
        names = ", ".join(line.name for line in lacking)
        print(f"Installing {names} and what they need; this takes some minutes.", flush=True)
        try:
            after = pip_install(lacking, before, options.dry_run)
        except OSError as error:  # a full disk
            sys.exit(f"The kit's packages could not be installed: {error}.")
    if not options.dry_run:
        make_importable(permanently=bool(after) or not importable)
    replaced = {name: v for name, v in after.items() if name.lower().replace("_", "-") in before}
    new = [f"{name} {version}" for name, version in after.items() if name not in replaced]
    changed = [f"{n} {before[n.lower().replace('_', '-')]} by {v}" for n, v in replaced.items()]
    print(f"ocrkit of {ROOT}{'' if gpu else ', without a GPU'}", end="; ")
    print(f"installed: {', '.join(new) or 'nothing new'}", end="; ")
    print(f"replaced: {', '.join(changed) or 'nothing'}.")
    in_use = [name for name in replaced if name.lower().replace("-", "_") in sys.modules]
    if in_use and not options.dry_run:
        print(f"Restart the kernel and run all cells again: {', '.join(in_use)} was in use.")


if __name__ == "__main__":
    main(sys.argv[1:])
