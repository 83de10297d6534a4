"""Iterators that work ahead of whoever takes from them, within bounds: a model computes while its next batch comes."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: Executor, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` by the given threads, in the order of the items.

    Args:
        ahead: results made, or being made, beyond the one that is asked for.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def prefetched(items: Iterable[Item], *, ahead: int) -> Iterator[Item]:
    """The items, which a thread of its own takes up to `ahead` before they are asked for.

    What the iterator raises is raised here, in its place among the items.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="dxmc-prefetch") as thread:
        pending = deque(thread.submit(next, iterator, _END) for _ in range(ahead))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(thread.submit(next, iterator, _END))
                yield item
        finally:
            for future in pending:
                future.cancel()


class Budget:
    """So much of something, bytes or pixels, in use at a time. Who asks for more than is left waits, first come first.

    One that wants more than the whole gets the whole, and so is alone.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    def acquire(self, amount: int) -> None:
        with self._turn, self._changed:
            amount = min(amount, self._total)
            self._changed.wait_for(lambda: self._used + amount <= self._total)
            self._used += amount

    def release(self, amount: int) -> None:
        with self._changed:
            self._used -= min(amount, self._total)
            self._changed.notify_all()

    @contextmanager
    def using(self, amount: int) -> Iterator[None]:
        self.acquire(amount)
        try:
            yield
        finally:
            self.release(amount)
