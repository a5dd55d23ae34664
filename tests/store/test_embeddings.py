"""The format of stored embeddings: whole or not there, checked whenever it is read, never mixed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import small

from rsna_e2e.config import View
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import EmbeddingFolder, Embeddings, EmbeddingsError, EmbeddingSource, EmbeddingWriter
from rsna_e2e.store.embeddings.shards import open_shard

WIDTH = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("embeddings"))


def source(store: Store, **changes: object) -> EmbeddingSource:
    facts = {"store_hash": store.data_hash, "weights_sha256": "a", "kind": "k", "held_out_fold": 0, "folds": "store"}
    return EmbeddingSource.model_validate(facts | {"epoch": 1, "precision": "fp32"} | changes)


def values(store: Store, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).normal(size=(len(store), WIDTH)).astype(np.float32)


def write(
    folder: Path,
    store: Store,
    by_view: dict[View, Float32Array],
    *,
    blocks: int = 2,
    **changes: object,
) -> Path:
    """Write embeddings [N, WIDTH] of the whole store, some rows at a time."""
    with EmbeddingWriter(folder, source=source(store, **changes), width=WIDTH, store=store) as writer:
        for number, rows in enumerate(np.array_split(np.arange(len(store)), blocks)):
            for view, embeddings in by_view.items():
                if not writer.has(view, f"{number:05d}", rows):
                    with writer.shard(view, f"{number:05d}", rows) as append:
                        append(embeddings[rows[:3]])
                        append(embeddings[rows[3:]])
        writer.commit()
    return folder


def test_what_was_written_is_read_row_by_row_the_mean_over_views(store: Store, tmp_path: Path) -> None:
    plain, mirrored = values(store, 1), values(store, 2)
    folder = EmbeddingFolder.open(write(tmp_path / "e", store, {"plain": plain, "hflip": mirrored}), store)
    rows = np.array([len(store) - 1, 0, 1, 2, 9, 8])
    np.testing.assert_array_equal(folder.read(rows), (plain[rows] + mirrored[rows]) / np.float32(2))
    with h5py.File(tmp_path / "e" / "hflip-00001.h5") as file:  # for those who read it with other tools
        first = len(store) - len(file["store_row"])
        assert file["image_id"][0].decode() == store.index["image_id"][first]
        assert file["series_key"][0].decode() == store.index["series_key"][first]
        np.testing.assert_array_equal(file["embedding"][:], mirrored[first:])


def test_image_ids_may_be_paths_of_any_letters(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [300 * "Größe\\n/" + str(row) for row in range(len(store))]
    monkeypatch.setitem(store.index, "image_id", np.array(ids, dtype=object))
    folder = EmbeddingFolder.open(write(tmp_path / "e", store, {"plain": values(store)}), store)
    np.testing.assert_array_equal(folder.read(np.arange(3)), values(store)[:3])


def test_backbones_lie_side_by_side(store: Store, tmp_path: Path) -> None:
    one, two = values(store, 1), values(store, 2)
    paths = [write(tmp_path / name, store, {"plain": v}) for name, v in (("one", one), ("two", two))]
    embeddings = Embeddings.open(paths, store)
    assert embeddings.width == 2 * WIDTH
    rows = np.array([3, 1])
    np.testing.assert_array_equal(embeddings.read(rows), np.concatenate([one[rows], two[rows]], axis=1))
    assert embeddings.read(np.empty(0, dtype=np.int64)).shape == (0, 2 * WIDTH)
    hashes = {Embeddings.open(some, store).data_hash for some in (paths, paths[:1], paths[::-1])}
    assert len(hashes) == 3
    with pytest.raises(UsageError, match="each once"):
        Embeddings.open([paths[0], paths[0]], store)


def test_out_of_fold_a_series_gets_its_embeddings_from_who_did_not_see_it(store: Store, tmp_path: Path) -> None:
    by_fold = {fold: values(store, fold) for fold in (0, 1, 2)}
    paths = {f: write(tmp_path / str(f), store, {"plain": v}, held_out_fold=f) for f, v in by_fold.items()}
    folds = [span.fold for span in store.series]
    embeddings = Embeddings.open(
        [paths[0]], store, out_of_fold={f: [path] for f, path in paths.items()}, fold_of_series=folds
    )
    fold_of_row = np.repeat(folds, [span.n_slices for span in store.series])
    assert set(fold_of_row) == {-1, 0, 1, 2}
    expected = np.stack([by_fold[max(int(fold), 0)][row] for row, fold in enumerate(fold_of_row)])
    np.testing.assert_array_equal(embeddings.read(np.arange(len(store))), expected)
    with pytest.raises(
        UsageError, match="its classifier held out fold 1, not fold 2, so it was trained on these series"
    ):
        Embeddings.open([paths[0]], store, out_of_fold={2: [paths[1]]}, fold_of_series=folds)
    with pytest.raises(UsageError, match=r"a classifier that held it out; missing: \[1\]"):
        Embeddings.open([paths[0]], store, out_of_fold={f: [paths[f]] for f in (0, 2)}, fold_of_series=folds)


def test_a_folder_is_gone_on_with_and_whole_shards_stay(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "e"
    with pytest.raises(RuntimeError, match="killed"):  # noqa: PT012
        with EmbeddingWriter(folder, source=source(store), width=WIDTH, store=store) as writer:
            with writer.shard("plain", "00000", np.arange(11)) as append:
                append(np.zeros((11, WIDTH), dtype=np.float32))
            with writer.shard("plain", "00001", np.arange(11, len(store))) as append:
                append(np.zeros((2, WIDTH), dtype=np.float32))
                raise RuntimeError("killed")
    (folder / "plain-00001.h5.tmp-1").write_bytes(b"what a killed process leaves")
    with pytest.raises(EmbeddingsError, match="not a finished folder of embeddings"):
        EmbeddingFolder.open(folder, store)
    with EmbeddingWriter(folder, source=source(store), width=WIDTH, store=store) as writer:
        assert sorted(path.name for path in folder.iterdir()) == ["plain-00000.h5"]
        assert writer.has("plain", "00000", np.arange(11))
        assert not writer.has("plain", "00001", np.arange(11, len(store)))
        with pytest.raises(UsageError, match="holds embeddings of another selection of slices"):
            writer.has("plain", "00000", np.arange(10))


@pytest.mark.parametrize("change", [{"weights_sha256": "b"}, {"epoch": 2}, {"precision": "bf16"}, {"kind": "l"}])
def test_another_source_is_not_mixed_in(store: Store, tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path / "e", store, {"plain": values(store)})
    with pytest.raises(EmbeddingsError, match="made from another run, epoch, store or precision"):
        write(tmp_path / "e", store, {"hflip": values(store)}, **change)


def test_of_another_store_nothing_is_read(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "e", store, {"plain": values(store)})
    other = small.make_store(tmp_path / "other", sides=(40,))
    with pytest.raises(EmbeddingsError, match="of another store"):
        EmbeddingFolder.open(folder, other)


def test_two_processes_do_not_write_to_one_folder(store: Store, tmp_path: Path) -> None:
    writers = [EmbeddingWriter(tmp_path / "e", source=source(store), width=WIDTH, store=store) for _ in range(2)]
    with writers[0], pytest.raises(UsageError, match="another process is writing to it"), writers[1]:
        pass


def test_a_folder_of_something_else_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(notes.txt\)"):
        write(tmp_path, store, {"plain": values(store)})


def test_embeddings_that_are_not_finite_are_not_stored(store: Store, tmp_path: Path) -> None:
    embeddings = values(store)
    embeddings[7, 2] = np.nan
    with pytest.raises(EmbeddingsError, match="not finite"):
        write(tmp_path / "e", store, {"plain": embeddings})
    assert not list((tmp_path / "e").glob("*00000*"))


def test_views_of_different_slices_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "e", store, {"plain": values(store)})
    with EmbeddingWriter(folder, source=source(store), width=WIDTH, store=store) as writer:
        with writer.shard("hflip", "00000", np.arange(4)) as append:
            append(np.zeros((4, WIDTH), dtype=np.float32))
        writer.commit()
    with pytest.raises(EmbeddingsError, match=f"{len(store) - 4} slices have only one of the views plain and hflip"):
        EmbeddingFolder.open(folder, store)


def test_a_series_without_embeddings_is_named_by_its_hash(store: Store, tmp_path: Path) -> None:
    span = store.series[-1]
    rows: Rows = np.arange(span.first_row)
    with EmbeddingWriter(tmp_path / "e", source=source(store), width=WIDTH, store=store) as writer:
        with writer.shard("plain", "00000", rows) as append:
            append(np.zeros((len(rows), WIDTH), dtype=np.float32))
        writer.commit()
    with pytest.raises(EmbeddingsError, match=f"no embeddings of series {span.series_key[:8]}. Run embed with"):
        EmbeddingFolder.open(tmp_path / "e", store).read(np.array([0, span.first_row]))


def _flip_a_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_bit_that_flipped_is_noticed_when_it_is_read(store: Store, tmp_path: Path) -> None:
    embeddings = values(store)
    path = write(tmp_path / "e", store, {"plain": embeddings}, blocks=1) / "plain-00000.h5"
    offset = path.read_bytes().index(embeddings[6].tobytes())
    folder = EmbeddingFolder.open(tmp_path / "e", store)
    _flip_a_bit(path, offset + 5)
    with pytest.raises(EmbeddingsError, match=r"plain-00000\.h5: missing or damaged"):
        folder.read(np.array([5, 6]))
    np.testing.assert_array_equal(folder.read(np.array([5, 7])), embeddings[[5, 7]])


def _edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _replace(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        new = make(file)
        del file[name]
        file[name] = new

    return change


def _link(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shutil.copy(file.filename, Path(file.filename).with_suffix(".copy"))
        file.move(name, f"/the {name}")
        file[name] = make(file)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.pop("checksum"),
        lambda file: file.attrs.pop("view"),
        lambda file: file.attrs.__setitem__("view", "upside down"),
        lambda file: file["store_row"].__setitem__(0, 10**6),
        lambda file: file["store_row"].__setitem__(0, -1),
        lambda file: file["store_row"].__setitem__(0, 1),  # twice
        lambda file: file["image_id"].__setitem__(0, b"another"),
        lambda file: file["series_key"].__setitem__(0, b"another"),
        _replace("embedding", lambda file: file["embedding"][:].astype(np.float64)),
        _replace("embedding", lambda file: file["embedding"][:3]),
        _replace("checksum", lambda file: file["checksum"][:].astype("<i8")),
        _link("store_row", lambda file: h5py.SoftLink("/the store_row")),
        _link("embedding", lambda file: h5py.ExternalLink(Path(file.filename).with_suffix(".copy").name, "/embedding")),
    ],
)
def test_a_shard_that_no_writer_of_ours_has_written_is_refused(
    store: Store, tmp_path: Path, change: Callable[[h5py.File], None]
) -> None:
    path = write(tmp_path / "e", store, {"plain": values(store)}) / "plain-00000.h5"
    open_shard(path, store)
    _edit(path, change)
    with pytest.raises(EmbeddingsError, match=r"plain-00000\.h5: (missing or damaged|embeddings of other slices)"):
        open_shard(path, store)


def test_a_shard_that_the_manifest_does_not_know_so_is_refused(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "e", store, {"plain": values(store)}) / "plain-00000.h5"
    _edit(path, lambda file: file["checksum"].__setitem__(0, 0))
    open_shard(path, store)
    with pytest.raises(EmbeddingsError, match=r"plain-00000\.h5: missing or damaged"):
        EmbeddingFolder.open(tmp_path / "e", store)


def test_a_shard_cut_short_or_gone_is_refused(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "e", store, {"plain": values(store)}) / "plain-00000.h5"
    content = path.read_bytes()
    for cut in (content[:-1], content[:100], b""):
        path.write_bytes(cut)
        with pytest.raises(EmbeddingsError, match=r"plain-00000\.h5: missing or damaged"):
            EmbeddingFolder.open(tmp_path / "e", store)
    path.unlink()
    with pytest.raises(EmbeddingsError, match=r"plain-00000\.h5: missing or damaged"):
        EmbeddingFolder.open(tmp_path / "e", store)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "not the manifest.json of a folder of embeddings"),
        ({"format_version": 2}, "embeddings of version 2, this program reads 1"),
        ({"width": "wide"}, "missing or damaged"),
        ({"views": ["plain", "hflip"]}, "missing or damaged"),
        ({"shards": []}, "missing or damaged"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(
    store: Store, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    path = write(tmp_path / "e", store, {"plain": values(store)}) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(EmbeddingsError, match=says):
        EmbeddingFolder.open(tmp_path / "e", store)
    content["shards"][0]["name"] = "../plain-00000.h5"
    path.write_text(json.dumps(content))
    with pytest.raises(EmbeddingsError, match="missing or damaged"):
        EmbeddingFolder.open(tmp_path / "e", store)
