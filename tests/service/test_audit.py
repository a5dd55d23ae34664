"""The audit: whatever is changed, removed or cut off is found, and named."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rsna_e2e.core.errors import UsageError
from rsna_e2e.service.audit import NOBODY, Audit

STUDY = "0123456789abcdef"


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.sqlite"


@pytest.fixture
def audit(path: Path, clock: Clock) -> Iterator[Audit]:
    with Audit(path, clock=clock) as made:
        for number in range(5):
            clock.now_s += 1
            made.append(actor="anna", action="view", study=STUDY, address=f"192.0.2.{number}")
        yield made


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


def test_rows_are_as_they_were_given(audit: Audit) -> None:
    audit.append(actor=NOBODY, action="login", outcome="refused", address="somewhere\n")
    *_, before, last = audit.last(3)
    assert before == {
        "number": "5",
        "time": "2027-01-15T08:00:05.000+00:00",
        "actor": "anna",
        "action": "view",
        "study": STUDY,
        "outcome": "ok",
        "address": "192.0.2.4",
    }
    assert (last["number"], last["actor"], last["outcome"], last["address"]) == ("6", "-", "refused", "")


def test_the_chain_by_another_method(audit: Audit) -> None:
    """SHA-256 of the hash before and the row, as documented."""

    before = "0" * 64
    for number in range(1, 6):
        row = [number, f"2027-01-15T08:00:0{number}.000+00:00", "anna", "view", STUDY, "ok", f"192.0.2.{number - 1}"]
        before = hashlib.sha256(f"{before}\n{json.dumps(row)}".encode()).hexdigest()
    found = audit.verify()
    assert (found.broken, found.n_rows, found.known) == (None, 5, f"5:{before}")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"actor": "Anna Example"}, "the name of an account"),
        ({"study": "1.2.840.1"}, "named by its key"),
        ({"outcome": "DOE^JANE"}, "a word of this program"),
        ({"outcome": ""}, "a word of this program"),
    ],
)
def test_texts_of_others_are_not_taken(audit: Audit, given: dict[str, str], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        audit.append(**{"actor": "anna", "action": "view", **given})
    assert audit.verify().n_rows == 5


COLUMNS = ("time", "actor", "action", "study", "outcome", "address", "hash")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_row_that_is_changed_is_named(audit: Audit, path: Path, column: str) -> None:
    change(path, f"UPDATE audit SET {column} = 'x' WHERE number = 3")
    assert (audit.verify().broken, audit.verify().why) == (3, "it is not what was written")


@pytest.mark.parametrize(
    ("statements", "broken", "why"),
    [
        (["DELETE FROM audit WHERE number = 3"], 3, "it is missing"),
        (["DELETE FROM audit WHERE number = 1"], 1, "it is missing"),
        (["DELETE FROM audit WHERE number > 3"], 4, "the end is missing"),
        (["DELETE FROM audit"], 1, "the end is missing"),
        (["DELETE FROM audit_head"], 6, "the end is missing"),
        (["DELETE FROM audit WHERE number = 3", "UPDATE audit SET number = 3 WHERE number = 4"], 3, "not what was"),
    ],
)
def test_what_is_missing_is_named(audit: Audit, path: Path, statements: list[str], broken: int, why: str) -> None:
    change(path, *statements)
    found = audit.verify()
    assert found.broken == broken
    assert why in found.why


def test_another_chain_is_found_by_who_knows_the_first(audit: Audit, path: Path, clock: Clock) -> None:
    known = audit.verify().known
    audit.append(actor="anna", action="delete", study=STUDY)
    assert audit.verify(known).broken is None
    change(path, "DELETE FROM audit", f"UPDATE audit_head SET number = 0, hash = '{'0' * 64}'")
    for _ in range(7):
        audit.append(actor="bob", action="view", study=STUDY)
    assert audit.verify().broken is None
    assert (audit.verify(known).broken, audit.verify(known).why) == (5, "it is not the one that was known")
    assert audit.verify(f"9:{'a' * 64}").broken == 9
    with pytest.raises(UsageError, match="nonsense: not what"):
        audit.verify("nonsense")


def test_what_is_old_goes_and_the_rest_is_verified(audit: Audit, path: Path, clock: Clock) -> None:
    known = audit.verify().known
    assert audit.retain(timedelta(seconds=10)) == 0
    assert audit.retain(timedelta(seconds=2)) == 2  # those of 4 and 3 s ago
    assert [row["number"] for row in audit.last(9)] == ["3", "4", "5", "6"]
    assert audit.last(1)[0]["action"] == "retention"
    assert audit.verify().broken is None
    assert audit.verify(known).broken is None
    clock.now_s += 100
    assert audit.retain(timedelta(seconds=50)) == 4
    assert audit.verify().broken is None
    assert audit.verify(known).broken is None  # too old to say
    audit.append(actor="anna", action="view", study=STUDY)
    change(path, "DELETE FROM audit WHERE action = 'retention'")
    assert audit.verify().broken == 1


def test_rows_before_the_rest_may_not_go_by_themselves(audit: Audit, path: Path) -> None:
    audit.retain(timedelta(seconds=2))
    change(path, "DELETE FROM audit WHERE number = 3")
    assert (audit.verify().broken, audit.verify().why) == (3, "it is missing")


def test_many_write_at_once(audit: Audit, path: Path, clock: Clock) -> None:
    def write(name: str) -> None:
        with Audit(path, clock=clock) as own:
            for _ in range(20):
                own.append(actor=name, action="view", study=STUDY)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("anna", "bob", "carl")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert audit.verify().broken is None  # while others write
    assert audit.verify().n_rows == 5 + 3 * 20
