"""Which of several processes this is, as torchrun and accelerate say it in the environment."""

import os
from collections.abc import Callable
from typing import Any

from ocrkit.config_error import ConfigError


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
