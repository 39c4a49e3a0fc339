"""Reading ahead: a thread of its own makes the next items while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from pyops.staging.memory import Width

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")


class Prefetch(Generic[_T]):
    """Iterates over items that a thread reads ahead, two at most."""

    def __init__(self, items: Iterator[_T]) -> None:
        self.failure: BaseException | None = None  # raised after the last item
        self._queue: queue.Queue[tuple[_T] | None] = queue.Queue(maxsize=2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(items,), daemon=True)

    def _read(self, items: Iterator[_T]) -> None:
        try:
            for item in items:
                self._put((item,))
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self.failure = error
        self._put(None)

    def _put(self, item: tuple[_T] | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                break

    def __iter__(self) -> Iterator[_T]:
        self._thread.start()
        while (item := self._queue.get()) is not None:
            yield item[0]
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def stop(self, cancel: Callable[[], None]) -> None:
        """Ends the thread, cancelling what it reads; what it had read is forgotten."""
        self._stopped.set()
        while self._thread.is_alive():
            cancel()
            self._thread.join(timeout=0.1)


class Batches(Prefetch["pa.RecordBatch"]):
    """Batches that are read ahead and counted; ``widened`` hears of wider rows before they come."""

    def __init__(
        self, batches: Iterator[pa.RecordBatch], progress: Callable[[int, int], None], widened: Callable[[int], None]
    ) -> None:
        super().__init__(self._measured(batches))
        self.rows = 0
        self.bytes = 0
        self._progress = progress
        self._widened = widened

    def _measured(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        width = Width()
        for batch in batches:
            if width.add(batch.num_rows, batch.nbytes):
                self._widened(width.widest)
            yield batch

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in super().__iter__():
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
            self._progress(self.rows, self.bytes)
            yield batch
