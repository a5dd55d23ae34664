"""Where results go: links, links that lead nowhere as yet, folders that are there already, other disks."""

from pathlib import Path

import phantoms
import pytest
import verbs
from stores import make_index, make_labels, make_slices

from rsna_e2e import cli
from rsna_e2e.store import Store, StoreError, StoreWriter, verify_store, write_shard

MADE = {"prepare": "store.json", "inspect": "inspection.html", "train": "config.yaml", "find-lr": "lr.csv",
        "embed": "manifest.json", "import-embeddings": "manifest.json", "evaluate": "report.html",
        "explain": "explanation.json"}  # fmt: skip


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return verbs.command_lines(tmp_path_factory.mktemp("places"))


def run(line: list[str], disk: Path) -> int:
    return cli.main([word.replace("DISK", str(disk)) for word in line])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("verb", MADE)
def test_a_link_that_leads_nowhere_as_yet(verb: str, lines: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere" / "deep")
    assert run(lines[verb], tmp_path) == 0
    assert (tmp_path / "elsewhere" / "deep" / MADE[verb]).is_file()
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("verb", ["prepare", "train", "embed", "import-embeddings"])
def test_a_disk_that_is_new_and_linked_to(verb: str, lines: dict[str, list[str]], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    (tmp_path / "out").symlink_to(disk)
    before = disk.stat().st_ino
    assert run(lines[verb], tmp_path) == 0
    assert (disk / MADE[verb]).is_file()
    assert disk.stat().st_ino == before  # it is the folder that was there: what is mounted cannot be replaced
    assert not (disk / ".partial").exists()
    if verb == "prepare":
        assert run(["store", "verify", "DISK/out"], tmp_path) == 0


def test_a_place_that_cannot_be_filled_is_refused_before_any_work(
    lines: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    assert run(lines["synth"], tmp_path) == 3
    assert "out: already exists. Choose another folder, such as" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


RINGS = ("prepare RING out", "prepare raw RING", "prepare raw out --deidentify RING", "inspect RING",
         "inspect raw --out RING", "store verify RING --out out")  # fmt: skip


@pytest.mark.parametrize("at", RINGS)
def test_a_link_that_leads_to_itself_is_bad_input(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    phantoms.write_series(tmp_path / "raw", name="a")
    (tmp_path / "RING").symlink_to("RING")
    assert cli.main(at.split()) == 3
    assert "RING: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RING", "raw"]


def _commit(writer: StoreWriter) -> None:
    stored = write_shard(writer.shards_folder / "00000.h5", make_slices())
    index = make_index(stored)
    writer.commit(index=index, labels=make_labels(index), refusals=[])


@pytest.mark.parametrize("n_moved", range(5))
def test_a_store_whose_folder_was_half_filled_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_moved: int
) -> None:
    store, replace = tmp_path / "store", Path.replace
    store.mkdir()
    moved: list[str] = []

    def killed(path: Path, place: Path) -> Path:
        if place.parent == store:
            moved.append(place.name)
            if len(moved) > n_moved:
                raise KeyboardInterrupt
        return replace(path, place)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt), StoreWriter(store, inputs="same") as writer:
            _commit(writer)
    with pytest.raises(StoreError, match="not a finished study store"):
        Store.open(store)
    with StoreWriter(store, inputs="same") as writer:
        assert (writer.shards_folder / "00000.h5").exists()
        _commit(writer)
    assert verify_store(store).is_whole
    assert not (store / ".partial").exists()


def test_what_was_not_cleared_up_is_the_next_time(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with StoreWriter(store) as writer:
        _commit(writer)
    for left in (store / ".partial" / "store", tmp_path / "store.partial" / "notes"):
        left.mkdir(parents=True)
    with pytest.raises(StoreError, match="prepared store already exists"), StoreWriter(store):
        pass
    assert verify_store(store).is_whole
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "store" / "shards").mkdir(parents=True)  # of nobody's attempt
    with pytest.raises(StoreError, match="exists and is not empty"), StoreWriter(tmp_path / "store"):
        pass
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["store", "store/shards"]
