"""Puts one radiograph together: the patient, what is found, what lies on them, and how they are X-rayed."""

from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.records import Float64Array
from rsna_e2e.tools.synth.chest.tubes import Layer, Tubes
from rsna_e2e.tools.synth.chest.vessels import (
    LEFT_MAIN,
    RIGHT_MAIN,
    TRUNK,
    Vessels,
    great_vessels,
    grow_vessels,
    lung_points,
)
from rsna_e2e.tools.synth.common.plan import stream
from rsna_e2e.tools.synth.common.series import rotation_matrix
from rsna_e2e.tools.synth.radiograph.beam import Beam
from rsna_e2e.tools.synth.radiograph.detector import Exposure, draw_exposure
from rsna_e2e.tools.synth.radiograph.devices import Devices, draw_devices
from rsna_e2e.tools.synth.radiograph.findings import ADDED, Findings, draw_findings
from rsna_e2e.tools.synth.radiograph.patient import Person, changed, draw_person

RENDERED = 512  # pixels of the longer side of the rendering grid, at most
SID_MM = {"PA": 1800.0, "AP": 1000.0}
LARGEST_MM = 430.0  # side of a detector
STRAIGHT = 0.45  # vessels run straighter than those of `chest`, where one slice shows a little of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that determines an image, except noise. rotation [3, 3] turns the canonical chest into the world."""

    person: Person
    findings: Findings
    devices: Devices
    vessels: Vessels
    rotation: Float64Array
    beam: Beam
    exposure: Exposure

    def placed(self, tubes: Tubes) -> Tubes:
        """Tubes of the canonical chest in the world."""
        return tubes.scaled(self.person.chest.scale).moved(self.rotation, self.person.centre_mm)

    def large_vessels(self) -> Tubes:
        """Vessels of the canonical chest whose outline is that of the mediastinum."""
        scale = self.person.vessel_scale
        return Tubes.join(
            great_vessels(self.person.chest.aorta_scale, is_left_arm=False).of(Layer.AORTA, Layer.SVC),
            *(Tubes.along(at, scale * np.array(r), Layer.ARTERY) for at, r in (TRUNK, RIGHT_MAIN, LEFT_MAIN)),
        )


def draw_scene(
    seed: int,
    index: int,
    *,
    view: str,
    opacity_rate: float,
    added: tuple[float, float] = ADDED[0],
    shape: tuple[int, int],
) -> Scene:
    """Draw image `index` of a data set, [rows, columns] of its file, in a view."""
    person = draw_person(stream(seed, "person", index), view)
    points = lung_points(person.chest, person.heart, stream(seed, "points", index))
    findings = draw_findings(stream(seed, "findings", index), view, points, opacity_rate=opacity_rate, added=added)
    person = changed(person, findings.others, stream(seed, "changes", index))
    vessels = grow_vessels(
        person.chest, person.heart, stream(seed, "vessels", index), trunk_scale=person.vessel_scale, straight=STRAIGHT
    )
    return Scene(
        person=person,
        findings=findings,
        devices=draw_devices(stream(seed, "devices", index), person, view),
        vessels=vessels,
        rotation=rotation_matrix(*person.tilt_rad),
        beam=_draw_beam(stream(seed, "beam", index), person, view, shape),
        exposure=draw_exposure(stream(seed, "exposure", index), view),
    )


def _draw_beam(rng: np.random.Generator, person: Person, view: str, shape: tuple[int, int]) -> Beam:
    """A field that shows the lungs with a margin, as far as the detector reaches."""
    chest = person.chest
    depth = (100.0 if view == "PA" else 109.0) + 0.6 * chest.muscle_mm + chest.fat_mm
    detector_y = (-1.0 if view == "PA" else 1.0) * (chest.scale[1] * depth + (22.0 if view == "PA" else 40.0))
    larger = SID_MM[view] / (SID_MM[view] - abs(detector_y))
    top, bottom = 114.0 * chest.scale[2], (chest.dome_mm - 58.0) * chest.scale[2]
    side, above, below = rng.uniform((4.0, 8.0, 0.0), (30.0, 36.0, 46.0))
    rows, columns = shape
    wide, high = larger * 272.0 * chest.scale[0] + 2.0 * side, larger * (top - bottom) + above + below
    pixel = min(max(wide / columns, high / rows), LARGEST_MM / max(shape))
    middle = top - (0.5 * rows * pixel - above) / larger
    shrunk = min(RENDERED / max(shape), 1.0)
    return Beam(
        view=view,
        sid_mm=SID_MM[view],
        detector_y_mm=detector_y,
        x_mm=float(person.centre_mm[0] + rng.normal(0.0, 5.0)),
        z_mm=float(person.centre_mm[2] + middle),
        pixel_mm=pixel / shrunk,
        rows=round(rows * shrunk),
        columns=round(columns * shrunk),
    )
