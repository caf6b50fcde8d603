"""Environment of a run: processes of a launcher, Colab or Kaggle and its secrets, versions."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from data_prep.dataset.files import write_whole
from ocrkit.errors import ConfigError

T = TypeVar("T")
# Packages whose versions a run records.
PACKAGES = (
    "ocrkit unsloth torch transformers trl peft accelerate datasets bitsandbytes kornia jiwer "
    "rapidfuzz"
).split()


def process_count() -> int:
    """Number of processes that train together; 1 without a launcher.

    Raises:
        ConfigError: `accelerate launch` was asked for several processes and started one.
    """
    # Without GPUs accelerate starts one process but sets the address at which several would meet.
    launched = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ)
    if launched and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch was given several processes and started one, since there are not as "
            "many GPUs; start it without accelerate, or `torchrun --nproc_per_node N -m ocrkit`."
        )
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Number of this process among all that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the process that prints and writes shared files."""
    return process_rank() == 0


def broadcast_from_main(call: Callable[[], T]) -> T:
    """Call a function on the main process alone; return or raise its outcome on every process.

    So that processes decide alike: on a shared file system each may see other files.
    """
    if process_count() == 1:
        return call()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome = [call(), None]
        except Exception as error:  # raised again on every process
            outcome = [None, error]
    PartialState(cpu=not torch.cuda.is_available())
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value


SECRETS = ("HF_TOKEN", "WANDB_API_KEY")


def notebook_host() -> str:
    """Name the host of this process: colab, kaggle or local."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "local"


def load_secret(name: str) -> bool:
    """Copy a token from Colab's or Kaggle's secrets to the environment; True where it is set.

    A value that is set already is kept, and no value is printed. A line names a secret that is
    there and cannot be used, such as one whose access is off; a secret that does not exist is none
    that anything needs so far.
    """
    if not os.environ.get(name) and notebook_host() != "local":
        try:
            if secret := (_secret(name) or "").strip():
                os.environ[name] = secret
            else:
                print(f"{name}: empty in {notebook_host()}'s secrets.")
        except Exception as error:  # Colab and Kaggle raise different errors
            if problem := _secret_problem(error):
                print(f"{name}: {problem}")
    return bool(os.environ.get(name))


def _secret_problem(error: Exception) -> str:
    """Explain why a secret that exists could not be read, by the name of the error."""
    kind = type(error).__name__
    if kind == "NotebookAccessError":
        return (
            "there in colab's secrets, but this notebook has no access: switch it on beside the "
            "secret (the key at the left) and run the cell again."
        )
    if kind == "TimeoutException":
        return "colab did not answer whether this notebook may read it: run the cell again."
    return ""


def load_secrets(names: tuple[str, ...] = SECRETS) -> list[str]:
    """Load several secrets with `load_secret`; print and return the names that are set."""
    loaded = [name for name in names if load_secret(name)]
    where = {
        "colab": " (added by the key at the left)",
        # Kaggle gives one answer for a secret that does not exist and one that is not attached.
        "kaggle": " (added, and ticked for this notebook, under Add-ons, Secrets)",
    }.get(notebook_host(), "")
    print(f"Secrets: {', '.join(loaded) or f'none{where}, so only public models and data'}.")
    return loaded


def _secret(name: str) -> str:
    if notebook_host() == "colab":
        from google.colab import userdata

        return userdata.get(name)
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(name)


def remembered(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """Result of a check, of plain JSON, that is computed once for a key and the versions installed.

    Kept in the folder `OCRKIT_CACHE`, by default `ocrkit` in the cache of Hugging Face; where that
    is empty, only until the process ends.

    Args:
        kind: the check.
        key: everything that its result depends on, but for versions.
    """
    versions = package_versions(("ocrkit", "transformers", "torch"))
    key = json.dumps([kind, key, versions])
    if key not in _results:
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        home = os.environ.get("HF_HOME", f"{cache}/huggingface")
        folder = os.environ.get("OCRKIT_CACHE", f"{home}/ocrkit")
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        path = Path(folder).expanduser() / name if folder else None
        _results[key] = _saved_result(path, key, compute)
    return _results[key]


_results: dict[str, Any] = {}


def _saved_result(path: Path | None, key: str, compute: Callable[[], Any]) -> Any:
    # A cache that cannot be read or written, or holds something else, is as good as none.
    if path:
        with suppress(OSError, ValueError, TypeError, KeyError):
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["key"] == key:
                return saved["result"]
    result = compute()
    if path:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"key": key, "result": result}))
    return result


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Look up the version of each package, None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def software_versions() -> dict[str, Any]:
    """Versions of Python and `PACKAGES`, number of processes, and the kit's Git commit."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        process = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        commit = process.stdout.strip()
    return {
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "processes": process_count(),
        "commit": commit or None,
    }
