"""How label IDs may refer to slices: by file name, path or SOP instance UID, in each of the ways these are written."""

# M headers

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from rsna_e2e.core.files import real_path
from rsna_e2e.core.records import IdRule, printable
from rsna_e2e.dicom.image_ids import image_ids_by, other_name, unique_image_ids, with_suffix
from rsna_e2e.store.prepare.tables import Table, file_names, instances, to_numpy


class Spellings:
    """What slices [M] are called by their headers, in which image ids are by name."""

    def __init__(self, headers: Table) -> None:
        self._headers = headers

    @cached_property
    def image_ids(self) -> list[str]:
        """Image ids by name."""
        return list(to_numpy(self._headers, "image_id").tolist())

    @cached_property
    def names(self) -> list[str]:
        """Names of the files, with folders."""
        return file_names(self._headers)

    @cached_property
    def sop_uids(self) -> list[str]:
        """SOP instance UIDs."""
        return list(to_numpy(self._headers, "sop_uid").tolist())

    @cached_property
    def instances(self) -> list[str]:
        """SOP instance UIDs, with the number of the frame from the second on."""
        return list(instances(self._headers).tolist())

    def read(self, rule: IdRule, ids: Sequence[str], raw: Path) -> list[str | None]:
        """Return IDs of a label table as image ids by a rule, None for those that no slice is called by.

        raw: the folder or archive that paths may begin with.
        """
        known = self._known(rule)
        if rule != "path":
            return [known.get(one) for one in ids]
        beginnings = beginnings_of(raw)
        return [next((known[path] for path in _relative(one, beginnings) if path in known), None) for one in ids]

    def spelled(self, rule: IdRule) -> Iterator[tuple[str, str]]:
        """Yield each way to write the ids of slices by path or SOP instance UID, and the instance."""
        yield from zip(image_ids_by(rule, self.image_ids, self.names, self.sop_uids), self.instances, strict=True)
        if rule == "path":
            yield from zip(map(with_suffix, self.image_ids, self.names), self.instances, strict=True)

    def values(self, column: str) -> set[str]:
        """Return what the headers say of an element."""
        return set(self._headers[column].unique().to_pylist())

    def rows_of(self, ambiguous: set[str]) -> list[int]:
        """Return the rows of slices with these image ids by name."""
        return [row for row, image_id in enumerate(self.image_ids) if image_id in ambiguous]

    def ambiguous(self, ids: Sequence[str]) -> set[str]:
        """Return the IDs that are the name of several instances."""
        repeated = {image_id for image_id, n in Counter(self.image_ids).items() if n > 1}.intersection(ids)
        if not repeated:
            return set()  # without a look at the instances
        pairs = set(zip(self.image_ids, self.instances, strict=True))
        counts = Counter(image_id for image_id, _ in pairs if image_id in repeated)
        return {image_id for image_id, n in counts.items() if n > 1}

    def _known(self, rule: IdRule) -> dict[str, str]:
        """Return all ways to write an ID, and the image id that each stands for: no other names of several instances,
        such as `1.2` of the files `1.2.1` and `1.2.2`, and no paths of several."""
        by_rule = image_ids_by(rule, self.image_ids, self.names, self.sop_uids)
        match rule:
            case "name":
                pairs = zip(self.image_ids, self.instances, strict=True)
                rows = list({pair: row for row, pair in reversed(list(enumerate(pairs)))}.values())  # without copies
                unique = unique_image_ids([by_rule[row] for row in rows], [self.names[row] for row in rows])
                files = map(with_suffix, by_rule, (name.rpartition("/")[2] for name in self.names))
                others = _of_one_instance(map(other_name, unique), (self.instances[row] for row in rows))
                exact = {one: one for one in (*others, *unique, *by_rule)}
                return dict(zip(files, by_rule, strict=True)) | exact
            case "path":
                whole = list(map(with_suffix, self.image_ids, self.names))
                n_files = Counter(by_rule)
                bare = (one if n_files[one] == 1 else path for one, path in zip(by_rule, whole, strict=True))
                return {one: one for one in _of_one_instance(by_rule, self.instances)} | dict(
                    zip(whole, bare, strict=True)
                )
            case "sop_uid":
                return dict(zip(by_rule, by_rule, strict=True))


def _of_one_instance(names: Iterable[str], instances: Iterable[str]) -> list[str]:
    """Return the names that stand for one instance alone, however many files it has."""
    instance_of: dict[str, str] = {}
    several = set()
    for name, instance in zip(names, instances, strict=True):
        if instance_of.setdefault(name, instance) != instance:
            several.add(name)
    return [name for name in instance_of if name not in several]


def beginnings_of(raw: Path) -> list[str]:
    """Return what may stand before a path in `raw`: `.`, and the end of its own path, from all of it to its name."""
    found = ["./"]
    for place in (Path(os.path.abspath(raw)), real_path(raw)):
        for root in (place, place.with_suffix("")) if place.is_file() else (place,):  # an archive as if unpacked
            parts = root.as_posix().split("/")
            found += [printable("/".join(parts[i:]) + "/") for i in range(len(parts))]
    return list(dict.fromkeys(found))


def _relative(path: str, beginnings: Sequence[str]) -> Iterator[str]:
    """Yield a path as it is, and without each of these beginnings."""
    yield path
    yield from (path.removeprefix(beginning) for beginning in beginnings if path.startswith(beginning))
