"""Which of several processes this is, as torchrun and accelerate say it in the environment."""

import os
from collections.abc import Callable
from typing import Any

from ocrkit.errors import ConfigError


def process_count() -> int:
    """Processes that train together; 1 without a launcher.

    Raises:
        ConfigError: accelerate was asked for several and started one.
    """
    # Where it has no GPUs it says nothing of that, but has told the one where all are to meet.
    told = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ)
    if told and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch was given several processes and started one, since there are not as "
            "many GPUs; start it without accelerate, or `torchrun --nproc_per_node N -m ocrkit`."
        )
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """This process's number among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes what all share."""
    return process_rank() == 0


def decided_by_main(decide: Callable[[], Any]) -> Any:
    """What `decide` returns or raises on the main process, returned or raised on all of them.

    Processes that each look at a shared file system may see different files.
    """
    if process_count() == 1:
        return decide()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome = [decide(), None]
        except Exception as error:
            outcome = [None, error]
    PartialState(cpu=not torch.cuda.is_available())
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value


SECRETS = ("HF_TOKEN", "WANDB_API_KEY")


def where() -> str:
    """The place that this runs in: colab, kaggle or local."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "local"


def load_secret(name: str) -> bool:
    """Put a token from Colab's or Kaggle's own store into the environment; True if it is there.

    What the environment has already is kept, and no value is printed. A secret that the store does
    not have, or does not let this notebook read, is said in a line.
    """
    if not os.environ.get(name) and where() != "local":
        try:
            if secret := (_secret(name) or "").strip():
                os.environ[name] = secret
            else:
                print(f"{name}: empty in {where()}'s secrets.")
        except Exception as error:  # each store has errors of its own
            print(f"{name}: {_why_not(error)}")
    return bool(os.environ.get(name))


def _why_not(error: Exception) -> str:
    """Why a secret could not be read, from the name of the store's error, and the way out."""
    kind = type(error).__name__
    if kind == "NotebookAccessError":
        return (
            "there in colab's secrets, but this notebook has no access: switch it on beside the "
            "secret (the key at the left)."
        )
    if kind == "TimeoutException":
        return "colab did not answer whether this notebook may read it: run the cell again."
    if where() == "kaggle":
        # Kaggle gives one answer for a secret that does not exist and one that is not attached.
        return (
            f"not in kaggle's secrets, or not attached to this notebook: tick it under Add-ons, "
            f"Secrets ({kind})."
        )
    return f"not in colab's secrets: add it (the key at the left) ({kind})."


def load_secrets(names: tuple[str, ...] = SECRETS) -> list[str]:
    """`load_secret` for all of them; prints and returns the names that are there."""
    found = [name for name in names if load_secret(name)]
    print(f"Secrets: {', '.join(found) or 'none, so only public models and data'}.")
    return found


def _secret(name: str) -> str:
    if where() == "colab":
        from google.colab import userdata

        return userdata.get(name)
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(name)
