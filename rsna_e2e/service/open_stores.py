"""Stores of results, opened once while they are looked at."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.store import Store

MOST_OPEN = 16


class OpenStores:
    """The stores that were read last. One thread at a time reads of a store: HDF5 files are not for several."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, tuple[Store, threading.Lock]] = OrderedDict()

    @contextmanager
    def read(self, path: Path) -> Iterator[Store]:
        """Yield the store at a path. Raises FileNotFoundError where there is none."""
        with self._lock:
            if path not in self._open:
                try:
                    self._open[path] = (Store.open(path), threading.Lock())
                except RsnaError:
                    raise FileNotFoundError(str(path)) from None
            self._open.move_to_end(path)
            store, lock = self._open[path]
            while len(self._open) > self._most:
                _, (old, in_use) = self._open.popitem(last=False)
                with in_use:
                    old.close()
        with lock:
            yield store
