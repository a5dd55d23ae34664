"""What `rsna-e2e evaluate` says of two submissions."""

from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.verbs import tell

if TYPE_CHECKING:
    from rsna_e2e.evaluation.scores import Evaluation


def say_difference(first: "Evaluation", second: "Evaluation", *, out: Path | None) -> None:
    """Print how two submissions differ, and write `paired.json` into the folder `out`."""
    from rsna_e2e.core.files import as_json
    from rsna_e2e.evaluation.paired import paired
    from rsna_e2e.evaluation.report.pages import check_folder, write_texts
    from rsna_e2e.evaluation.summary import paired_summary

    if out is not None:
        check_folder(out, example="paired.json")
    found = paired(first, second)
    if out is not None:
        write_texts(out, {"paired.json": as_json(found.to_dict(), indent=2) + "\n"})
    tell(*paired_summary(found).splitlines())
    for left_out in dict.fromkeys(str(one.left_out) for one in (first, second) if str(one.left_out)):
        tell(f"left out: {left_out}")
    if found.resampled is None:
        say_no_series()
    if out is not None:
        tell(f"numbers: {out / 'paired.json'}")


def say_no_series() -> None:
    """Say how to get what takes series."""
    tell("no intervals and no scores of series: give --store STORE or --series CSV to say which series images are in")
