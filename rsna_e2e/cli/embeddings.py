"""The verbs that store embeddings: embed, import-embeddings; and the options of train and predict that take them."""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rsna_e2e.cli.arguments import add_checkpoint, add_device, at_least_one, seed
from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, given_task, tell

if TYPE_CHECKING:
    from rsna_e2e.config import FoldRule
    from rsna_e2e.evaluation.explain import Explained
    from rsna_e2e.inference.embed import Extracted
    from rsna_e2e.inference.predict_runs import RunMean
    from rsna_e2e.inference.predictor import Predicted
    from rsna_e2e.store import Store
    from rsna_e2e.store.embeddings import Embeddings


def add_embed(verbs: Verbs) -> None:
    """Add `rsna-e2e embed`."""
    verb = add_verb(
        verbs,
        "embed",
        _embed,
        "Store the embeddings of every slice by a trained backbone; those already stored are kept.",
        "rsna-e2e embed runs/images store embeddings/epoch2 --checkpoint epoch-2 --views plain,hflip,transpose",
    )
    verb.add_argument("model_run", type=Path, metavar="RUN", help="a run folder made by train")
    verb.add_argument("store", type=Path, metavar="STORE", help="a store made by prepare")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to make, or to continue")
    add_checkpoint(verb)
    verb.add_argument(
        "--views",
        type=views,
        default=("plain",),
        metavar="VIEW,...",
        help="views of every image: plain, hflip, transpose; heads learn from their mean (default plain)",
    )
    verb.add_argument("--split", choices=("all", "train", "test"), default="all", help="which series (default all)")
    add_device(verb)


def add_import_embeddings(verbs: Verbs) -> None:
    """Add `rsna-e2e import-embeddings`."""
    verb = add_verb(
        verbs,
        "import-embeddings",
        _import_embeddings,
        "Import embeddings stored by the published solution (emb*.npz) into a folder of embeddings.",
        "rsna-e2e import-embeddings emb__tst_size480_fold0_ep1.npz embeddings/ep1 --store store --ids test.csv.gz"
        " --part test --fold 0 --name v12",
        "rsna-e2e import-embeddings embT__trn_size480_fold0_ep1.npz embeddings/ep1 --store store --ids train.csv.gz"
        " --part train --fold 0 --name v12 --view hflip --order images.txt",
    )
    verb.add_argument("npz", type=Path, metavar="NPZ", help="float32 [n, D] under the name arr_0")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to make, or to add to")
    verb.add_argument("--store", type=Path, required=True, help="a store of the same images")
    verb.add_argument(
        "--ids", type=Path, required=True, metavar="CSV", help="CSV with columns Image and, for training images, fold"
    )
    add_task(verb, of_store=True)
    verb.add_argument("--part", choices=("train", "val", "test"), required=True, help="which images these are")
    verb.add_argument(
        "--name", required=True, help="name of the classifier, the same for all its parts, views and folds"
    )
    verb.add_argument("--fold", type=seed, help="fold that the classifier held out (default: none)")
    verb.add_argument("--epoch", type=at_least_one, default=1, help="epoch of the classifier (default 1)")
    verb.add_argument(
        "--view", choices=("plain", "hflip", "transpose"), default="plain", help="view of the images (default plain)"
    )
    verb.add_argument(
        "--order", type=Path, metavar="FILE", help="image names in the order of the training images, one a line"
    )


def say_damaged(done: "Predicted | RunMean | Extracted | Explained") -> None:
    """Name the checkpoints that were passed over."""
    for problem in done.damaged:
        tell(f"damaged checkpoint skipped: {problem}")


def taken(done: "Predicted | Extracted | Explained") -> str:
    """Name the checkpoint that was used, and say so if it replaces a damaged one."""
    instead = f", instead of a damaged one ({len(done.damaged)} skipped)" if done.damaged else ""
    return f"{done.checkpoint}{instead}"


def add_embeddings(verb: argparse.ArgumentParser) -> None:
    """Let the user name the embeddings that a head learns or predicts from."""
    verb.add_argument(
        "--embeddings",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="made by embed, for a recipe with model.backbone=none; those of several backbones are concatenated",
    )


def add_out_of_fold(verb: argparse.ArgumentParser) -> None:
    """Let the user give each fold embeddings by a classifier that held it out."""
    verb.add_argument(
        "--out-of-fold",
        action="append",
        default=[],
        type=_fold_and_folder,
        metavar="K=FOLDER",
        help="embeddings for the series of fold K, by a classifier that held them out; repeatable",
    )


def open_embeddings(
    folders: Sequence[Path] | None,
    store: "Store",
    *,
    out_of_fold: Sequence[tuple[int, Path]] = (),
    folds: "FoldRule" = "store",
) -> "Embeddings | None":
    """Open what --embeddings and --out-of-fold name; None without them. folds: the rule of the run."""
    from rsna_e2e.core.errors import UsageError
    from rsna_e2e.loader.holdout import series_folds
    from rsna_e2e.store.embeddings import Embeddings

    if folders is None:
        if out_of_fold:
            raise UsageError("--out-of-fold goes with --embeddings, which all other series get theirs from")
        return None
    by_fold: dict[int, list[Path]] = {}
    for fold, folder in out_of_fold:
        by_fold.setdefault(fold, []).append(folder)
    return Embeddings.open(folders, store, out_of_fold=by_fold, fold_of_series=series_folds(store, folds))


def views(text: str) -> tuple[str, ...]:
    """Names of views of an image, each once, with commas."""
    from rsna_e2e.config import View

    named = tuple(text.split(","))
    if len(set(named)) < len(named) or not set(named) <= set(get_args(View)):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {', '.join(get_args(View))}, each once, with commas")
    return named


def _fold_and_folder(text: str) -> tuple[int, Path]:
    fold, separator, folder = text.partition("=")
    if not separator or not fold.isdecimal() or not folder:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a fold and a folder, such as 0=embeddings/fold0-epoch2")
    return int(fold), Path(folder)


def _embed(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.inference.embed import extract
    from rsna_e2e.store import Store
    from rsna_e2e.training.run_folder import read_config

    task = read_config(options.model_run).task.name
    with closing(Store.open(options.store, task)) as store, progress_bar("embed", unit="slices") as progress:
        done = extract(
            options.model_run,
            store,
            options.out,
            checkpoint=options.checkpoint,
            views=options.views,
            split=options.split,
            device=options.device,
            progress=progress,
        )
    say_damaged(done)
    tell(f"made now: {done.n_embedded} embeddings   folder: {done.folder}")
    tell(f"{done.n_slices} slices x {done.width}, views {', '.join(done.views)}, by {taken(done)}")


def _import_embeddings(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.store import Store
    from rsna_e2e.store.embeddings.import_published import import_embeddings

    given = given_task(options)
    name = given.name if given else None
    with closing(Store.open(options.store, name)) as store, progress_bar("import", unit="slices") as progress:
        done = import_embeddings(
            options.npz,
            options.out,
            store=store,
            ids=options.ids,
            image_set=options.part,
            name=options.name,
            fold=options.fold,
            epoch=options.epoch,
            view=options.view,
            order=options.order,
            progress=progress,
        )
    tell(f"{done.n_rows} slices x {done.width}; views in {done.folder}: {', '.join(done.views)}")
