"""Whether the disk has room for the shards of a plan."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rsna_e2e.core.errors import DiskFullError
from rsna_e2e.core.files import full_disk_named
from rsna_e2e.store import Compression
from rsna_e2e.store.prepare.jobs import ShardPlan

TABLE_BYTES = 1024 * 1024  # room for the tables, generously


@contextmanager
def enough_space(store: Path, place: Path, shards: Sequence[ShardPlan], compression: Compression) -> Iterator[None]:
    """Refuse to begin where the disk is too small, and say the same where it fills up meanwhile.

    The size of packed pixels is not known before, so writing them is begun in any case.
    """
    needed = sum(shard.n_bytes for shard in shards) + TABLE_BYTES
    at_most = "" if compression == "none" else " at most"
    advice = f"the disk is too small: the store needs {needed:,} bytes{at_most}. Free some space or choose another disk"
    present = sum(shard.n_bytes for shard in shards if shard.note.exists())
    if compression == "none" and shutil.disk_usage(place).free + present < needed:
        raise DiskFullError(f"{store}: {advice}")
    with full_disk_named(store, advice):
        yield
