"""A store works wherever it lies, and whoever opens it: moved, read-only, by threads and by forked processes."""

import multiprocessing
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stores import make_slices, make_store

from rsna_e2e.store import Compression, Store, verify_store
from rsna_e2e.store.layout import INDEX_COLUMNS, XRAY_COLUMNS

READ_ALL = """
import sys
from pathlib import Path
from rsna_e2e.store import Store, verify_store
store = Store.open(Path(sys.argv[1]))
for row in range(len(store)):
    store.read_slice(row)
assert verify_store(Path(sys.argv[1])).is_whole
try:
    (Path(sys.argv[1]) / "x").touch()
except OSError as error:
    print(error.strerror)
"""


def check_pixels(store: Store) -> None:
    for row, hu in enumerate(make_slices()):
        np.testing.assert_array_equal(store.read_slice(row), hu)


@pytest.mark.parametrize("compression", ["none", "bitshuffle-lz4"])
@pytest.mark.parametrize("name", ["with spaces", "größe-头部 CT", "a:b. c#d%20e", "x" * 200])
def test_names_and_moves(tmp_path: Path, name: str, compression: Compression) -> None:
    make_store(tmp_path / name / "store", compression=compression)
    check_pixels(Store.open(tmp_path / name / "store"))
    (tmp_path / name).rename(tmp_path / "moved")
    check_pixels(Store.open(tmp_path / "moved" / "store"))
    assert verify_store(tmp_path / "moved" / "store").is_whole
    (tmp_path / "link").symlink_to(tmp_path / "moved" / "store")
    check_pixels(Store.open(tmp_path / "link"))


def test_a_read_only_disk(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    alone = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*alone, script, "sh", str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    command = [*alone, f'{script} && exec "$2" -c "$3" "$1/store"', "sh", str(tmp_path), sys.executable, READ_ALL]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "Read-only file system"


@pytest.mark.parametrize("compression", ["none", "bitshuffle-lz4"])
def test_forked_processes_and_threads_at_once(tmp_path: Path, compression: Compression) -> None:
    make_store(tmp_path / "store", compression=compression)
    store = Store.open(tmp_path / "store")
    context = multiprocessing.get_context("fork")
    forked = [context.Process(target=check_pixels, args=(store,)) for _ in range(4)]
    for process in forked:
        process.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: check_pixels(Store.open(tmp_path / "store")), range(32)))
    for process in forked:
        process.join()
    assert [process.exitcode for process in forked] == [0] * 4


@pytest.mark.parametrize(
    ("heading", "columns"), [("column", INDEX_COLUMNS), ("column of X-rays", XRAY_COLUMNS)], ids=["all", "X-rays"]
)
def test_the_manual_names_every_column(heading: str, columns: dict[str, str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    (cells,) = re.findall(rf"\| {heading} \|.*?\n\n", text, flags=re.DOTALL)
    names = re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in cells.strip().splitlines()))
    while any("{" in name for name in names):
        names = [n for name in names for n in _spelt_out(name)]
    assert sorted(names) == sorted(columns)


def _spelt_out(name: str) -> list[str]:
    """Names such as a_{x,y}: a_x and a_y."""
    match = re.search(r"\{([^}]+)\}", name)
    return [name[: match.start()] + part + name[match.end() :] for part in match[1].split(",")] if match else [name]
