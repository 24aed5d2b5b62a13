"""Compute the next items in threads while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_BYTES = 2**28  #: of finished results that wait, and of images in a batch; a single one may be larger


def prefetch_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    depth: int,
    size: Callable[[Result], int] = lambda result: 0,
) -> Iterator[Result]:
    """Yield ``function(item)`` in order while `threads` threads compute up to `depth` results ahead.

    One thread computes one item after another, so draws from a shared generator keep their order. While the finished
    results exceed `MOST_BYTES` by their `size`, only one is computed ahead. An exception of an item is raised at that
    item's position, and later items are cancelled.
    """
    source, waiting = iter(items), deque()

    def held() -> int:
        finished = [future for future in waiting if future.done() and not future.exception()]
        return sum(size(future.result()) for future in finished)

    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                free = depth - len(waiting) if held() <= MOST_BYTES else 1 - len(waiting)
                waiting.extend(pool.submit(function, item) for item in islice(source, max(0, free)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
