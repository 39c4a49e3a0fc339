"""Calls that block in C, where Python sees no signal: how they can be stopped all the same."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import TypeVar

_T = TypeVar("_T")


def interruptible(action: Callable[[], _T], *, cancel: Callable[[], object] | None) -> _T:
    """Does something in a thread of its own, so that the caller's can be interrupted.

    Python runs signal handlers between two steps of its main thread: a Ctrl-C would wait for a statement's end, or
    become its failure. ``cancel`` makes the action fail soon, and is called until it has ended.
    """
    future: Future[_T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=work, daemon=True).start()
        return future.result()
    except BaseException:
        future.cancel()  # in case it has not begun
        while cancel is not None and not future.done():
            with suppress(Exception):
                cancel()
            wait([future], timeout=0.1)
        raise


@contextmanager
def interruptions() -> Iterator[None]:
    """For short calls of DuckDB: raises the KeyboardInterrupt that it makes a RuntimeError of."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise
