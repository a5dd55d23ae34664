"""Intracranial hemorrhage: RSNA Intracranial Hemorrhage Detection 2019."""

from rsna_e2e.tasks.task import Inputs, Labels, Task

# Label order and metric weights ('any' counts double) are the competition's; windows (brain, subdural, soft tissue) and
# normalisation constants are those of the published 2nd-place solution.
ICH = Task(
    name="ich",
    title="Intracranial hemorrhage",
    slices=Labels(
        names=("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"),
        weights=(1.0, 1.0, 1.0, 1.0, 1.0, 2.0),
        any_name="any",
    ),
    headline="any",
    inputs=Inputs(
        windows_hu=((40.0, 80.0), (80.0, 200.0), (40.0, 380.0)),
        mean=(0.22363983, 0.18190407, 0.2523437),
        std=(0.32451536, 0.2956294, 0.31335256),
    ),
)
