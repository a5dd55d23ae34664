"""From anatomy to HU: every pixel of a slice, averaged through its thickness, and what emboli take from it."""

# E layers of emboli, P poses, S sub-planes, h x w fine pixels

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.chest.body import paint_body
from rsna_e2e.tools.synth.chest.canvas import AIR_HU, Canvas, coarse_pixels
from rsna_e2e.tools.synth.chest.emboli import Laid
from rsna_e2e.tools.synth.chest.findings import Findings, Shift
from rsna_e2e.tools.synth.chest.organs import Heart
from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.chest.tubes import Layer, Plane, Raster, Tubes
from rsna_e2e.tools.synth.common.series import FINE, Series
from rsna_e2e.tools.synth.common.shapes import Points, coverage

SOFT_HU, WALL_HU, DEFECT_HU = 50.0, 20.0, 55.0
CORTEX_HU, CORTEX_MM = 620.0, 1.7
SUB_PLANE_MM = 1.6  # sub-planes through a slice are at most this far apart
MARROW = -1


def sub_offsets(thickness_mm: float) -> Float64Array:
    """Heights (mm) of the sub-planes of a slice above its middle."""
    n = int(np.ceil(thickness_mm / SUB_PLANE_MM))
    return np.asarray(((np.arange(n) + 0.5) / n - 0.5) * thickness_mm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that determines a study's pixels, except noise. tubes are in the world, laid are its emboli."""

    chest: Chest
    heart: Heart
    findings: Findings
    series: Series
    tubes: Tubes
    laid: Laid


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What emboli take from one slice, HU: by layer of emboli where there is any, and together; [FINE, FINE] each."""

    by_layer: dict[int, Float32Array]
    total: Float32Array


class Renderer:
    """Renders the slices of one scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._all = Raster(scene.tubes)
        self._clots = Raster(scene.laid.tubes)
        self._arteries = Raster(scene.tubes.of(Layer.ARTERY))

    def hu(self, k: int) -> tuple[Float32Array, Loss]:
        """Slice `k` without noise [FINE, FINE], and what emboli took from it."""
        poses = self._scene.findings.poses
        images = [self._posed(k, pose) for pose in poses]
        loss = self.loss(k)
        hu = np.mean(images, axis=0, dtype=np.float32)
        hu -= loss.total
        return hu, loss

    def loss(self, k: int) -> Loss:
        """What emboli take from slice `k`, without rendering anything else."""
        total = np.zeros((FINE, FINE), np.float32)
        by_layer: dict[int, Float32Array] = {}
        poses = self._scene.findings.poses
        for pose in poses:
            clots = self._shares(self._clots, k, pose)
            if not clots:
                continue
            lumen = self._shares(self._arteries, k, pose).get(Layer.ARTERY, np.zeros_like(total))
            blood = self._blood(k, pose)
            most = np.zeros_like(total)
            for layer, share in clots.items():
                lost: Float32Array = np.minimum(share, lumen)
                lost *= np.maximum(blood - self._scene.laid.hu[layer], 0.0) / len(poses)
                by_layer[layer] = by_layer[layer] + lost if layer in by_layer else lost
                np.maximum(most, lost, out=most)
            total += most
        return Loss(by_layer=by_layer, total=total)

    def _shares(self, raster: Raster, k: int, pose: Shift) -> dict[int, Float32Array]:
        """Share of each pixel in each layer, averaged over sub-planes; bone's marrow goes under MARROW."""
        series = self._scene.series
        offsets = sub_offsets(series.thickness_mm)
        found: dict[int, Float32Array] = {}
        pixel_mm = 2.0 * series.spacing_mm
        x, y, z = series.origins_mm[k] - np.array(pose)
        for offset in offsets:
            plane = Plane(x_mm=x + 0.25 * pixel_mm, y_mm=y + 0.25 * pixel_mm, z_mm=z + offset, pixel_mm=pixel_mm)
            for layer, depth in raster.depths(plane).items():
                shares = [(layer, depth)]
                if layer == Layer.BONE:
                    shares.append((MARROW, depth - np.float32(CORTEX_MM)))
                for name, inward in shares:
                    share = coverage(-inward, pixel_mm) / np.float32(len(offsets))
                    found[name] = found[name] + share if name in found else share
        return found

    def _blood(self, k: int, pose: Shift) -> float | Float32Array:
        """Density (HU) of blood in the pulmonary arteries: darker where contrast did not flow."""
        findings = self._scene.findings
        blood: float | Float32Array = findings.artery_hu
        if findings.flow:
            p = self._places(k, pose, 2 * np.arange(FINE) + 0.5)
            for x, y, z, radius in findings.flow:
                if float(np.abs(p.z - z).min()) < 2.5 * radius:
                    squared = ((p.x - x) ** 2 + (p.y - y) ** 2 + (p.z - z) ** 2) / (radius * radius)
                    blood = np.asarray(blood - findings.flow_hu * np.exp(-squared), np.float32)
        return blood

    def _places(self, k: int, pose: Shift, pixels: npt.NDArray[Any]) -> Points:
        """Canonical places of the file's (fractional) rows and columns `pixels` of slice `k`."""
        series, scale = self._scene.series, np.array(self._scene.chest.scale)
        to_body = series.rotation.T / scale[:, None]
        start = to_body @ (series.origins_mm[k] - np.array(series.centre_mm) - np.array(pose))
        step = to_body * series.spacing_mm
        xyz = [(start[i] + step[i, 1] * pixels[:, None] + step[i, 0] * pixels).astype(np.float32) for i in range(3)]
        return Points(*xyz)

    def _posed(self, k: int, pose: Shift) -> Float32Array:
        """One pose of slice `k`, without emboli."""
        p = self._places(k, pose, 2 * coarse_pixels() + 0.5)
        canvas = Canvas(2.0 * self._scene.series.spacing_mm)
        paint_body(canvas, self._scene.chest, self._scene.heart, self._scene.findings, p)
        shares = self._shares(self._all, k, pose)
        findings = self._scene.findings
        for layer, hu in (
            (Layer.SOFT, SOFT_HU), (Layer.PALE, findings.pale_hu), (Layer.VEIN, findings.vein_hu),
            (Layer.WALL, WALL_HU), (Layer.AIRWAY, AIR_HU), (Layer.AORTA, findings.aorta_hu),
            (Layer.SVC, findings.svc_hu), (Layer.DEFECT, DEFECT_HU), (Layer.BONE, CORTEX_HU),
            (MARROW, self._scene.chest.bone_hu), (Layer.ARTERY, self._blood(k, pose)),
        ):  # fmt: skip
            if layer in shares:
                canvas.blend(shares[layer], hu)
        return canvas.hu
