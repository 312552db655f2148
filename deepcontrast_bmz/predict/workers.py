"""Who does the work: threads of this process, processes of this machine, or a Dask cluster.

All three are executors as `concurrent.futures` knows them. A few more pieces of work than workers
are handed out at a time. A worker that is lost takes nothing with it but the piece it was at,
which another one does again.
"""

from __future__ import annotations

__all__ = ["Crew", "cluster", "here", "processes", "work"]

import contextlib
import logging
import multiprocessing
import os
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deepcontrast_bmz.errors import InputError, Unfinished
from deepcontrast_bmz.model.devices import threads_per_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

logger = logging.getLogger(__name__)

Done = TypeVar("Done")

_MOST_LOSSES = 3
"""Workers lost in a row, with nothing finished in between, after which it is no accident."""

_SECONDS_TO_CONNECT = 20


@dataclass
class Crew:
    """Workers that can be handed work."""

    executor: Executor
    count: int
    """How many pieces of work are under way at once."""
    renew: Callable[[], Executor] | None
    """Returns new workers for broken ones."""


@contextlib.contextmanager
def here() -> Generator[Crew]:
    """Yield two threads of this process: one reads and writes while the other computes."""
    with ThreadPoolExecutor(2, thread_name_prefix="block") as executor:
        yield Crew(executor, 2, None)


@contextlib.contextmanager
def processes(count: int) -> Generator[Crew]:
    """Yield processes that share the cores of this machine evenly.

    Parameters
    ----------
    count : int
        How many.

    Raises
    ------
    InputError
        If it is less than one.
    """
    if count < 1:
        raise InputError(f"at least 1 worker is needed, not {count}: give more, or leave it out")
    threads = threads_per_worker(count)

    def new() -> Executor:
        return ProcessPoolExecutor(
            count,
            # A fork would inherit the threads of torch and their locks.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_work,
            initargs=(threads,),
        )

    crew = Crew(new(), count, new)
    try:
        yield crew
    finally:
        crew.executor.shutdown(cancel_futures=True)


def _begin_work(threads: int) -> None:
    """Take this worker's share of the cores, and end when the process that started it ends."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent says nothing, and its workers would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def cluster(address: str) -> Generator[Crew]:
    """Yield the workers of an existing cluster of dask.distributed.

    Parameters
    ----------
    address : str
        Of its scheduler, such as ``tcp://10.0.0.1:8786``, or the file in which the scheduler
        wrote it. Workers reach the files under the same names.

    Raises
    ------
    InputError
        If the library is missing, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "a scheduler is reached through dask.distributed, which is not installed: "
            'pip install "deepcontrast_bmz[cluster]"'
        ) from error
    given: dict[str, Any] = {"address": address}
    if os.path.isfile(address):  # noqa: PTH113 - it may be an address
        given = {"scheduler_file": address}
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        client = distributed.Client(
            **given, timeout=_SECONDS_TO_CONNECT, set_as_default=False, direct_to_workers=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"a scheduler answers within {_SECONDS_TO_CONNECT} s, but at '{address}' none does: "
            "check the address, and that dask scheduler runs there"
        ) from error
    with client:
        threads = cast("dict[str, int]", client.nthreads())
        count = sum(threads.values())
        if count == 0:
            raise InputError(
                f"a cluster has workers, but the scheduler at '{address}' knows none: start some "
                "with dask worker"
            )
        # Each piece may lose a few workers before the scheduler gives it up.
        yield Crew(client.get_executor(retries=_MOST_LOSSES, pure=False), 2 * count, None)


def work(
    crew: Crew, function: Callable[[int], Done], numbers: Iterable[int]
) -> Iterator[tuple[int, Done]]:
    """Yield what a function makes of every number, in the order in which they are done.

    Parameters
    ----------
    crew : Crew
    function : callable
        Can be pickled, where the workers are not threads; doing a number twice does no harm.
    numbers : iterable of int

    Yields
    ------
    number : int
    done : what `function` returned

    Raises
    ------
    Unfinished
        If workers are lost again and again.
    """
    left = iter(numbers)
    again: list[int] = []
    under_way: dict[Future[Done], int] = {}
    losses = 0
    try:
        while True:
            while len(under_way) < crew.count + (crew.count > 1):
                number = again.pop() if again else next(left, None)
                if number is None:
                    break
                try:
                    under_way[crew.executor.submit(function, number)] = number
                except BrokenExecutor:
                    again.append(number)
                    break
            if not under_way and not again:
                return
            finished = wait(under_way, return_when=FIRST_COMPLETED).done if under_way else set()
            lost = not under_way
            for future in finished:
                number = under_way.pop(future)
                try:
                    result = future.result()
                except BrokenExecutor:
                    again.append(number)
                    lost = True
                    continue
                except Exception as error:
                    if type(error).__name__ in ("KilledWorker", "CancelledError"):
                        raise Unfinished(_lost()) from error
                    raise
                losses = 0
                yield number, result
            if lost:
                losses += 1
                again += under_way.values()
                under_way.clear()
                if losses > _MOST_LOSSES or crew.renew is None:
                    raise Unfinished(_lost())
                logger.warning("a worker was lost: others do its work again")
                crew.executor.shutdown(wait=False, cancel_futures=True)
                crew.executor = crew.renew()
    finally:
        for future in under_way:
            future.cancel()


def _lost() -> str:
    return (
        "workers were lost again and again, perhaps since memory is short: use fewer, or a smaller "
        "--block, and go on with --resume"
    )
