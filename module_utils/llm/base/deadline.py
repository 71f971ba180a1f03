"""A hard time limit around any Python code of the main thread, and concurrent calls that it can leave.

Not tenacity, which retries and stops nothing, nor asyncio.timeout, which interrupts coroutines alone: the calls limited here
are those of a synchronous SDK, and must end in the middle of a read.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Given = TypeVar("Given")
AGAIN = 0.5
"""Seconds after which the limit is raised again: the first time it may meet code whose errors Python drops (a finalizer)."""


class DeadlineExceeded(BaseException):
    """The time is up. Not an Exception: client libraries wrap those, and the limit must get through them."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlineExceeded in the block after so many seconds.

    A client's own timeout counts for each read, so a server that sends one byte a minute would hold it for ever.
    Works in the main thread only (a timer signal), and does not nest.
    """

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineExceeded

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def at_once(count: int, call: Callable[[int], Given]) -> Iterator[tuple[int, Given | BaseException]]:
    """Make so many calls at once, each in a thread of its own: number and what it gave or raised, as they end.

    Whoever leaves before the end, as `deadline` does, leaves the threads that are still at work behind. They are daemons:
    the process ends without them. A pool's threads would be waited for, however long a server keeps them.
    """
    ended: queue.SimpleQueue[tuple[int, Given | BaseException]] = queue.SimpleQueue()

    def make(number: int) -> None:
        try:
            ended.put((number, call(number)))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it has to learn of it
            ended.put((number, error))

    for number in range(count):
        threading.Thread(target=make, args=(number,), daemon=True).start()
    for _ in range(count):
        yield ended.get()
