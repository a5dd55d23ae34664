"""How large the parts of a check are: in full on a GPU, tiny in a rehearsal on a CPU."""

from dataclasses import dataclass

TINY_MODEL = (
    "model.backbone=test_resnet",
    "model.backbone_arguments={}",
    "image.size=32",
    "loader.slices_per_batch=16",
    "loader.threads=2",
    "loader.prefetch_batches=1",
)


@dataclass(frozen=True)
class Scale:
    """Sizes of one check.

    many, few: slices in a launch of the kernel. n_runs, n_warm_up: of each timing. copy_bytes: of a copy within the
    device. short, long: slices of the series that a training step is timed on. n_steps: timed steps. settings: what is
    changed of the recipe `reference`, beside its weights. profiled: slices in a launch that Nsight Compute looks at.
    n_studies: of the simulated store. passes: over a small one, so that memory comes round. rounds, turn_steps: of
    `rsna-e2e bench train`. n_batches: whose memory is watched.
    """

    few: int
    many: int
    n_runs: int
    n_warm_up: int
    copy_bytes: int
    short: int
    long: int
    n_steps: int
    settings: tuple[str, ...]
    profiled: int
    n_studies: int
    passes: int
    rounds: int
    turn_steps: int
    n_batches: int


FULL = Scale(
    few=64,
    many=512,
    n_runs=30,
    n_warm_up=5,
    copy_bytes=2**31,
    short=60,
    long=250,
    n_steps=5,
    settings=(),
    profiled=64,
    n_studies=60,
    passes=12,
    rounds=3,
    turn_steps=3,
    n_batches=200,
)
TINY = Scale(
    few=1,
    many=2,
    n_runs=3,
    n_warm_up=1,
    copy_bytes=2**20,
    short=4,
    long=7,
    n_steps=2,
    settings=TINY_MODEL,
    profiled=1,
    n_studies=2,
    passes=2,
    rounds=1,
    turn_steps=1,
    n_batches=4,
)
SCALES = {"full": FULL, "tiny": TINY}
