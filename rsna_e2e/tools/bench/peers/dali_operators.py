"""DALI's own operators on the CPU: coord_transform and clamp for the windows, warp_affine, crop_mirror_normalize.

float32, on which its warp is faster than on 8 bits; of its ways to make three windows this was the fastest.
"""

# C channels, S output size

from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types

from rsna_e2e.core.records import Float32Array
from rsna_e2e.tools.bench.job import Contestant, Images, Job
from rsna_e2e.tools.bench.peers.squares import crop_matrices, cut


def contestants(job: Job) -> list[Contestant]:
    """One contestant: a pipeline over a batch of all slices."""
    running = _built_pipeline(job)

    def transform() -> Images:
        (images,) = running.run()
        batch: torch.Tensor = torch.utils.dlpack.from_dlpack(images.as_tensor())
        return batch.unbind()

    return [
        Contestant(
            name="DALI's own operators",
            how="coord_transform and clamp, one warp_affine, crop_mirror_normalize; batch of all slices",
            run=transform,
            boxes=job.boxes,
        )
    ]


def _built_pipeline(job: Job) -> Any:
    """DALI's pipeline of one thread. It does not prefetch: its work would fall into another contestant's turn."""
    matrices = _corner_matrices(job)

    def squares() -> list[np.ndarray]:
        return [np.ascontiguousarray(cut(hu, box))[..., None] for hu, box in zip(job.slices, job.boxes, strict=True)]

    @pipeline_def(batch_size=len(job.slices), num_threads=1, device_id=None, exec_dynamic=True, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
    def pipeline() -> object:
        hu = fn.external_source(source=squares, layout="HWC", dtype=types.INT16)
        matrix = fn.external_source(source=lambda: matrices, dtype=types.FLOAT)
        scale = [1 / width for _, width in job.task.inputs.windows_hu]
        shift = [-(center - width / 2) / width for center, width in job.task.inputs.windows_hu]
        scaled = fn.coord_transform(hu, M=scale, T=shift, dtype=types.FLOAT)
        moved = fn.warp_affine(
            math.clamp(scaled, 0.0, 1.0),
            matrix=matrix,
            size=(job.size, job.size),
            interp_type=types.INTERP_LINEAR,
            inverse_map=True,
        )
        return fn.crop_mirror_normalize(
            moved, mean=list(job.task.inputs.mean), std=list(job.task.inputs.std), output_layout="CHW"
        )

    built = pipeline()
    built.build()
    return built


def _corner_matrices(job: Job) -> list[Float32Array]:
    """[2,3] from an output point to a point of the crop square, counted from the corner of the first pixel."""
    matrices = crop_matrices(job)
    matrices[:, :, 2] += 0.5 - 0.5 * matrices[:, :, :2].sum(axis=2)
    return list(matrices.astype(np.float32))
