"""Lung opacity on chest radiographs: RSNA Pneumonia Detection Challenge 2018."""

from rsna_e2e.tasks.task import BoxColumns, Csv, Inputs, Labels, Task
from rsna_e2e.tasks.tree import Choice

# Columns and words are the competition's. The window is the whole range of grey. Nobody published a normalisation of
# such values for these images: mean and std are round numbers, mid grey and a quarter of the range; `rsna-e2e inspect`
# finds those of a store.
PNEUMONIA = Task(
    name="pneumonia",
    title="Lung opacity on chest radiographs",
    slices=Labels(
        names=("opacity", "other_abnormal", "normal"),
        weights=(1.0, 1.0, 1.0),
        tree=(Choice(branches=("opacity", "other_abnormal", "normal")),),
    ),
    headline="opacity",
    inputs=Inputs(windows_hu=((16383.5, 32767.0),), mean=(0.5,), std=(0.25,), values="grey"),
    csv=Csv(
        box_columns=BoxColumns(
            image="patientId",
            place=("x", "y", "width", "height"),
            target="Target",
            class_column="class",
            class_words=("Lung Opacity", "No Lung Opacity / Not Normal", "Normal"),
            prediction="PredictionString",
        )
    ),
    boxes=("opacity",),
)
