"""Stores of results, opened once while they are looked at."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.store import Store

MOST_OPEN = 16


@dataclass(slots=True, eq=False)
class _Opened:
    """A store, or none until its first reader opened it. n_readers: who have it or wait for it."""

    store: Store | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_readers: int = 0


class OpenStores:
    """The stores that were read last. One thread at a time reads of a store: HDF5 files are not for several."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, _Opened] = OrderedDict()

    @contextmanager
    def read(self, path: Path) -> Iterator[Store]:
        """Yield the store at a path. Raises FileNotFoundError where there is none."""
        with self._lock:
            one = self._open.setdefault(path, _Opened())
            self._open.move_to_end(path)
            one.n_readers += 1
        try:
            with one.lock:
                if one.store is None:
                    try:
                        one.store = Store.open(path)
                    except RsnaError:
                        raise FileNotFoundError(str(path)) from None
                yield one.store
        finally:
            with self._lock:
                one.n_readers -= 1
                self._close_some()

    def _close_some(self) -> None:
        """Close what nobody reads: what was deleted or is no store, and the oldest of too many."""
        for path, one in list(self._open.items()):
            is_over = one.store is None or len(self._open) > self._most or not path.exists()
            if is_over and one.n_readers == 0:
                del self._open[path]
                if one.store is not None:
                    one.store.close()
