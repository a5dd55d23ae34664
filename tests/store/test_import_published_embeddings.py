"""The published solution's files of embeddings: rows go to the right images, and nothing is unpickled."""

import gzip
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float32Array
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import EmbeddingFolder
from rsna_e2e.store.embeddings.import_published import ImportedEmbeddings, import_embeddings

WIDTH = 7
FOLDS = (0, 1, 0, 2, 1, 2)  # of the labelled series of `small`, by the name of their images


@dataclass(frozen=True, slots=True)
class Published:
    """Files as the published solution left them, and what the embedding of every image is."""

    folder: Path
    store: Store
    truth: dict[str, Float32Array]

    def npz(self, names: list[str], *, is_compressed: bool = True) -> Path:
        path = self.folder / f"emb_{len(list(self.folder.iterdir()))}.npz"
        save = np.savez_compressed if is_compressed else np.savez
        save(path, np.stack([self.truth[name] for name in names]))
        return path

    def add(self, names: list[str], out: str = "out", **options: object) -> ImportedEmbeddings:
        arguments = {"ids": self.folder / "train.csv.gz", "image_set": "train", "fold": 0, "name": "v12"} | options
        return import_embeddings(self.npz(names), self.folder / out, store=self.store, **arguments)

    def open(self, out: str = "out") -> EmbeddingFolder:
        return EmbeddingFolder.open(self.folder / out, self.store)

    def rows(self, names: list[str]) -> np.ndarray:
        ids = self.store.index["image_id"].tolist()
        return np.array([ids.index(name) for name in names])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small.make_store(tmp_path_factory.mktemp("import"))


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Published:
    names = sorted(store.index["image_id"].tolist())
    labelled, test = [n for n in names if n < "ID_06"], [n for n in names if n >= "ID_06"]
    table = "\n".join(["Image,any,fold", *(f"{name},0,{FOLDS[int(name[3:5])]}" for name in labelled)])
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(table.encode()))
    (tmp_path / "test.csv").write_text("\n".join(["Image,Label", *(f"{name},0.5" for name in test[::-1])]))
    listed = np.random.default_rng(3).permutation(names)  # as a file system lists a folder
    (tmp_path / "order.txt").write_text("\n".join(f"{name}.jpg" for name in listed))
    rng = np.random.default_rng(0)
    return Published(tmp_path, store, {name: rng.normal(size=WIDTH).astype(np.float32) for name in names})


def parts(published: Published, fold: int) -> dict[str, list[str]]:
    """The images of every part in the order of its rows, worked out from the files once more."""
    listed = [line.removesuffix(".jpg") for line in (published.folder / "order.txt").read_text().split()]
    listed = [name for name in listed if name < "ID_06"]
    return {
        "train": [name for name in listed if FOLDS[int(name[3:5])] != fold],
        "val": [name for name in listed if FOLDS[int(name[3:5])] == fold],
        "test": sorted((n for n in published.truth if n >= "ID_06"), reverse=True),
    }


def test_rows_go_to_the_images_that_they_are_of(published: Published) -> None:
    for part, names in parts(published, 1).items():
        ids = published.folder / ("test.csv" if part == "test" else "train.csv.gz")
        order = None if part == "test" else published.folder / "order.txt"
        done = published.add(names, image_set=part, fold=1, ids=ids, order=order)
        assert (done.n_rows, done.width, done.views) == (len(names), WIDTH, ("plain",))
    folder = published.open()
    for names in parts(published, 1).values():
        expected = np.stack([published.truth[name] for name in names])
        np.testing.assert_array_equal(folder.read(published.rows(names)), expected)
    assert folder.manifest.source.held_out_fold == 1
    assert folder.manifest.source.folds == "published"


def test_training_rows_without_their_order_are_refused(published: Published) -> None:
    for part in ("train", "val"):
        with pytest.raises(UsageError, match=f"rows of {part} images are in the order of the file system on which "):
            published.add(parts(published, 0)[part], image_set=part)


