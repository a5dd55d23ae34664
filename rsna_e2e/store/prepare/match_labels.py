"""Matches a label table with images: finds out what its IDs are, and which slices they mean."""

# M headers, N of them taken

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import ID_RULES, IdRule, Refusal, Rows, printable
from rsna_e2e.dicom.image_ids import ImageIds, names_of, other_name, with_folder
from rsna_e2e.store.prepare.spellings import Spellings, beginnings_of
from rsna_e2e.store.prepare.tables import Table

# What IDs may be that stand for more than one image, and what the labels are of then
_WHOLES = {
    "study_uid": ("StudyInstanceUIDs", "studies"),
    "series_uid": ("SeriesInstanceUIDs", "series"),
    "patient_id": ("PatientIDs", "patients"),
}
MOST_AMBIGUOUS = 0.1  # of the images: more do not go without labels because these name others as well
_SEE = "See docs/labels.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIds:
    """The image ids of a label table, and studies that it has labels of. problem: why it cannot be used, if they are
    those of the images. unused: columns of a wide table that were not read."""

    file: str
    image_ids: Sequence[str]
    study_ids: Sequence[str] = ()
    problem: str = ""
    unused: Sequence[str] = ()

    @property
    def advice(self) -> str:
        """What may help where its IDs are no images, for the end of a message."""
        if not self.unused:
            return _SEE
        columns = ", ".join(map(printable, self.unused))
        return f"Columns of the table that were not used: {columns}. If one holds the IDs: --columns ID=COLUMN. {_SEE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelIds:
    """The label tables that may be of the images in `raw`.

    tables: in the order of preference. must_match: the first has to be of these images, because it was given, or lies
    among them. rule: of the image ids. refused: what no header is read of.
    """

    raw: Path
    tables: Sequence[TableIds]
    must_match: bool
    rule: ImageIds
    refused: Sequence[Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which table has labels of the images, None for none, and the rule of the image ids.

    rows: of that table which are taken; ids: theirs, as the rule spells them. n_ambiguous: its other rows, whose IDs
    are the name of several instances, so that which one they mean is not known.
    """

    table: int | None
    rule: IdRule
    ids: list[str] = field(default_factory=list)
    rows: Sequence[int] = ()
    n_ambiguous: int = 0


def match_labels(headers: Table, refused: Iterable[Refusal], labels: LabelIds) -> Match:
    """Find the label table of these images, and its rule: the one by which most of its IDs name an image.

    Raises BadInputError for a table that has to match and does not, or has labels of whole studies; that cannot be
    used; or whose IDs are the names of several images each, so that many would have no label.
    """
    slices = Spellings(headers)
    name_rule: IdRule = "name" if labels.rule == "auto" else labels.rule
    for number, table in enumerate(labels.tables):
        if table.study_ids and not table.image_ids:
            if not slices.values("study_uid").isdisjoint(table.study_ids):
                return Match(table=number, rule=name_rule)
            if labels.must_match and len(headers):
                raise BadInputError(_of_other_studies(slices, table, labels))
            continue
        readings = _readings(slices, table, labels)
        counts = {rule: len(ids) - ids.count(None) for rule, ids in readings.items()}
        rule = _fitting_most(counts, table)
        whole, wholes = _most_wholes(slices, table) if counts[rule] < len(table.image_ids) else ("", set())
        if counts[rule] >= max(len(wholes), 1):
            return _taken(slices, table, labels, number, rule, readings[rule])
        if labels.must_match and len(headers):
            if wholes:
                raise BadInputError(_has_wholes(table, whole, wholes))
            rule = _rule_of_refused(slices, table, labels, refused)
            return Match(table=number, rule=rule, ids=list(table.image_ids), rows=range(len(table.image_ids)))
    return Match(table=None, rule=name_rule)


def further_labels(headers: Table, rows: Rows, image_ids: Sequence[str], match: Match) -> dict[str, list[int]]:
    """Return the rows of the label table, by image id, for slices that it means without naming this id, or by the id of
    a copy as well; the row of their own id is the first.

    headers: with image ids by name. image_ids [N]: of the store, for these rows.
    """
    slices, row_of = Spellings(headers), {image_id: row for row, image_id in enumerate(match.ids)}
    others = [image_id if image_id in row_of else other_name(image_id) for image_id in image_ids]
    is_other = (own not in row_of and other in row_of for own, other in zip(image_ids, others, strict=True))
    if match.rule == "name" and not any(is_other):
        return {}  # without a look at the instances
    instances = [slices.instances[row] for row in rows.tolist()]
    spelled: Iterable[tuple[str, str]] = zip(others, instances, strict=True)
    if match.rule != "name":
        spelled = slices.spelled(match.rule)  # also of copies that are not in the store
    named, stored = _names_by_instance(spelled, row_of), set(image_ids)
    further = {}
    for image_id, instance in zip(image_ids, instances, strict=True):
        names = named.get(instance, [])
        if image_id in row_of:  # slices of other series have labels of their own
            names = [image_id, *(name for name in names if name not in stored)]
        if names not in ([], [image_id]):
            further[image_id] = [row_of[name] for name in names]
    return further


def _names_by_instance(spelled: Iterable[tuple[str, str]], labelled: Collection[str]) -> dict[str, list[str]]:
    """Return the labelled names of each instance, of which each is the name of no other."""
    meant: dict[str, set[str]] = defaultdict(set)
    for name, instance in spelled:
        if name in labelled:
            meant[name].add(instance)
    named: dict[str, list[str]] = defaultdict(list)
    for name, several in meant.items():
        if len(several) == 1:
            named[min(several)].append(name)
    return named


def with_labels(refusals: Sequence[Refusal], match: Match, raw: Path) -> list[Refusal]:
    """Return refusals with `has_label` set where a label names their file, by UID as far as that is known.

    raw: as of `LabelIds`.
    """
    labelled, beginnings = (file_names(match.ids), beginnings_of(raw)) if refusals else (set(), [])
    return [replace(one, has_label=_is_named(one, match.rule, labelled, beginnings)) for one in refusals]


def _is_named(refusal: Refusal, rule: IdRule, labelled: set[str], beginnings: Sequence[str]) -> bool:
    """Whether a refused file is among the `labelled`, of `file_names`. beginnings: what paths may begin with."""
    names = names_of(refusal.path, rule)
    if rule == "path":
        names |= {beginning + name for beginning in beginnings for name in names}
    if rule == "sop_uid" and refusal.sop_uid:
        names.add(printable(refusal.sop_uid))
    return not labelled.isdisjoint(names)


def _readings(slices: Spellings, table: TableIds, labels: LabelIds) -> dict[IdRule, Sequence[str | None]]:
    """Return the IDs of a table as image ids by each rule that they may follow, None where they name no image."""
    if labels.rule in ("auto", "name") and set(table.image_ids).issubset(slices.image_ids):
        return {"name": table.image_ids}  # no other rule could fit better
    return {rule: slices.read(rule, table.image_ids, labels.raw) for rule in _rules(labels)}


def _rules(labels: LabelIds) -> Sequence[IdRule]:
    return tuple(ID_RULES) if labels.rule == "auto" else (labels.rule,)


def _fitting_most(counts: Mapping[IdRule, int], table: TableIds) -> IdRule:
    """Return the rule by which most IDs match; of equals the first, but paths where IDs have folders: names that repeat
    have them too, others do not."""
    rule = max(counts, key=lambda rule: counts[rule])
    has_folders = any("/" in image_id for image_id in table.image_ids)
    return "path" if has_folders and counts.get("path") == counts[rule] else rule


def _most_wholes(slices: Spellings, table: TableIds) -> tuple[str, set[str]]:
    """Return which of `_WHOLES` most IDs of a table are, and these IDs."""
    found = {name: slices.values(name).intersection(table.image_ids) for name in _WHOLES}
    return max(found.items(), key=lambda one: len(one[1]))


def _taken(
    slices: Spellings, table: TableIds, labels: LabelIds, number: int, rule: IdRule, ids: Sequence[str | None]
) -> Match:
    if table.problem:
        raise BadInputError(table.problem)
    if table.study_ids and slices.values("study_uid").isdisjoint(table.study_ids):
        raise BadInputError(_of_other_studies(slices, table, labels))
    spelled = [given if one is None else one for one, given in zip(ids, table.image_ids, strict=True)]
    ambiguous = slices.ambiguous(spelled) if rule == "name" else set()
    if ambiguous:
        _check_ambiguous(slices, table, ambiguous, n_labelled=len(ids) - ids.count(None) - len(ambiguous))
    if len(set(spelled)) < len(spelled):
        twice, _ = Counter(spelled).most_common(1)[0]
        given = [repr(given) for one, given in zip(spelled, table.image_ids, strict=True) if one == twice]
        raise BadInputError(f"{table.file}: the IDs {' and '.join(given)} are one image. Keep one of them")
    rows = [row for row, one in enumerate(spelled) if one not in ambiguous]
    taken = [spelled[row] for row in rows]
    return Match(table=number, rule=rule, ids=taken, rows=rows, n_ambiguous=len(ambiguous))


def _check_ambiguous(slices: Spellings, table: TableIds, ambiguous: set[str], *, n_labelled: int) -> None:
    """Raise BadInputError where names of several images leave more than a few of them without labels."""
    rows = slices.rows_of(ambiguous)
    if len(rows) <= MOST_AMBIGUOUS * len(slices.names) and len(rows) <= n_labelled:
        return
    image_id = min(ambiguous)
    instances = {slices.instances[row]: row for row in reversed(rows) if slices.image_ids[row] == image_id}
    one, other = (printable(slices.names[row]) for row in sorted(instances.values())[:2])
    raise BadInputError(
        f"{table.file}: its IDs are file names, but these repeat: {image_id!r} could be {one} or {other}. "
        f"{len(rows)} of {len(slices.names)} images would have no label for that. Give paths as IDs, such as "
        f"{with_folder(image_id, one)!r}, or SOP Instance UIDs. {_SEE}"
    )


def _of_other_studies(slices: Spellings, table: TableIds, labels: LabelIds) -> str:
    return (
        f"{table.file}: names none of the studies in {labels.raw}. Its first is {min(table.study_ids)!r}; one there is "
        f"{min(slices.values('study_uid'))!r}. Expected StudyInstanceUIDs; if another column has them: --columns "
        f"StudyInstanceUID=COLUMN. {_SEE}"
    )


def _has_wholes(table: TableIds, whole: str, ids: set[str]) -> str:
    uids, of = _WHOLES[whole]
    example = "" if whole == "patient_id" else f", such as {min(ids)!r}"  # a PatientID may be a name
    return (
        f"{table.file}: {len(ids)} of its {len(table.image_ids)} IDs are {uids}{example}, so it has labels of whole "
        f"{of}. The task learns from labels of slices, so these cannot be used. {table.advice}"
    )


def _rule_of_refused(slices: Spellings, table: TableIds, labels: LabelIds, refused: Iterable[Refusal]) -> IdRule:
    """Return the rule by which a table names files that were refused. Raises BadInputError where there is none."""
    labelled, beginnings = file_names(table.image_ids), beginnings_of(labels.raw)
    for rule in _rules(labels):
        if any(_is_named(one, rule, labelled, beginnings) for one in (*labels.refused, *refused)):
            return rule
    if labels.rule == "auto":
        expected, advice = "file name, path or SOP Instance UID", ""
    else:
        expected, advice = ID_RULES[labels.rule].removesuffix("s"), f" (--image-ids {labels.rule})"
    raise BadInputError(
        f"{table.file}: names none of the images in {labels.raw}. Its first is {min(table.image_ids)!r}; the first "
        f"there is {printable(slices.names[0])}, SOP Instance UID {printable(slices.sop_uids[0])}. Expected an ID "
        f"with the image's {expected}{advice}. {table.advice}"
    )


def file_names(image_ids: Iterable[str]) -> set[str]:
    """Return the names, as of `names_of`, that files with these image ids, or with frames of them, may have."""
    return {name for image_id in image_ids for name in (image_id, image_id.rpartition("_")[0])}
