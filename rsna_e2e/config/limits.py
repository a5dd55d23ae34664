"""Bounds and units of every number in a configuration.

A number out of bounds is a typing error or an attack. It is refused here by name; later it would exhaust memory, abort
a library or overflow. Booleans are refused as well, although Python counts them as numbers.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from rsna_e2e.core.limits import MAX_IMAGE_SIZE_PX, MAX_SUPERSAMPLE
from rsna_e2e.tasks.task import LARGEST

MOST_TIMES = 10**12  # steps of it, counted together, are far from the end of an int64
MOST_MEMBERS = 1000  # of a list or table
LARGEST_FLOAT32 = 3.4e38  # what weights and losses are computed in


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def _in(unit: str) -> Any:
    """The unit of a number, part of its JSON schema."""
    return Field(json_schema_extra={"unit": unit})


_NUMBER = BeforeValidator(_no_boolean)

# Counts of what takes time or disk alone, or of what the store holds no more of: they allocate nothing by themselves
Times = Annotated[int, Field(gt=0, le=MOST_TIMES), _NUMBER]
TimesOrNone = Annotated[int, Field(ge=0, le=MOST_TIMES), _NUMBER]
Fold = Annotated[int, Field(ge=0, le=MOST_TIMES), _NUMBER]
Int64 = Annotated[int, Field(ge=0, lt=2**63), _NUMBER]  # of seeds, and of what a run has counted
Batches = Annotated[Times, _in("batches")]
Checkpoints = Annotated[Times, _in("checkpoints")]
Epochs = Annotated[Times, _in("epochs")]
EpochsOrNone = Annotated[TimesOrNone, _in("epochs")]
Series = Annotated[Times, _in("series")]
Slices = Annotated[Times, _in("slices")]
SlicesOfNorm = Annotated[int, Field(ge=2, le=MOST_TIMES), _NUMBER, _in("slices")]  # BatchNorm in train mode needs two
Steps = Annotated[Times, _in("steps")]

# What is allocated, or started, as asked for
Side = Annotated[int, Field(gt=0, le=MAX_IMAGE_SIZE_PX), _NUMBER, _in("px")]  # CT has 512, rarely 1024
Samples = Annotated[int, Field(gt=0, le=MAX_SUPERSAMPLE), _NUMBER, _in("samples per side")]  # of a pixel
Width = Annotated[int, Field(gt=0, le=8192), _NUMBER, _in("features")]  # a head of the widest has 15 GB of weights
LoaderThreads = Annotated[int, Field(gt=0, le=256), _NUMBER, _in("threads")]  # of one rank
CpuThreads = Annotated[int, Field(gt=0, le=512), _NUMBER, _in("threads")]
BatchesAhead = Annotated[int, Field(gt=0, le=256), _NUMBER, _in("batches")]
Mebibytes = Annotated[int, Field(gt=0, le=2**16), _NUMBER, _in("MiB")]

Probability = Annotated[float, Field(ge=0.0, le=1.0), _NUMBER]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0), _NUMBER]
Weight = Annotated[float, Field(ge=0.0, le=LARGEST_FLOAT32), _NUMBER]
Positive = Annotated[float, Field(gt=0.0, le=LARGEST_FLOAT32), _NUMBER]
Sides = Annotated[float, Field(ge=0.0, le=10.0), _NUMBER, _in("image sides")]
Degrees = Annotated[float, Field(ge=0.0, le=360.0), _NUMBER, _in("degrees")]
Minutes = Annotated[float, Field(gt=0.0, le=1e9), _NUMBER, _in("minutes")]
Hounsfield = Annotated[float, Field(ge=-LARGEST, le=LARGEST), _NUMBER, _in("HU")]
WidthHu = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST), _NUMBER, _in("HU")]
Mean = Annotated[float, Field(ge=-LARGEST, le=LARGEST), _NUMBER]
Std = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST), _NUMBER]
Clip = Annotated[float, Field(gt=0.0, lt=0.5), _NUMBER]  # of a probability
TimeoutS = Annotated[float, Field(ge=60.0, le=1e7), _NUMBER, _in("s")]
