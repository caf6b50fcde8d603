"""The ordered map over worker processes."""

import os

import pytest

from data_prep.dataset.schema import DataError
from data_prep.dataset.workers import ordered_map


def square(number):
    return number * number


def die(number):
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_work(workers):
    assert list(ordered_map(square, range(20), workers)) == [n * n for n in range(20)]


def test_worker_results_queue_stays_short():
    taken = []

    def work():
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(square, work(), 2)
    assert next(results) == 0
    assert len(taken) <= 6
    results.close()


def test_a_worker_that_dies_is_a_data_error():
    with pytest.raises(DataError, match=r"A worker process died.*--workers"):
        list(ordered_map(die, range(4), 2))
