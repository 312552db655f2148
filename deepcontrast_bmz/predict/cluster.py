"""Who computes the blocks: two threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

__all__ = ["Workers", "connect_cluster", "map_unordered", "start_threads"]

import contextlib
import logging
import os
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deepcontrast_bmz.errors import InputError, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

Done = TypeVar("Done")

_RETRIES = 3
"""A block that takes so many workers of a cluster with it is no accident."""

_SECONDS_TO_CONNECT = 20


@dataclass(frozen=True)
class Workers:
    """What computes blocks."""

    executor: Executor
    at_once: int
    """How many blocks are under way at the same time."""
    remote: bool
    """Whether they are other processes, which open the model and the files themselves."""


@contextlib.contextmanager
def start_threads() -> Generator[Workers]:
    """Yield two threads of this process: one reads and writes while the other computes."""
    with ThreadPoolExecutor(2, thread_name_prefix="block") as executor:
        yield Workers(executor, 2, remote=False)


@contextlib.contextmanager
def connect_cluster(address: str) -> Generator[Workers]:
    """Yield the workers of an existing cluster of dask.distributed.

    Parameters
    ----------
    address : str
        Of its scheduler, such as ``tcp://10.0.0.1:8786``, or the file in which the scheduler
        wrote it. Workers reach the files under the same names.

    Raises
    ------
    InputError
        If the library is missing, no scheduler answers, or it has no workers.
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
            f"no scheduler answers at '{address}' within {_SECONDS_TO_CONNECT} s: "
            "check the address, and that dask scheduler runs there"
        ) from error
    with client:
        threads = cast("dict[str, int]", client.nthreads())
        count = sum(threads.values())
        if count == 0:
            raise InputError(
                f"the scheduler at '{address}' has no workers: start some with dask worker"
            )
        executor = client.get_executor(retries=_RETRIES, pure=False)
        yield Workers(executor, 2 * count, remote=True)


def map_unordered(
    workers: Workers, function: Callable[[int], Done], numbers: Iterable[int]
) -> Iterator[tuple[int, Done]]:
    """Yield what a function makes of every number, in the order in which they are done.

    One number more than are under way is handed out at a time, so that nobody waits.

    Parameters
    ----------
    workers : Workers
    function : callable
        Can be pickled, where the workers are remote; doing a number twice does no harm.
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
    under_way: dict[Future[Done], int] = {}
    try:
        while True:
            while len(under_way) <= workers.at_once and (number := next(left, None)) is not None:
                under_way[workers.executor.submit(function, number)] = number
            if not under_way:
                return
            done = wait(under_way, return_when=FIRST_COMPLETED).done
            # What failed comes last: what is done beside it is kept.
            for future in sorted(done, key=_has_failed):
                yield under_way.pop(future), _result_of(future)
    finally:
        for future in under_way:
            future.cancel()


def _has_failed(future: Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None


def _result_of(future: Future[Done]) -> Done:
    """Return the result; a block that the cluster gave up, or dropped, is `Unfinished`."""
    try:
        return future.result()
    except Exception as error:
        # Known by name: the library of clusters may not be installed.
        if type(error).__name__ in ("KilledWorker", "CancelledError"):
            raise Unfinished(
                "workers were lost again and again, perhaps for lack of memory: use fewer, or a "
                "smaller --block, and continue with --resume"
            ) from error
        raise
