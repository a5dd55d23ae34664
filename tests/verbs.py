"""A command line for every verb that writes, at tiny size, with DISK in the place of the folder that it writes to."""

from pathlib import Path

import numpy as np
import small
from training_runs import command_line

from rsna_e2e.core.weights_file import encode
from rsna_e2e.inference.predict import predict
from rsna_e2e.model.heads import SequenceHead
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.training.train import train

FOLDERS = (
    "synth",
    "prepare",
    "inspect",
    "train",
    "find-lr",
    "embed",
    "import-embeddings",
    "evaluate",
    "suspects",
)  # all they make


def command_lines(folder: Path) -> dict[str, list[str]]:
    """Make what the verbs read in `folder`; return their arguments."""
    store = small.make_store(folder)
    config, run, submission = small.image_config(epochs=1), folder / "run", folder / "submission.csv"
    train(store, run, config, device="cpu")
    predict(run, store, split="train", out=submission, device="cpu")
    _, _, *options = command_line(store.path, folder / "again", config)[1:]
    (folder / "ids.csv").write_text("\n".join(["Image", *store.index["image_id"].tolist()]))
    np.savez(folder / "emb.npz", np.ones((len(store), 400), dtype=np.float32))
    (folder / "head.safetensors").write_bytes(encode(SequenceHead(4, 6).state_dict()))
    (folder / "boxes.csv").write_text("patientId,PredictionString\na,0.9 1 2 3 4\n")
    (folder / "classes.csv").write_text(f"ID,Label\na_{PNEUMONIA.headline},0.8\n")
    gated = [str(folder / "boxes.csv"), str(folder / "classes.csv"), "--least=0.5"]
    truth = folder / "raw" / "stage_2_train.csv"
    imported = ["--store", str(store.path), "--ids", str(folder / "ids.csv"), "--part", "test", "--name", "v12"]
    predicting = ["predict", str(run), str(store.path), "--device", "cpu", "--out"]
    few = ["--phase", "slices", "--steps", "10"]
    return {
        "synth": ["synth", "DISK/out", "--studies", "1", "--jobs", "1"],
        "prepare": ["prepare", str(folder / "raw"), "DISK/out", "--jobs", "1"],
        "verify": ["store", "verify", str(store.path), "--out", "DISK/deep/damage.json", "--jobs", "1"],
        "inspect": ["inspect", str(store.path), "--out", "DISK/out"],
        "train": ["train", str(store.path), "DISK/out", *options],
        "find-lr": ["find-lr", str(store.path), "DISK/out", *options, *few],
        "embed": ["embed", str(run), str(store.path), "DISK/out", "--device", "cpu"],
        "import-embeddings": ["import-embeddings", str(folder / "emb.npz"), "DISK/out", *imported],
        "import-weights": [
            "import-weights",
            str(folder / "head.safetensors"),
            "DISK/h.safetensors",
            "--kind=sequences",
        ],
        "predict": [*predicting, "DISK/s.csv"],
        "predict epochs": [*predicting, "DISK/s.csv", "--checkpoint", "epochs"],
        "bag": ["bag", str(submission), "--out", "DISK/bag.csv.gz"],
        "smooth": ["smooth", str(submission), "--out", "DISK/smoothed.csv"],
        "baseline": ["baseline", str(store.path), "DISK/b.csv", "--split", "train"],
        "gate": ["gate", *gated, "--out", "DISK/gated.csv"],
        "suspects": ["suspects", str(store.path), str(submission), "--out", "DISK/out"],
        "explain": ["explain", str(run), str(store.path), "--image", "ID_0300", "--out", "DISK/out"],
        "evaluate": ["evaluate", str(submission), str(truth), "--out", "DISK/out", "--store", str(store.path)],
    }
