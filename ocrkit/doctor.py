"""Check this machine before a run: `python -m ocrkit doctor`, one line a finding."""

import ctypes.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.dataset.command import can_be_found, import_problem, requirement_lines
from data_prep.dataset.files import existing_folder
from ocrkit.environment import notebook_host
from ocrkit.errors import DataError

# (ok, warn or fail; subject; finding and the way out)
Finding = tuple[str, str, str]

# Packages that every run needs; the others serve a part of the kit.
ESSENTIAL = (
    "torch transformers trl peft accelerate datasets torchvision pillow numpy pyyaml rapidfuzz "
    "regex tqdm"
).split()
# Free space that a 2-billion model, its checkpoints and a merge need.
DISK_GB, MEMORY_GB, GPU_GB = 20, 8, 8
# CUDA version of the oldest build that torch's own index has.
OLDER_BUILD = (12, 6)


def doctor(output_dir: str | Path = ".") -> list[Finding]:
    """Check Python, packages, backend, GPU, memory, disk, fonts and Tesseract.

    Args:
        output_dir: the folder whose disk a run would fill.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "backend": _backend,
        "GPU": _gpu,
        "memory": _memory,
        "disk": lambda: _disk(Path(output_dir).expanduser()),
        "fonts": _fonts,
        "Tesseract": _tesseract,
    }
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings.extend(check())
        except ImportError as error:
            findings.append(("warn", subject, f"not checked: {import_problem(error)}"))
        except Exception as error:  # a check that fails must not hide the others
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(("warn", subject, f"not checked: {cause}"))
    return findings


def table(findings: list[Finding]) -> str:
    """Format findings as lines."""
    return "\n".join(f"{state:5}{subject:14}{text}" for state, subject, text in findings)


def next_step(findings: list[Finding]) -> str:
    """Say what to do first on this machine, with the lines to copy."""
    failed = [subject for state, subject, _ in findings if state == "fail"]
    if failed:
        return f"first: what is marked fail ({', '.join(failed)}), then the doctor again"
    gpu = any(state == "ok" and subject.startswith("GPU") for state, subject, _ in findings)
    if gpu:
        text = "first: see which recipe is for you, and what it will take on your data"
        commands = ["python -m ocrkit recipes"]
        commands += ["python -m ocrkit plan --recipe korean --dataset DIR"]
    else:
        text = "first: fine-tune the embedded reader, which takes minutes on a CPU"
        commands = [
            "python -m data_prep.synthesize receipts --out data/receipts",
            "python -m ocrkit train --recipe quickstart --dataset data/receipts "
            "--output_dir runs/first",
        ]
    return "\n".join([text, *(f"  {command}" for command in commands)])


def _python() -> Iterator[Finding]:
    host = {
        "colab": "Colab: the disk goes with the machine, so put output_dir on Drive",
        "kaggle": "Kaggle: /kaggle/input is read-only, so put output_dir under /kaggle/working",
        "local": "this machine",
    }[notebook_host()]
    version = platform.python_version_tuple()
    state = "ok" if (3, 11) <= (int(version[0]), int(version[1])) <= (3, 13) else "warn"
    hint = "" if state == "ok" else "; the kit is tested on 3.11 to 3.13"
    yield state, "Python", f"{platform.python_version()} on {host}{hint}"


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    lines = requirement_lines()
    if not lines:
        yield "warn", "packages", "no requirements.txt, so versions cannot be compared"
        return
    tested = []
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        essential = wanted.name in ESSENTIAL
        fix = f"`pip install '{wanted.name}{wanted.specifier}'`"
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            installed = None
        if installed is None or not can_be_found(wanted.name):
            state = "fail" if essential else "warn"
            yield state, wanted.name, f"is not installed: {fix}"
            continue
        # A build such as 2.9.0+cu128 is version 2.9.0.
        if wanted.specifier.contains(installed.partition("+")[0], prereleases=True):
            tested.append(wanted.name)
        else:
            text = f"{installed} lies outside the tested {wanted.specifier}: {fix}"
            yield "warn", wanted.name, text
    yield "ok", "packages", f"{len(tested)} have tested versions"


def _backend() -> Iterator[Finding]:
    from ocrkit.config import TrainConfig
    from ocrkit.models.backend import choose_backend

    backend, why = choose_backend(TrainConfig())
    if backend == "unsloth":
        yield "ok", "backend", f"unsloth {metadata.version('unsloth')} ({why})"
    else:
        state = "warn" if "not installed" in why else "ok"
        yield state, "backend", f"transformers and PEFT ({why})"


def _gpu() -> Iterator[Finding]:
    import torch

    from ocrkit.models.backend import has_driver

    if not torch.cuda.is_available():
        if has_driver() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            built = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
            older = older_driver(driver_cuda(), torch.version.cuda)
            text = older and f"{older}, so {built} sees no GPU"
            text = text or f"a driver is present, but {built} sees no GPU: install a torch for it"
            yield "fail", "GPU", f"{text}; or set backend=transformers to go on with the CPU"
        else:
            yield "warn", "GPU", "none: only the embedded model trains in reasonable time"
        return
    for number in range(torch.cuda.device_count()):
        card: Any = torch.cuda.get_device_properties(number)
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
        state = "ok" if free >= GPU_GB else "warn"
        hint = "" if state == "ok" else "; close what else uses it, or take load_in_4bit"
        text = f"{card.name}, CUDA {torch.version.cuda}, {dtype}, {free:.1f} of {total:.1f} GiB"
        capability, built = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
        if not has_kernels(capability, built):
            state = "fail"
            hint = (
                f"; torch {torch.__version__} has no kernels for its capability "
                f"{capability[0]}.{capability[1]}, only for {', '.join(built)}: take another card "
                "(on Kaggle: T4 x2), or a torch that was built for this one"
            )
        yield state, f"GPU {number}", f"{text} free{hint}"


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version (major, minor) that this machine's driver knows; None: not told."""
    library = ctypes.util.find_library("cuda")
    if library is None:
        return None
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    # 12060 is 12.6.
    return None if failed else (number.value // 1000, number.value % 1000 // 10)


def older_driver(driver: tuple[int, int] | None, built: str | None) -> str:
    """Sentence on a driver that is older than torch's CUDA, with the way out; empty if it is not.

    Args:
        driver: newest CUDA version that the driver knows.
        built: CUDA version that torch was built for.
    """
    if driver is None or not built:
        return ""
    wanted = tuple(map(int, built.split(".")[:2]))
    # Drivers run what was built for any minor version of their own major version.
    if driver[0] >= wanted[0]:
        return ""
    versions = f"the driver knows CUDA {driver[0]}.{driver[1]} and torch was built for {built}"
    fitting = ", which it is too old for as well"
    if driver[0] >= OLDER_BUILD[0]:
        fitting = ", which fits it: https://pytorch.org/get-started/locally gives the line"
    oldest = ".".join(map(str, OLDER_BUILD))
    return f"{versions}: update the driver, or take torch's build for CUDA {oldest}{fitting}"


def has_kernels(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a torch build has kernels for a GPU.

    Args:
        capability: compute capability of the GPU, (major, minor).
        built: `torch.cuda.get_arch_list()`: `sm_86` is machine code for GPUs of the same major and
            at least this minor version; `compute_86` is PTX, which the driver compiles for every
            later GPU; the suffix `a` restricts it to this capability, `f` to its family.
    """
    for arch in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:  # not CUDA
            return True
        kind, major, minor, suffix = match.groups()
        least = (int(major), int(minor))
        if suffix == "a":
            fits = capability == least
        elif kind == "sm" or suffix == "f":
            fits = capability[0] == least[0] and capability >= least
        else:
            fits = capability >= least
        if fits:
            return True
    return not built


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    state = "ok" if free >= MEMORY_GB else "warn"
    hint = "" if state == "ok" else f"; a 2-billion model wants {MEMORY_GB} to load and to merge"
    yield state, "memory", f"{free:.1f} GiB available{hint}"


def _disk(folder: Path) -> Iterator[Finding]:
    existing = existing_folder(folder.resolve())
    if not os.access(existing, os.W_OK):
        yield "fail", "disk", f"{folder} cannot be written: give another output_dir"
        return
    free = shutil.disk_usage(existing).free / 1e9
    state = "ok" if free >= DISK_GB else "warn"
    hint = "; a 2-billion model, its checkpoints and a merge want "
    hint = "" if state == "ok" else f"{hint}{DISK_GB}"
    yield state, "disk", f"{free:.1f} GB free under {existing}{hint}"


def _fonts() -> Iterator[Finding]:
    from data_prep.synthetic.fonts import FACES, LANGUAGES, find_fonts, installed_fonts

    def families(language: str, face: str) -> int:
        try:
            return len(find_fonts(language, face))
        except DataError:  # none is installed
            return 0

    for language, faces in FACES.items():
        counts = {face: families(language, face) for face in faces}
        listed = ", ".join(f"{face} {count}" for face, count in counts.items())
        packages = sorted({package for face in faces.values() for package in face.values()})
        packages = packages if installed_fonts() else ["fontconfig", *packages]
        state = "ok" if any(counts.values()) else "warn"
        hint = "" if state == "ok" else f"; to draw lines: apt-get install {' '.join(packages)}"
        yield state, "fonts", f"{LANGUAGES[language]} families: {listed}{hint}"


def _tesseract() -> Iterator[Finding]:
    program = shutil.which("tesseract")
    if program is None:
        yield "ok", "Tesseract", "not installed; only --engine tesseract wants it"
        return
    try:
        import pytesseract

        languages = ", ".join(pytesseract.get_languages())
        yield "ok", "Tesseract", f"{pytesseract.get_tesseract_version()}: {languages}"
    except Exception as error:  # the wrapper passes on many kinds of errors
        yield "warn", "Tesseract", f"{program} cannot be run: {' '.join(str(error).split())}"
