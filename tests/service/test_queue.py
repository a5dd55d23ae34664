"""The queue: every study is taken by one worker at a time, comes to an end, and none is forgotten."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from services import Desk, make_desk

from rsna_e2e.service.arrivals import Arrived, arrive, complete, count_undone, drop_files, forget, inbox_bytes, retry
from rsna_e2e.service.catalogue import Wanted, find_result, list_studies
from rsna_e2e.service.catalogue import study as find_study
from rsna_e2e.service.database import Database, content_of
from rsna_e2e.service.jobs import (
    LOST,
    Found,
    Job,
    claim,
    claim_pictures,
    fail,
    finish,
    finish_pictures,
    renew,
    void_leases,
)
from rsna_e2e.service.sqlite import transaction

STUDY, OTHER = "0123456789abcdef", "fedcba9876543210"
MODEL = "00112233445566aa"
SUMMARY = {"model": {"name": "m", "version": "1", "identity": MODEL}, "scores": {"any": 0.9}, "n_slices": 2}
FOUND = Found(summaries={MODEL: SUMMARY}, refused={}, timing_s={}, score=0.9)
NOTHING = Found(summaries={}, refused={"not_ct": 2}, timing_s={}, score=None)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path / "data", quiet_s=10, max_wait_s=100, lease_s=60, retry_s=(5, 30, 300))


def _arrive(desk: Desk, *names: str, study: str = STUDY) -> None:
    with desk.database.change() as version:
        arrive(desk.database, [Arrived(study=study, name=name, n_bytes=7) for name in names], version=version)


def _state(desk: Desk, study: str = STUDY) -> str:
    row = desk.database.row(study)
    assert row is not None
    return str(row["state"])


def _claimed(desk: Desk, owner: str = "a") -> Job:
    job = claim(desk.database, owner)
    assert job is not None
    return job


def test_a_study_is_whole_when_it_was_quiet_for_a_while(desk: Desk) -> None:
    _arrive(desk, "1")
    desk.clock.now_s += 9
    _arrive(desk, "2")
    desk.clock.now_s += 9.9
    assert claim(desk.database, "a") is None
    desk.clock.now_s += 0.2
    job = _claimed(desk)
    assert (job.study, job.names, job.content) == (STUDY, ("1", "2"), content_of(["2", "1"]))


def test_a_study_that_drips_is_taken_after_the_longest_wait(desk: Desk) -> None:
    for number in range(12):
        _arrive(desk, str(number))
        assert claim(desk.database, "a") is None
        desk.clock.now_s += 9
    assert _claimed(desk).study == STUDY


def test_a_sender_can_say_that_it_is_whole(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    assert _state(desk) == "queued"
    assert _claimed(desk).attempt == 1
    assert _state(desk) == "running"


def test_who_waits_longest_is_first_and_has_one_worker(desk: Desk) -> None:
    _arrive(desk, "1", study=OTHER)
    desk.clock.now_s += 1
    _arrive(desk, "1")
    complete(desk.database, [STUDY, OTHER])
    assert [_claimed(desk, owner).study for owner in "ab"] == [OTHER, STUDY]
    assert claim(desk.database, "c") is None
    assert count_undone(desk.database) == 2


def test_files_that_are_known_change_nothing(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    assert finish(desk.database, _claimed(desk), "a", FOUND)
    version = desk.database.version()
    _arrive(desk, "1")
    assert (_state(desk), inbox_bytes(desk.database)) == ("done", 7)
    assert desk.database.version() == version  # nobody who waits for a change is woken


def test_a_file_more_makes_a_new_generation_and_the_old_result_stays(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    first = _claimed(desk)
    finish(desk.database, first, "a", FOUND)
    _arrive(desk, "2")
    assert _state(desk) == "arriving"
    (item,) = list_studies(desk.database, Wanted())["items"]
    assert item["superseded"]
    assert item["scores"] == {"any": 0.9}
    complete(desk.database, [STUDY])
    second = _claimed(desk)
    assert second.content != first.content
    finish(desk.database, second, "a", FOUND)
    found = find_study(desk.database, STUDY)
    assert found is not None
    assert [(one["content"], one["superseded"]) for one in found["generations"]] == [
        (second.content, False),
        (first.content, True),
    ]
    assert find_result(desk.database, STUDY) == (second.content, MODEL)
    assert find_result(desk.database, STUDY, content=first.content) == (first.content, MODEL)


def test_a_file_that_comes_while_it_runs_is_seen_at_the_end(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    job = _claimed(desk)
    _arrive(desk, "2")
    complete(desk.database, [STUDY])
    assert _state(desk) == "running"
    finish(desk.database, job, "a", FOUND)
    assert _state(desk) == "arriving"
    assert _claimed(desk).names == ("1", "2")  # at once, as it is whole


def test_a_worker_that_falls_silent_loses_its_study(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    job = _claimed(desk)
    desk.clock.now_s += 50
    renew(desk.database, "a")
    desk.clock.now_s += 59
    assert claim(desk.database, "b") is None
    desk.clock.now_s += 2
    again = _claimed(desk, "b")
    assert (again.study, again.attempt) == (STUDY, 2)
    assert not finish(desk.database, job, "a", FOUND)  # it is another's by now
    fail(desk.database, job, "a", "too_late")
    assert _state(desk) == "running"
    assert finish(desk.database, again, "b", FOUND)


def test_it_is_tried_again_later_and_then_left_alone(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    for wait_s in (5, 30):
        fail(desk.database, _claimed(desk), "a", "no_room")
        assert _state(desk) == "failed"
        desk.clock.now_s += wait_s - 0.1
        assert claim(desk.database, "a") is None
        desk.clock.now_s += 0.2
    fail(desk.database, _claimed(desk), "a", "no_room")
    assert _state(desk) == "dead"
    desk.clock.now_s += 1e6
    assert claim(desk.database, "a") is None
    assert retry(desk.database, STUDY)
    assert _claimed(desk).attempt == 1
    assert not retry(desk.database, STUDY)  # it is on its way


def test_who_kills_its_worker_each_time_is_dead(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    for _ in range(3):
        assert claim(desk.database, "a") is not None
        desk.clock.now_s += 61
    assert claim(desk.database, "a") is None
    row = desk.database.row(STUDY)
    assert row is not None
    assert (row["state"], row["reason"]) == ("dead", LOST)


def test_after_an_end_of_all_leases_are_void_and_clocks_begin_anew(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    _claimed(desk)
    _arrive(desk, "1", study=OTHER)
    desk.clock.now_s = 3.0  # the machine started again
    void_leases(desk.database)
    assert _claimed(desk, "b").study == STUDY
    assert claim(desk.database, "b") is None
    desk.clock.now_s += 10.1
    assert _claimed(desk, "b").study == OTHER


def test_nothing_to_predict_is_an_end_too(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    finish(desk.database, _claimed(desk), "a", NOTHING)
    assert _state(desk) == "refused"
    found = find_study(desk.database, STUDY)
    assert found is not None
    assert found["refused"] == {"not_ct": 2}
    assert found["reason"] == "not_ct"


def test_why_a_study_is_refused_is_what_most_of_its_files_were_refused_for(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    refused = {"truncated": 1, "not_ct": 3, "localizer": 2}
    finish(desk.database, _claimed(desk), "a", Found(summaries={}, refused=refused, timing_s={}, score=None))
    (item,) = list_studies(desk.database, Wanted())["items"]
    assert (item["state"], item["reason"]) == ("refused", "not_ct")
    _arrive(desk, "2")  # a slice of CT
    complete(desk.database, [STUDY])
    finish(desk.database, _claimed(desk), "a", replace(FOUND, refused=refused))
    (item,) = list_studies(desk.database, Wanted())["items"]
    assert (item["state"], item["reason"]) == ("done", None)


def test_pictures_come_after_results_and_are_tried_so_many_times(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    assert claim_pictures(desk.database, "a") is None
    finish(desk.database, _claimed(desk), "a", FOUND)
    for _ in range(3):
        job = claim_pictures(desk.database, "a")
        assert job is not None
        assert claim_pictures(desk.database, "b") is None
        finish_pictures(desk.database, job, is_made=False)
    assert claim_pictures(desk.database, "a") is None
    found = find_study(desk.database, STUDY)
    assert found is not None
    assert found["pictures"] == "failed"


def test_a_study_that_is_deleted_while_it_runs_leaves_nothing(desk: Desk) -> None:
    _arrive(desk, "1")
    complete(desk.database, [STUDY])
    job = _claimed(desk)
    with desk.database.change():
        assert forget(desk.database, STUDY)
    assert not finish(desk.database, job, "a", FOUND)
    assert find_study(desk.database, STUDY) is None
    with desk.database.change():
        assert not forget(desk.database, STUDY)


def test_lists_are_sorted_filtered_and_cut(desk: Desk) -> None:
    studies = [f"{number:016x}" for number in range(5)]
    for number, study in enumerate(studies):
        desk.clock.now_s += 1
        file = Arrived(study=study, name="1", n_bytes=1, identity=(f"p{number % 2}", "", ""))
        with desk.database.change() as version:
            arrive(desk.database, [file], version=version)
        complete(desk.database, [study])
        score = (number * 2 % 5) / 5
        found = Found(summaries={MODEL: SUMMARY | {"scores": {"any": score}}}, refused={}, timing_s={}, score=score)
        if number < 4:
            finish(desk.database, _claimed(desk), "a", found)

    def listed(**wanted: object) -> list[int]:
        return [studies.index(item["study"]) for item in list_studies(desk.database, Wanted(**wanted))["items"]]

    assert listed(sort="score") == [2, 1, 3, 0, 4]
    assert listed(sort="time") == [4, 3, 2, 1, 0]
    assert listed(state="queued") == [4]
    assert listed(label="any", least=0.2, sort="score") == [2, 1, 3]
    assert listed(patient="p1", sort="score") == [1, 3]
    assert listed(since="2999-01-01") == []
    page = list_studies(desk.database, Wanted(sort="score", limit=2))
    assert page["next"] == 2
    assert listed(sort="score", limit=2, cursor=page["next"]) == [3, 0]
    assert list_studies(desk.database, Wanted(limit=5))["next"] is None


def _steps(desk: Desk, call: Callable[[], object]) -> int:
    """Return how many steps of SQLite's machine a call takes, in tens."""
    steps = []
    desk.database.connection.set_progress_handler(lambda: steps.append(1) or 0, 10)
    call()
    desk.database.connection.set_progress_handler(None, 0)
    return len(steps)


