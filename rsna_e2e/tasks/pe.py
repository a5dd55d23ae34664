"""Pulmonary embolism on CT angiography: RSNA-STR Pulmonary Embolism Detection 2020."""

from rsna_e2e.tasks.task import Csv, Inputs, Labels, Task
from rsna_e2e.tasks.tree import Choice, Some

_POSITIVE = "positive*"  # what the competition calls a positive exam; no label says it

# Weights: the competition's metric. Tree: its rules on which labels may go together. Windows: lung, pulmonary arteries
# and mediastinum. Nobody published a normalisation for these: mean and std are what `rsna-e2e inspect` finds on the
# store of bin/demo_pe.sh; on another store it finds what belongs to that.
PE = Task(
    name="pe",
    title="Pulmonary embolism on CT angiography",
    slices=Labels(names=("pe_present_on_image",), weights=(0.07361963,)),
    series=Labels(
        names=(
            "negative_exam_for_pe",
            "indeterminate",
            "chronic_pe",
            "acute_and_chronic_pe",
            "central_pe",
            "leftsided_pe",
            "rightsided_pe",
            "rv_lv_ratio_gte_1",
            "rv_lv_ratio_lt_1",
        ),
        weights=(
            0.0736196319,
            0.09202453988,
            0.1042944785,
            0.1042944785,
            0.1877300613,
            0.06257668712,
            0.06257668712,
            0.2346625767,
            0.0782208589,
        ),
        tree=(
            Choice(branches=(_POSITIVE, "negative_exam_for_pe", "indeterminate")),
            Choice(branches=("rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1"), given=_POSITIVE),
            Choice(branches=("acute*", "chronic_pe", "acute_and_chronic_pe"), given=_POSITIVE),
            Some(branches=("central_pe", "leftsided_pe", "rightsided_pe"), given=_POSITIVE),
        ),
        notes=("qa_motion", "qa_contrast", "flow_artifact", "true_filling_defect_not_pe"),
    ),
    series_truth="own",
    state_of_slices=_POSITIVE,
    headline="pe_present_on_image",
    inputs=Inputs(
        windows_hu=((-600.0, 1500.0), (100.0, 700.0), (40.0, 400.0)),
        mean=(0.533, 0.173, 0.191),
        std=(0.356, 0.227, 0.278),
    ),
    csv=Csv(columns=("id", "label"), slice_id="{slice}", series_id="{study}_{label}"),
    score="study_log_loss",
)
