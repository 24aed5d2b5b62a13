"""The next item is made while this one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Items in their order, made by one thread up to `depth` of them ahead of who takes them.

    Args:
        items: made one after another, never two at a time, so that what they draw from one generator stays the same.
        depth: how many wait at most, 1 or more.

    Raises:
        Exception: whatever making an item raised, at that item's place.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
