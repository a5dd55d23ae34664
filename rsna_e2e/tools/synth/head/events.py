"""What happened to a patient's head, and which bleeds come of it."""

import numpy as np

from rsna_e2e.tools.synth.common.plan import PREVALENCES
from rsna_e2e.tools.synth.head import bleeds
from rsna_e2e.tools.synth.head.bleeds import Bleed

# What happens to a patient, and how often: (event, natural, demo). Natural rates are set so that labels per slice come
# near the competition's: any 14.4 %, subdural 6.3 %, intraparenchymal 4.8 %, subarachnoid 4.8 %, intraventricular
# 3.5 %, epidural 0.4 %. `demo` is denser, so that a few hundred studies hold enough of each.
EVENTS = (
    ("none", 0.587, 0.36),
    ("hypertensive", 0.135, 0.17),
    ("aneurysm", 0.05, 0.11),
    ("subdural", 0.098, 0.12),
    ("trauma", 0.085, 0.14),
    ("epidural", 0.006, 0.06),
    ("intraventricular", 0.039, 0.05),
)


def draw_bleeds(rng: np.random.Generator, prevalence: str) -> tuple[Bleed, ...]:
    """Draw a patient's kind of injury or disease and its bleeds, in the order in which they are painted."""
    weights = np.array([row[1 + PREVALENCES.index(prevalence)] for row in EVENTS])
    event = EVENTS[int(rng.choice(len(EVENTS), p=weights / weights.sum()))][0]
    found: list[Bleed] = []
    if event == "hypertensive":
        found.append(bleeds.draw_intraparenchymal(rng, traumatic=False))
        _maybe(found, rng, 0.65, bleeds.draw_intraventricular(rng))
        _maybe(found, rng, 0.12, bleeds.draw_subarachnoid(rng, traumatic=True))
    elif event == "aneurysm":
        _maybe(found, rng, 0.25, bleeds.draw_intraparenchymal(rng, traumatic=False))
        _maybe(found, rng, 0.5, bleeds.draw_intraventricular(rng))
        found.append(bleeds.draw_subarachnoid(rng, traumatic=False))
    elif event == "subdural":
        found.append(bleeds.draw_subdural(rng))
        _maybe(found, rng, 0.15, bleeds.draw_subdural(rng))
    elif event == "trauma":
        _maybe(found, rng, 0.5, bleeds.draw_intraparenchymal(rng, traumatic=True))
        _maybe(found, rng, 0.15, bleeds.draw_intraventricular(rng))
        _maybe(found, rng, 0.6, bleeds.draw_subarachnoid(rng, traumatic=True))
        _maybe(found, rng, 0.55, bleeds.draw_subdural(rng))
        _maybe(found, rng, 0.06, bleeds.draw_epidural(rng))
        if not found:
            found.append(bleeds.draw_subarachnoid(rng, traumatic=True))
    elif event == "epidural":
        _maybe(found, rng, 0.25, bleeds.draw_intraparenchymal(rng, traumatic=True))
        _maybe(found, rng, 0.3, bleeds.draw_subarachnoid(rng, traumatic=True))
        found.append(bleeds.draw_epidural(rng))
    elif event == "intraventricular":
        found.append(bleeds.draw_intraventricular(rng))
    return tuple(found)


def _maybe(found: list[Bleed], rng: np.random.Generator, chance: float, bleed: Bleed) -> None:
    if rng.random() < chance:
        found.append(bleed)
