"""Parts that time the kernel, and count what it does."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from context import Context
from counters import DETAILS, METRICS, profile
from devices import device_of
from measure import against_eager, copy_bandwidth, make_work, search, transform, upload
from scales import SCALES

UPRIGHT, TURNED, ANY = 0.0, 20.0, None  # degrees; 20: the most that the reference's augmentation turns by
ANGLES = {"upright": UPRIGHT, "20 degrees": TURNED, "any angle": ANY}


def kernel(context: Context) -> None:
    """The device's copy bandwidth, then transform_slices beside it, the search for content, uploads."""
    device, scale = device_of(context.kind), SCALES[context.scale_name]
    if context.is_rehearsal:
        context.stand_in("CUDA events, streams and counters of memory")
    copy = context.take("copy within the device", lambda: copy_bandwidth(device, scale))
    bandwidth = copy.get("bytes_per_s", float("nan"))

    def timed(n: int, dtype: torch.dtype, **how: Any) -> Callable[[], Mapping[str, Any]]:
        return lambda: transform(make_work(n, dtype, device, **how), bandwidth, device, scale)

    def name(n: int, dtype: torch.dtype, note: str) -> str:
        return f"transform_slices, {n} slices, {str(dtype).removeprefix('torch.')}, {note}"

    for n in (scale.many, scale.few):
        for note, angle_deg in ANGLES.items():
            context.take(name(n, torch.float16, note), timed(n, torch.float16, angle_deg=angle_deg))
    few = scale.few
    for dtype in (torch.bfloat16, torch.float32, torch.uint8):
        context.take(name(few, dtype, "any angle"), timed(few, dtype))
    context.take(name(few, torch.float16, "any angle, planar"), timed(few, torch.float16, channels_last=False))
    context.take(f"eager torch, {few} slices, float16", lambda: against_eager(few, device, scale))
    context.take(f"content_box, {scale.many} slices", lambda: search(scale.many, bandwidth, device, scale))
    for note, pinned in (("pinned", True), ("pageable", False)):
        context.take(
            f"upload, {scale.many} slices, {note}",
            lambda pinned=pinned: upload(scale.many, device, scale, pinned=pinned),
        )


def counters(context: Context) -> None:
    """Nsight Compute's counts of one launch: first what every version has."""
    device, n = device_of(context.kind), SCALES[context.scale_name].profiled
    if context.is_rehearsal:
        context.stand_in("Nsight Compute")
    for note, angle_deg, metrics in (("", ANY, METRICS), (", upright", UPRIGHT, METRICS), (", details", ANY, DETAILS)):
        name = f"counters, {n} slices, float16{note}"
        context.take(name, lambda angle=angle_deg, chosen=metrics: profile(n, angle, device, chosen))
