"""Reduce the published images to `preprocessing.npz`: all inputs, and every fourth row and column of the outputs.

Usage: python tests/golden/make_preprocessing.py FULL.npz
FULL.npz holds for i in 0..5: hu_i int16 [H,W], windowed_i uint8 [H,W,3], cropped_i uint8 [side,side,3], resized480_i
and resized480_nocrop_i uint8 [480,480,3], which the reference's own functions (windows with truncation to 8 bits,
autocrop at threshold 0, square pad, cv2.resize) made on generated slices.
"""

import sys
from pathlib import Path

import numpy as np

N_CASES = 6
KEPT = np.append(np.arange(0, 480, 4), 479)  # the last row and column too: borders go wrong first


def main(full: Path) -> None:
    arrays = {"kept": KEPT}
    with np.load(full) as source:
        for i in range(N_CASES):
            arrays[f"hu_{i}"] = source[f"hu_{i}"]
            arrays[f"windowed_{i}"] = source[f"windowed_{i}"][::4, ::4]
            arrays[f"cropped_{i}"] = source[f"cropped_{i}"][::4, ::4]
            arrays[f"side_{i}"] = np.array(len(source[f"cropped_{i}"]))
            for name in (f"resized480_{i}", f"resized480_nocrop_{i}"):
                arrays[name] = source[name][np.ix_(KEPT, KEPT)]
    np.savez_compressed(Path(__file__).with_name("preprocessing.npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
