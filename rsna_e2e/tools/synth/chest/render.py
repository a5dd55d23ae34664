"""From anatomy to HU: every pixel of a slice, averaged through its thickness, and what emboli take from it."""

# FINE x FINE pixels, half the file's resolution

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsna_e2e.core.records import Float32Array, Float64Array
from rsna_e2e.tools.synth.chest.body import paint_body, paint_heart
from rsna_e2e.tools.synth.chest.canvas import AIR_HU, Canvas, coarse_pixels
from rsna_e2e.tools.synth.chest.emboli import Laid
from rsna_e2e.tools.synth.chest.findings import Findings, Shift
from rsna_e2e.tools.synth.chest.organs import Heart, heart_distance
from rsna_e2e.tools.synth.chest.patient import Chest
from rsna_e2e.tools.synth.chest.tubes import FAR_MM, Layer, Planes, Raster, Tubes, Window
from rsna_e2e.tools.synth.common.series import FINE, Series
from rsna_e2e.tools.synth.common.shapes import Points, coverage

SOFT_HU, WALL_HU, DEFECT_HU = 50.0, 20.0, 55.0
CORTEX_HU, CORTEX_MM = 620.0, 1.7
SUB_PLANE_MM = 1.6  # sub-planes through a slice are at most this far apart
MARROW = -1
Shares = dict[int, tuple[Float32Array, Window]]  # by layer, each in a window of pixels


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


@dataclass(frozen=True, slots=True)
class Loss:
    """What emboli take from one slice, HU: by layer of emboli where there is any, and together; [FINE, FINE] each."""

    by_layer: dict[int, Float32Array] = field(default_factory=dict)
    total: Float32Array = field(default_factory=lambda: np.zeros((FINE, FINE), np.float32))


def _in_window(found: tuple[Float32Array, Window] | None, window: Window, like: Float32Array) -> Float32Array:
    """Depths of a layer in the window of another one, whose depths have the shape of `like`."""
    if found is None:
        return np.full_like(like, -FAR_MM)
    everywhere = np.full((len(like), FINE, FINE), -FAR_MM, np.float32)
    everywhere[(slice(None), *found[1])] = found[0]
    return everywhere[(slice(None), *window)]


class Renderer:
    """Renders the slices of one scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._all = Raster(Tubes.join(scene.tubes, scene.laid.tubes))
        self._clots = Raster(scene.laid.tubes)
        self._lumen = Raster(Tubes.join(scene.tubes.of(Layer.ARTERY), scene.laid.tubes))

    def render(self, k: int) -> tuple[Float32Array, Loss]:
        """Slice `k` without noise, HU [FINE, FINE], and what emboli took from it."""
        hu, loss = np.zeros((FINE, FINE), np.float32), Loss()
        for pose in self._scene.findings.poses:
            shares, blood = self._shares(self._all, k, pose), self._blood(k, pose)
            hu += self._paint(k, pose, shares, blood)
            self._take(loss, shares, blood)
        hu /= np.float32(len(self._scene.findings.poses))
        hu -= loss.total
        return hu, loss

    def loss(self, k: int) -> Loss:
        """What emboli take from slice `k`, without rendering anything else."""
        loss = Loss()
        for pose in self._scene.findings.poses:
            if self._clots.meets(self._planes(k, pose)):
                self._take(loss, self._shares(self._lumen, k, pose), self._blood(k, pose))
        return loss

    def _take(self, loss: Loss, shares: Shares, blood: float | Float32Array) -> None:
        """Add to `loss` what emboli take in one pose; where several overlap, only one of them takes."""
        most = np.zeros((FINE, FINE), np.float32)
        for layer in self._scene.laid.hu.keys() & shares.keys():
            share, window = shares[layer]
            lost = np.zeros((FINE, FINE), np.float32)
            lost[window] = share
            lost *= np.maximum(blood - self._scene.laid.hu[layer], 0.0) / len(self._scene.findings.poses)
            loss.by_layer[layer] = loss.by_layer[layer] + lost if layer in loss.by_layer else lost
            np.maximum(most, lost, out=most)
        np.add(loss.total, most, out=loss.total)

    def _planes(self, k: int, pose: Shift) -> Planes:
        """The sub-planes of slice `k` of a chest that stands in a pose."""
        series = self._scene.series
        pixel_mm = 2.0 * series.spacing_mm
        x, y, z = series.origins_mm[k] - np.array(pose)
        return Planes(
            x_mm=float(x) + 0.25 * pixel_mm,
            y_mm=float(y) + 0.25 * pixel_mm,
            z_mm=z + sub_offsets(series.thickness_mm),
            pixel_mm=pixel_mm,
        )

    def _shares(self, raster: Raster, k: int, pose: Shift) -> Shares:
        """Share of each pixel in each layer, averaged over sub-planes; bone's marrow goes under MARROW.

        Emboli are there only where the lumen is.
        """
        pixel_mm = 2.0 * self._scene.series.spacing_mm
        depths = raster.depths(self._planes(k, pose))
        found: Shares = {}
        for layer, (depth, window) in depths.items():
            if layer >= Layer.EMBOLUS:
                depth = np.minimum(depth, _in_window(depths.get(Layer.ARTERY), window, depth))
            found[layer] = (coverage(-depth, pixel_mm).mean(axis=0), window)
            if layer == Layer.BONE:
                found[MARROW] = (coverage(np.float32(CORTEX_MM) - depth, pixel_mm).mean(axis=0), window)
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

    def _paint(self, k: int, pose: Shift, shares: Shares, blood: float | Float32Array) -> Float32Array:
        """One pose of slice `k`, without emboli."""
        p = self._places(k, pose, 2 * coarse_pixels() + 0.5)
        canvas = Canvas(2.0 * self._scene.series.spacing_mm)
        findings = self._scene.findings
        parts = heart_distance(self._scene.heart, p)
        paint_body(canvas, self._scene.chest, findings, p, parts["heart"])
        below = (
            (Layer.SOFT, SOFT_HU), (Layer.PALE, findings.pale_hu), (Layer.VEIN, findings.vein_hu),
            (Layer.WALL, WALL_HU), (Layer.AIRWAY, AIR_HU),
        )  # fmt: skip
        above = (
            (Layer.AORTA, findings.aorta_hu), (Layer.SVC, findings.svc_hu), (Layer.DEFECT, DEFECT_HU),
            (Layer.BONE, CORTEX_HU), (MARROW, self._scene.chest.bone_hu), (Layer.ARTERY, blood),
        )  # fmt: skip
        _blend(canvas, shares, below)
        paint_heart(canvas, findings, parts)
        _blend(canvas, shares, above)
        return canvas.hu


def _blend(canvas: Canvas, shares: Shares, layers: Sequence[tuple[int, float | Float32Array]]) -> None:
    """Blend layers, each with its density (HU), one over another."""
    for layer, hu in layers:
        if layer in shares:
            share, window = shares[layer]
            canvas.blend(share, hu, window)
