"""The plan of a simulation: patients, studies, ids, and every random stream, all from one seed by hashing."""

import hashlib
from dataclasses import dataclass

import numpy as np

from rsna_e2e.core.errors import UsageError

REPEAT_RATE = 0.148  # patients with a second study: 21,744 series of 18,938 patients in the competition's data
ID_BITS = 36  # nine hexadecimal digits, as in the competition's data

PREVALENCES = ("natural", "demo")
CONTEXTS = ("none", "natural", "strong")  # what only neighbouring slices tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a simulation. Raises UsageError on impossible numbers or an unknown prevalence or context.

    is_thick, size_px and file_format concern some kinds only; None leaves the choice to the kind.
    """

    n_studies: int
    seed: int
    prevalence: str = PREVALENCES[0]
    context: str = "natural"
    test_fraction: float = 0.2
    is_thick: bool = False
    size_px: int | None = None
    file_format: str | None = None

    def __post_init__(self) -> None:
        if self.n_studies < 1:
            raise UsageError(f"{self.n_studies} studies asked for; give at least 1")
        if not 0.0 <= self.test_fraction < 1.0:
            raise UsageError(f"test fraction {self.test_fraction} is not in [0, 1)")
        if self.prevalence not in PREVALENCES:
            raise UsageError(f"unknown prevalence {self.prevalence!r}; known: {', '.join(PREVALENCES)}")
        if self.context not in CONTEXTS:
            raise UsageError(f"unknown context {self.context!r}; known: {', '.join(CONTEXTS)}")

    def refuse_thick(self) -> None:
        """Raise UsageError where thick slices are asked of a kind that has none."""
        if self.is_thick:
            raise UsageError("thick slices are an option of chests in CT (ctpa); leave --thick out")

    def refuse_context(self) -> None:
        """Raise UsageError where another context than the natural one is asked of a kind without that dial."""
        if self.context != "natural":
            raise UsageError("context is an option of heads in CT (head); leave --context out")

    def refuse_formats(self) -> None:
        """Raise UsageError where a size or a format is asked of CT."""
        if self.size_px is not None or self.file_format is not None:
            raise UsageError("size and format are options of radiographs; slices of CT are DICOM files of 512 pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """One study: `index` counts studies, `patient` patients; `visit` is 0, or 1 for a patient's second study.

    is_thick: whether the slices of a chest are thick, and so few. context: of CONTEXTS, what neighbouring slices tell.
    """

    seed: int
    index: int
    patient: int
    visit: int
    is_test: bool
    prevalence: str
    is_thick: bool = False
    context: str = "natural"


def stream(seed: int, what: str, index: int) -> np.random.Generator:
    """A random stream of its own for (seed, what, index)."""
    digest = hashlib.sha256(f"rsna_e2e synth/{seed}/{what}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def scatter(seed: int, what: str, number: int, *, bits: int = ID_BITS) -> int:
    """Map `number` below 2**bits one to one to another such number (four Feistel rounds over sha256)."""
    half = bits // 2
    mask = (1 << half) - 1
    left, right = number >> half, number & mask
    for turn in range(4):
        digest = hashlib.sha256(f"{seed}/{what}/{turn}/{right}".encode()).digest()
        left, right = right, left ^ (int.from_bytes(digest[:8], "big") & mask)
    return (left << half) | right


def make_id(seed: int, what: str, number: int, *, bits: int = ID_BITS, prefix: str = "ID_") -> str:
    """An id of hexadecimal digits as the competitions' data spells them; never the same for two numbers."""
    return f"{prefix}{scatter(seed, what, number, bits=bits):0{bits // 4}x}"


def plan_studies(request: Request) -> tuple[StudyPlan, ...]:
    """Plan all studies of CT. Raises UsageError when a size or a format is asked for."""
    request.refuse_formats()
    n_studies, seed, test_fraction = request.n_studies, request.seed, request.test_fraction
    visits = [0]
    for index in range(1, n_studies):
        again = visits[-1] == 0 and stream(seed, "again", index).random() < REPEAT_RATE
        visits.append(1 if again else 0)
    patients = np.cumsum([1 - v for v in visits]) - 1
    n_patients = int(patients[-1]) + 1
    order = sorted(range(n_patients), key=lambda number: scatter(seed, "split", number))
    n_test = min(round(test_fraction * n_patients), n_patients - 1)
    in_test = set(order[:n_test])
    return tuple(
        StudyPlan(
            seed=seed, index=i, patient=int(patients[i]), visit=visits[i], is_test=int(patients[i]) in in_test,
            prevalence=request.prevalence, is_thick=request.is_thick, context=request.context,
        )
        for i in range(n_studies)
    )  # fmt: skip