def test_where_the_fold_holds_nobody_the_first_images_are_the_validation_part(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsna_e2e.store.embeddings.import_published.FALLBACK_IMAGES", 3)
    everyone = parts(published, 6)["train"]
    published.add(everyone[:3], image_set="val", fold=6, order=published.folder / "order.txt")
    expected = np.stack([published.truth[name] for name in everyone[:3]])
    np.testing.assert_array_equal(published.open().read(published.rows(everyone[:3])), expected)


def test_views_are_averaged(published: Published) -> None:
    names = parts(published, 0)["test"]
    test = {"image_set": "test", "ids": published.folder / "test.csv"}
    published.add(names, **test)
    published.add(names[::-1], view="hflip", **test)  # other numbers
    assert published.open().manifest.views == ("plain", "hflip")
    plain = np.stack([published.truth[name] for name in names])
    np.testing.assert_allclose(published.open().read(published.rows(names)), (plain + plain[::-1]) / 2, rtol=1e-6)


def test_what_was_begun_is_gone_on_with_and_another_file_is_refused(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsna_e2e.store.embeddings.import_published.SHARD_SLICES", 3)
    names = parts(published, 0)["test"]
    test = {"image_set": "test", "ids": published.folder / "test.csv"}
    published.add(names, **test)
    shards = sorted((published.folder / "out").glob("*.h5"))
    assert len(shards) == 2
    shards[1].unlink()
    before = shards[0].stat().st_mtime_ns
    published.add(names, **test)
    assert shards[1].exists()
    assert shards[0].stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="holds embeddings of another selection of slices"):
        published.add(names[::-1], **test)


def test_counts_and_ids_must_agree(published: Published) -> None:
    names = parts(published, 0)["test"]
    test = {"image_set": "test", "ids": published.folder / "test.csv"}
    with pytest.raises(BadInputError, match=rf"{len(names) - 1} rows, but test\.csv has {len(names)} test images"):
        published.add(names[1:], **test)
    (published.folder / "test.csv").write_text("Image\nID_0000\nID_nobody\n")
    with pytest.raises(BadInputError, match=r"lacks 1 of 2 images of test\.csv, such as ID_nobody"):
        published.add(names[:2], **test)
    assert not list((published.folder / "out").glob("*.h5"))


def test_the_order_names_every_image_once(published: Published) -> None:
    names = parts(published, 0)["train"]
    order = published.folder / "order.txt"
    for content in (order.read_text().replace("ID_0001.jpg", "ID_9999.jpg"), order.read_text() + "\nID_0001.jpg"):
        order.write_text(content)
        with pytest.raises(BadInputError, match=r"does not name every image of train\.csv\.gz exactly once"):
            published.add(names, order=order)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n", "no column Image"),
        ("Image\nID_1\nID_1\n", "line 3: no image name, or one that appears twice"),
        (f"Image\n{'x' * 200_000}\n", r"test\.csv: not a readable CSV file: field larger than"),
        (f"Image,{'x' * 200_000}\n", r"test\.csv: not a readable CSV file: field larger than"),
    ],
)
def test_a_csv_that_is_not_one_is_named(published: Published, content: str, says: str) -> None:
    (published.folder / "test.csv").write_text(content)
    with pytest.raises(BadInputError, match=says):
        published.add(parts(published, 0)["test"], image_set="test", ids=published.folder / "test.csv")


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def _npz(content: bytes, name: str = "arr_0.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


ROWS = np.zeros((4, WIDTH), dtype=np.float32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        pickle.dumps(_Harm()),
        _npz(_npy(np.array([[_Harm()]], dtype=object), allow_pickle=True)),
        _npz(pickle.dumps(_Harm())),
        _npz(_npy(ROWS), name="other.npy"),
        _npz(_npy(ROWS)[:-4]),
        _npz(_npy(ROWS) + b"more"),
        _npz(_npy(ROWS.astype(np.float64))),
        _npz(_npy(np.asfortranarray(np.arange(28, dtype=np.float32).reshape(4, 7)))),
        _npz(_npy(ROWS[0])),
        _npz(_npy(np.zeros((4, 2**16 + 1), dtype=np.float32))),
        _npz(_npy(ROWS)).replace(_npy(ROWS)[-8:], b"\1" * 8),  # other bytes than their checksum
    ],
)
def test_a_file_that_is_not_one_of_embeddings_is_refused_and_not_run(published: Published, content: bytes) -> None:
    path = published.folder / "hostile.npz"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"hostile\.npz: damaged, or not an \.npz file with one float32 array"):
        import_embeddings(
            *(path, published.folder / "out"),
            store=published.store,
            ids=published.folder / "test.csv",
            image_set="test",
            name="v12",
        )


def test_on_the_command_line(published: Published, capsys: pytest.CaptureFixture[str]) -> None:
    names = parts(published, 0)["test"]
    words = ["import-embeddings", published.npz(names, is_compressed=False), published.folder / "out"]
    words += ["--store", published.store.path, "--ids", published.folder / "test.csv", "--part", "test"]
    assert main([*map(str, words), "--name", "v12", "--fold", "0"]) == 0
    assert f"{len(names)} slices x {WIDTH}; views in" in capsys.readouterr().out
    words[-1] = "train"
    assert main([*map(str, words), "--name", "v12"]) == 2
    assert "Give that order with --order FILE" in capsys.readouterr().err
