"""Make `jpeg.npz`: images, and what OpenCV makes of them as JPEG. Needs the extra `bench`.

Usage: python tests/golden/make_jpeg.py
"""

from pathlib import Path

import cv2
import numpy as np

SHAPES = ((1, 1), (3, 1), (1, 17), (16, 16), (33, 47), (64, 80), (90, 61), (100, 100))


def images() -> list[np.ndarray]:
    """Noise, smooth and uneven patches, and discs of tissue on black: all that JPEG does differently."""
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    made[5] = cv2.GaussianBlur(made[5], (9, 9), 3)
    y, x = np.meshgrid(np.arange(120), np.arange(110), indexing="ij")
    for radius, levels in ((30, (200, 90, 140)), (41, (255, 40, 128))):
        distance = np.hypot(x - 52.0, 1.2 * (y - 61.0))
        disc = np.clip((radius - distance) / 4, 0, 1)[..., None] * levels
        made.append(disc.astype(np.uint8))
    return made


def main() -> None:
    arrays = {"opencv": np.array(cv2.__version__)}
    for i, image in enumerate(images()):
        file = cv2.imencode(".jpg", image)[1]
        arrays |= {f"image_{i}": image, f"file_{i}": file, f"decoded_{i}": cv2.imdecode(file, cv2.IMREAD_COLOR)}
    np.savez_compressed(Path(__file__).with_name("jpeg.npz"), **arrays)


if __name__ == "__main__":
    main()
