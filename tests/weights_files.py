"""Files of weights that nobody should trust: malformed safetensors, and pickles that run a command."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def _file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _entry(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


WHOLE = _file({"a": _entry(0, 4)}, b"\0\0\x80\x3f")  # 1.0, little-endian

MALFORMED = {
    "empty": b"",
    "shorter than its length": WHOLE[:5],
    "cut in the header": WHOLE[:20],
    "cut in the numbers": WHOLE[:-1],
    "more than its numbers": WHOLE + b"\0",
    "header longer than the file": _file({"a": _entry(0, 4)}, bytes(4), length=1 << 40),
    "header longer than anything": _file({"a": _entry(0, 4)}, bytes(4), length=(1 << 64) - 1),
    "header is not JSON": _file(b"hello"),
    "header is not text": _file(b"\xff\xfe{}"),
    "header is a list": _file([1]),
    "header is deep": _file(b"[" * 100_000),
    "overlapping": _file({"a": _entry(0, 4), "b": _entry(0, 4)}, bytes(4)),
    "out of range": _file({"a": _entry(0, 4), "b": _entry(4, 8)}, bytes(4)),
    "backwards": _file({"a": _entry(4, 0)}, bytes(4)),
    "with a gap": _file({"a": _entry(0, 4), "b": _entry(8, 12)}, bytes(12)),
    "of an unknown type": _file({"a": _entry(0, 4, "X9")}, bytes(4)),
    "of a type that torch lacks": _file({"a": _entry(0, 1, "F4", (2,))}, bytes(1)),
    "of a type of another size": _file({"a": _entry(0, 4, "F64")}, bytes(4)),
    "of a shape of another size": _file({"a": _entry(0, 4, "F32", (2,))}, bytes(4)),
    "of a negative shape": _file({"a": _entry(0, 4, "F32", (-1,))}, bytes(4)),
    "of a shape that overflows": _file({"a": _entry(0, 0, "F32", (1 << 62, 4))}),
    "one name twice": _file(b'{"a":%s,"a":%s}' % ((json.dumps(_entry(0, 4)).encode(),) * 2), bytes(4)),
}


class _Attack:
    """Unpickled, it would make a file."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._canary}",)


def pickles(canary: Path, folder: Path) -> dict[str, bytes]:
    """Files that run a command when they are unpickled, in the formats that weights come in."""
    attack = _Attack(canary)
    objects = np.empty(1, dtype=object)
    objects[0] = attack
    torch.save(attack, folder / "a.pt")
    torch.save({"a": attack}, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.save(folder / "a.npy", objects, allow_pickle=True)
    np.savez(folder / "a.npz", a=objects)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(attack))
    names = ("a.pt", "old.pt", "a.npy", "a.npz", "a.zip")
    return {"bare": pickle.dumps(attack)} | {name: (folder / name).read_bytes() for name in names}


PICKLES = ("bare", "a.pt", "old.pt", "a.npy", "a.npz", "a.zip")
