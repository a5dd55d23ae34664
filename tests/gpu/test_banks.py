"""Shared memory in the tile kernel: no two lanes wait for the same bank, and a block's tiles leave room for others."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import on_host
import pytest
from on_host import Fault

# A multiprocessor's shared memory has 32 banks of 4 bytes. One wave of an instruction serves 32 lanes of 4 bytes, 16 of
# 8 or 8 of 16, as long as they meet no bank in two words (CUDA C++ Programming Guide, shared memory of compute
# capability 5.x and later).
N_BANKS, WORD_BYTES, LANES = 32, 4, 32
# The least that a multiprocessor has for its blocks: 64 KiB, of compute capability 7.5 (ibid., technical
# specifications). What __launch_bounds__ of transform_tiles asks for, 8 blocks of 4 tiles, must fit.
LEAST_SHARED_BYTES, N_BLOCKS, TILES_PER_BLOCK = 64 * 1024, 8, 4

Instruction = tuple[str, int, list[int]]  # what, bytes per lane, addresses


def groups(instruction: Instruction) -> Iterator[list[int]]:
    """The addresses that one wave serves at best."""
    _, width, addresses = instruction
    n = LANES * WORD_BYTES // width
    for first in range(0, LANES, n):
        active = [address for address in addresses[first : first + n] if address >= 0]
        if active:
            yield active


def waves(instruction: Instruction) -> int:
    """How many waves an instruction takes."""
    total = 0
    for addresses in groups(instruction):
        words = defaultdict(set)
        for address in addresses:
            for word in range(address // WORD_BYTES, (address + instruction[1]) // WORD_BYTES):
                words[word % N_BANKS].add(word)
        total += max(map(len, words.values()))
    return total


def tiles_of(folder: Path, root: Path = on_host.ROOT) -> dict[str, tuple[int, list[Instruction]]]:
    """Bytes and instructions of every layout of a tile."""
    sources = ("tests/gpu/bank_addresses.cpp", on_host.SCHEDULER)
    program = on_host.link(folder / "addresses", on_host.compile_all(folder, *sources, root=root, flags=["-O0"]))
    tiles: dict[str, tuple[int, list[Instruction]]] = {}
    for line in on_host.output_of(program).splitlines():
        what, *numbers = line.split()
        if what == "tile":
            instructions: list[Instruction] = []
            tiles[numbers[0]] = (int(numbers[1]), instructions)
        else:
            width, *addresses = map(int, numbers)
            instructions.append((what, width, addresses))
    return tiles


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[Instruction]]]:
    return tiles_of(tmp_path_factory.mktemp("tiles"))


def excess(tiles: dict[str, tuple[int, list[Instruction]]]) -> dict[str, int]:
    """Waves of each layout beyond what there must be."""
    return {
        name: sum(waves(one) - len(list(groups(one))) for one in instructions)
        for name, (_, instructions) in tiles.items()
    }


def test_waves_worked_out_by_hand() -> None:
    assert waves(("store", 4, [4 * lane for lane in range(32)])) == 1
    assert waves(("store", 4, [8 * lane for lane in range(32)])) == 2
    assert waves(("store", 4, [0] * 32)) == 1  # one word for all
    assert waves(("store", 8, [8 * lane for lane in range(32)])) == 2
    assert waves(("load", 16, [16 * lane for lane in range(16)] + [-1] * 16)) == 2
    assert waves(("load", 16, [32 * lane for lane in range(16)] + [-1] * 16)) == 4


def test_no_lane_waits_for_a_bank(tiles: dict[str, tuple[int, list[Instruction]]]) -> None:
    assert len(tiles) == 9
    for name, (_, instructions) in tiles.items():
        n_channels = int(name.split("_")[1])
        assert sum(what == "store" for what, _, _ in instructions) == 2 * n_channels
        # A tile is 32 x 4 pixels; every one of its vectors is read once.
        loaded = [address for what, _, addresses in instructions if what == "load" for address in addresses]
        value_bytes = 4 if name.startswith("float32") else 2
        assert len({one for one in loaded if one >= 0}) * 16 == 32 * 4 * n_channels * value_bytes
    assert excess(tiles) == dict.fromkeys(tiles, 0)


def test_rows_without_gaps_would_wait(tmp_path: Path) -> None:
    root = on_host.with_faults(tmp_path / "source", Fault("csrc/cuda/tiles.h", "kGap = 16;", "kGap = 0;"))
    assert min(excess(tiles_of(tmp_path / "tiles", root)).values()) > 0


def test_as_many_blocks_fit_as_their_registers_allow(tiles: dict[str, tuple[int, list[Instruction]]]) -> None:
    for name, (n_bytes, _) in tiles.items():
        assert N_BLOCKS * TILES_PER_BLOCK * n_bytes <= LEAST_SHARED_BYTES, name
