"""Findings of a data report: problems to know of before training, each with what to do about it."""

from collections.abc import Iterator
from typing import Any

MANY_REFUSED = 0.01  # of all files
SEVERE, NOTABLE = "warning", "note"


def find(content: dict[str, Any]) -> list[dict[str, str]]:
    """Return findings of a report's content, the severe ones first."""
    found = [
        *_about_people(content),
        *(_about_series(content) if content["radiographs"] is None else _about_radiographs(content)),
        *_about_truth(content),
        *_about_studies(content),
        *_about_pixels(content),
        *_about_files(content),
    ]
    return sorted(
        ({"level": level, "title": title, "text": text} for level, title, text in found),
        key=lambda finding: finding["level"] != SEVERE,
    )


_Finding = tuple[str, str, str]


def _noun(content: dict[str, Any]) -> str:
    return "slice" if content["radiographs"] is None else "image"


def _about_people(content: dict[str, Any]) -> Iterator[_Finding]:
    counts, copies, noun = content["counts"], content["copies"], _noun(content)
    if n := content["values"]["n_burned_in"]:
        text = (
            f"{_some(n, noun)} with burned-in annotation by (0028,0301). The text may identify the patient and "
            f"is not removed here: look at these {noun}s before sharing any."
        )
        yield SEVERE, "Burned-in annotation", text
    if n := counts["patients_in_train_and_test"]:
        text = f"{_some(n, 'patient')} with labelled and unlabelled series: the test split is not of new patients only."
        yield SEVERE, "Patients in train and test", text
    if copies and copies["n_groups"]:
        text = (
            f"{_some(copies['n_slices'], noun)} in {_some(copies['n_groups'], 'group')} with identical pixels under "
            f"different patient ids; in {copies['n_groups_of_other_labels']:,} of them labels differ. Folds by patient "
            "do not separate them."
        )
        yield SEVERE, f"Equal {noun}s in different patients", text


def _about_series(content: dict[str, Any]) -> Iterator[_Finding]:
    counts = content["counts"]
    if n := counts["studies_with_a_series_for_every_slice"]:
        text = (
            f"{n:,} {'studies' if n > 1 else 'study'} where each slice has a SeriesInstanceUID of its own: the model "
            "sees no neighbouring slices. Give the slices of one volume one UID, and prepare again."
        )
        yield SEVERE, "A series for every slice", text
    if n := content["geometry"]["n_series_without_positions"]:
        text = (
            f"{n:,} series came without positions: slices are in the order of their files. A recurrent head on them "
            "needs --set loader.slice_order=file."
        )
        yield NOTABLE, "No positions", text
    if n := counts["series_of_several_volumes"]:
        text = (
            f"{_some(n, 'SeriesInstanceUID')} with {n + counts['further_volumes']:,} volumes: passes, time points or "
            "reconstructions. Each volume is a series by itself."
        )
        yield NOTABLE, "Several volumes in a series", text


def _about_radiographs(content: dict[str, Any]) -> Iterator[_Finding]:
    words = {"views": "view", "sexes": "sex", "photometric": "form"}
    for one in content["radiographs"]["telling"]:
        word = words[one["form"]]
        text = (
            f"{one['label']} holds in {one['high_prevalence']:.0%} of {one['high']} and in {one['low_prevalence']:.0%} "
            f"of {one['low']}. A model may learn the {word} instead of the finding: compare scores within each {word}."
        )
        yield SEVERE, f"The {word} of an image tells of its label", text


def _about_truth(content: dict[str, Any]) -> Iterator[_Finding]:
    truth = content["truth"]
    order = truth["order"]
    if order["looks_shuffled"]:
        text = (
            f"A positive series has {order['runs']:.2f} runs of positive slices; if shuffled, it would have "
            f"{order['shuffled_runs']:.2f}. Check that positions and labels belong to these images."
        )
        yield SEVERE, "Slices look shuffled", text
    if not truth["n_labelled"]:
        yield (
            NOTABLE,
            "No labels",
            f"No {_noun(content)} has a label: nothing can be trained on. Give the label file with --labels.",
        )
        return
    empty = [one["label"] for one in truth["labels"] if one["slices"]["n"] and not one["slices"]["n_positive"]]
    if empty:
        yield (
            SEVERE,
            f"Labels without a positive {_noun(content)}",
            f"{', '.join(empty)}: they cannot be learned or scored.",
        )
    if n := truth["n_unlabelled_in_train"]:
        yield (
            NOTABLE,
            "Partly labelled series",
            f"{_some(n, 'slice')} without a label in labelled series; the loss leaves them out.",
        )


def _about_studies(content: dict[str, Any]) -> Iterator[_Finding]:
    studies = content["studies"]
    if studies and (n := studies["n_breaking"]):
        text = f"{n:,} of {studies['n']:,} studies have labels that exclude each other, or those of their slices."
        yield SEVERE, "Labels that break the rules", text


def _about_pixels(content: dict[str, Any]) -> Iterator[_Finding]:
    geometry, values, noun = content["geometry"], content["values"], _noun(content)
    if n := values["n_wrapped_12bit"]:
        what = "they were restored" if content["source"] == "store" else "prepare restores them"
        text = (
            f"{_some(n, 'slice')} of unsigned 12-bit values whose negative HU wrapped around; {what} (wrapped_12bit)."
        )
        yield NOTABLE, "Wrapped 12-bit values", text
    if n := values.get("n_constant", 0):
        yield (
            NOTABLE,
            f"{noun.capitalize()}s of one value",
            f"{_some(n, noun)} in which every pixel has the same {'HU' if noun == 'slice' else 'grey'}.",
        )
    if n := geometry["n_series_with_gaps"]:
        text = (
            f"{n:,} series with gaps in which {geometry['n_missing_slices']:,} more slices would fit. Slices may be "
            "missing, or the scan was planned so."
        )
        yield NOTABLE, "Gaps", text
    if n := geometry["n_series_of_mixed_sizes"]:
        yield NOTABLE, "Mixed sizes", f"{n:,} series of several matrix sizes; each slice is resized by itself."


def _about_files(content: dict[str, Any]) -> Iterator[_Finding]:
    n, taken = content["n_refused"] - content["n_no_images"], content["counts"]["slices"]
    if n > MANY_REFUSED * (n + taken):
        text = f"{n:,} of {n + taken:,} files or slices ({n / (n + taken):.1%}) were not taken; reasons are below."
        yield SEVERE, "Many refusals", text


def _some(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"
