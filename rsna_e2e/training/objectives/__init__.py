"""What training minimises, apart from how its steps are taken.

In come batches with their labels; out come the gradients of the model and the losses to report. `losses` has the
formulas, one for each score of a task; `labels` computes one over whole series, chunk by chunk, and `boxes` the losses
of networks that find boxes. `objective` says what both do.
"""

from rsna_e2e.training.objectives.boxes import BoxObjective
from rsna_e2e.training.objectives.labels import LabelObjective
from rsna_e2e.training.objectives.losses import Totals
from rsna_e2e.training.objectives.objective import Objective

__all__ = ["BoxObjective", "LabelObjective", "Objective", "Totals"]
