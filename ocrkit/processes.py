"""Which of several processes this is, as torchrun and accelerate say it in the environment."""

import os


def process_count() -> int:
    """Processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """This process's number among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes what all share."""
    return process_rank() == 0
