"""Death within 30 days, on chest radiographs of patients with COVID-19."""

from rsna_e2e.tasks.task import Csv, Inputs, Labels, Task

# The report that this follows gives no columns of its files, only their name, prediction_example.csv: these are the
# columns of a sibling homework on the same patients. One row per image. The window is the whole range of grey, and mean
# and std are mid grey and a quarter of the range, as of the other radiographs: nobody published those of these images.
MORTALITY = Task(
    name="mortality",
    title="Death within 30 days on chest radiographs",
    slices=Labels(names=("died",), weights=(1.0,)),
    headline="died",
    inputs=Inputs(windows_hu=((16383.5, 32767.0),), mean=(0.5,), std=(0.25,), values="grey"),
    csv=Csv(columns=("PATIENT ID", "hospital_outcome"), slice_id="{slice}"),
)