@pytest.mark.parametrize(
    "ask",
    [
        lambda database: list_studies(database, Wanted()),
        lambda database: list_studies(database, Wanted(sort="score")),
        lambda database: list_studies(database, Wanted(state="done")),
        lambda database: list_studies(database, Wanted(least=0.5, sort="score")),
        lambda database: find_study(database, STUDY),
        inbox_bytes,
        count_undone,
        lambda database: claim(database, "a"),
        lambda database: claim_pictures(database, "a"),
    ],
    ids=["list", "by score", "done", "likely", "study", "bytes", "undone", "claim", "claim of pictures"],
)
def test_what_is_asked_often_costs_the_same_however_much_is_kept(desk: Desk, ask: Callable[[Database], object]) -> None:
    _arrive(desk, "1")
    counts = []
    for begin, end in ((0, 300), (300, 3000)):
        connection = desk.database.connection
        with transaction(connection):
            for number in range(begin, end):
                study = f"{number:016x}"
                connection.execute(
                    "INSERT INTO studies(study, state, received, first_s, last_s, version, score)"
                    " VALUES (?,'done',?,?,?,?,?)",
                    (study, f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}", number, number, number, number % 7),
                )
                connection.execute(
                    "INSERT INTO results(study, content, model, finished, summary, pictures)"
                    " VALUES (?,'c',?,'','{}','done')",
                    (study, MODEL),
                )
                connection.executemany("INSERT INTO files VALUES (?,?,7)", [(study, str(place)) for place in range(3)])
        counts.append(_steps(desk, lambda: ask(desk.database)))
    assert counts[1] <= 1.2 * counts[0] + 10


def test_the_bytes_of_the_inbox_are_those_of_its_files(desk: Desk, tmp_path: Path) -> None:
    _arrive(desk, "1", "2", "3")
    _arrive(desk, "1", study=OTHER)
    assert inbox_bytes(desk.database) == 4 * 7
    with desk.database.change():
        drop_files(desk.database, STUDY, ["2", "none"])
    assert inbox_bytes(desk.database) == 3 * 7
    with desk.database.change():
        forget(desk.database, STUDY)
    assert inbox_bytes(desk.database) == inbox_bytes(Database(desk.settings)) == 7
    with closing(sqlite3.connect(desk.settings.database)) as earlier:  # of a version that did not count
        earlier.executescript("DROP TRIGGER came; DROP TRIGGER went; DROP TABLE inbox")
    assert inbox_bytes(Database(desk.settings)) == 7
