"""Many drawn toy tasks."""

import random

from data_prep.synthetic.toy_content import write_toy


def many(task, count=300, seed=0):
    rng = random.Random(seed)
    return [write_toy(task, rng) for _ in range(count)]
