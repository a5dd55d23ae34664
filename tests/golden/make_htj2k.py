"""Make `htj2k.npz`: slices, and what OpenJPH makes of them as HTJ2K. Needs the package `imagecodecs`, as nothing else.

Usage: PYTHONPATH=tests python tests/golden/make_htj2k.py
"""

from pathlib import Path

import imagecodecs
import numpy as np
import phantoms

SHAPE = (66, 70)  # rows, columns


def main() -> None:
    arrays = {"openjph": np.array(imagecodecs.htj2k_version())}
    for name, form in (("signed_16", phantoms.SIGNED_16), ("unsigned_12", phantoms.UNSIGNED_12)):
        stored = phantoms.stored_image(*SHAPE, seed=2, form=form)
        lossless, lossy = (imagecodecs.htj2k_encode(stored, reversible=kind) for kind in (True, False))
        arrays |= {
            f"stored_{name}": stored,
            f"lossless_{name}": np.frombuffer(lossless, np.uint8),
            f"lossy_{name}": np.frombuffer(lossy, np.uint8),
            f"decoded_{name}": imagecodecs.htj2k_decode(lossy),
        }
    np.savez_compressed(Path(__file__).with_name("htj2k.npz"), **arrays)


if __name__ == "__main__":
    main()
