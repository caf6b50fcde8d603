"""Worker processes: an ordered map over a process pool."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from data_prep.dataset.schema import DataError

Work = TypeVar("Work")
Result = TypeVar("Result")
# Modules that workers need, imported once by the server that forks them.
PRELOADED = ["__main__", "data_prep.dataset.rows", "data_prep.dataset.crops"]


def ordered_map(
    function: Callable[[Work], Result], work: Iterable[Work], workers: int
) -> Iterator[Result]:
    """Map a function over processes, in order; few results wait, so that memory stays flat.

    Raises:
        DataError: a worker process died.
    """
    if workers == 1:
        yield from map(function, work)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    methods = multiprocessing.get_all_start_methods()
    # Not fork: a notebook's process has threads, and a fork would copy their locks while held.
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # Without effect on "spawn", and once the server runs.
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(workers, context, initializer=exit_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for piece in work:
                waiting.append(pool.submit(function, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                "A worker process died, most likely for want of memory; give fewer --workers."
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def exit_with_parent() -> None:
    """Start a thread that ends this worker when its parent process has ended, however it ended."""
    import multiprocessing.connection

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
