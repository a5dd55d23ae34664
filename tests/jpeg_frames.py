"""JPEG frames of one component made by hand, of any codes: what the standard allows, and not.

Source: ISO/IEC 10918-1, annexes B (segments), C (codes), F.1.2 (blocks) and H.1.2 (lossless differences).
"""

from collections.abc import Sequence

import numpy as np

SOF0, SOF1, SOF3 = 0xC0, 0xC1, 0xC3


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def codes(symbols: Sequence[int], *, n_bits: int) -> tuple[bytes, dict[int, str]]:
    """A table of codes of equal length: as a DHT segment has it, and the code of each symbol."""
    counts = bytes(len(symbols) if n == n_bits else 0 for n in range(1, 17))
    return counts + bytes(symbols), {symbol: f"{i:0{n_bits}b}" for i, symbol in enumerate(symbols)}


DIFFERENCES, CODE_OF_DIFFERENCE = codes(range(17), n_bits=5)
DC, CODE_OF_DC = codes(range(16), n_bits=6)
AC, CODE_OF_AC = codes([s for s in range(256) if s & 15 or s in (0x00, 0xF0)], n_bits=9)


def samples(n: int, rng: np.random.Generator) -> list[str]:
    """Differences of every category, 32768 among them, which no bits follow."""
    categories = rng.integers(0, 17, n).tolist()
    return [CODE_OF_DIFFERENCE[c] + _bits(c % 16, rng) for c in categories]


def blocks(n: int, rng: np.random.Generator) -> list[str]:
    """Blocks of few, many and all coefficients, with zeros of up to three times sixteen in a row."""
    made = []
    for _ in range(n):
        category = int(rng.integers(0, 16))
        block = CODE_OF_DC[category] + _bits(category, rng)
        k, most_zeros = 1, int(rng.choice([0, 5, 60]))
        while k < 64:
            n_zeros = min(int(rng.integers(0, most_zeros + 1)), 63 - k)
            block += CODE_OF_AC[0xF0] * (n_zeros // 16)
            size = int(rng.integers(1, 16))
            block += CODE_OF_AC[n_zeros % 16 << 4 | size] + _bits(size, rng)
            k += n_zeros + 1
            if k < 64 and rng.random() < 0.1:
                block += CODE_OF_AC[0]
                break
        made.append(block)
    return made


def frame(
    units: Sequence[str],
    *,
    process: int,
    rows: int,
    columns: int,
    precision: int = 8,
    tables: bytes | None = None,
    dc: int = 0,
    ac: int = 0,
    component: int = 1,
    sampling: int = 0x11,
    before: bytes = b"",
    interval: int = 0,
    announced: int | None = None,
    first_restart: int = 0,
    fill: int = 0,
    pad: str = "1",
    last: bytes = b"\0\x3f\0",
    end: bytes = b"\xff\xd9",
) -> bytes:
    """A frame of units: the codes of `samples` or `blocks`, or others in DIFFERENCES, DC and AC.

    before: segments before the scan. interval: units between restart markers, which the head says unless something
    else is `announced`; the markers begin with number `first_restart`, each after `fill` FF. pad: the bit that fills
    bytes up. last: of the head of the scan.
    """
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    if tables is None:
        tables = segment(0xC4, bytes([dc]) + (DIFFERENCES if process == SOF3 else DC))
        tables += b"" if process == SOF3 else segment(0xC4, bytes([0x10 | ac]) + AC)
    announced = interval if announced is None else announced
    groups = [units[i : i + interval] for i in range(0, len(units), interval)] if interval else [units]
    content = _packed(groups[0], pad)
    for number, group in enumerate(groups[1:], start=first_restart):
        content += b"\xff" * fill + bytes([0xFF, 0xD0 + number % 8]) + _packed(group, pad)
    return b"".join(
        (
            b"\xff\xd8",
            tables,
            segment(process, bytes([precision]) + size + bytes([1, component, sampling, 0])),
            before,
            segment(0xDD, announced.to_bytes(2, "big")) if announced else b"",
            segment(0xDA, bytes([1, component, dc << 4 | ac]) + last),
            content,
            end,
        )
    )


def _bits(n: int, rng: np.random.Generator) -> str:
    return "".join(map(str, rng.integers(0, 2, n)))


def _packed(units: Sequence[str], pad: str) -> bytes:
    bits = "".join(units)
    bits += pad * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
