"""Marks each setting of a training run with what it has an effect on: `seed: Learned[Int64] = 1234`.

A mark on a section holds for all fields in it. `tests/config/test_effects.py` fails for a field without a mark.
"""

from collections.abc import Collection
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Effect(Enum):
    """How far a change of a setting reaches.

    LEARNED: what the model is and learns, to the bit; runs that differ in it are of different kinds. RUN: this one run.
    It is kept when the run is resumed; but runs that differ in nothing else, as those of a cross-validation do, are of
    one kind, and so are the embeddings that they make. NONE: speed, memory and the checkpoints that are kept; it may
    differ each time that a run is resumed.
    """

    LEARNED = "learned"
    RUN = "run"
    NONE = "none"


Learned = Annotated[T, Effect.LEARNED]
OfRun = Annotated[T, Effect.RUN]
Free = Annotated[T, Effect.NONE]


def effect_of(field: FieldInfo) -> Effect | None:
    """Return the mark of a field; None for a section whose fields are marked one by one."""
    return next((mark for mark in field.metadata if isinstance(mark, Effect)), None)


def fields_with(kind: type[BaseModel], effects: Collection[Effect]) -> dict[str, Any]:
    """Return the settings of `kind` with one of these effects, in the form of `exclude` and `include` of `model_dump`.

    A section all of whose fields have one is named whole.
    """
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        effect = effect_of(field)
        if effect in effects:
            found[name] = True
        elif effect is None:
            assert isinstance(field.annotation, type)
            assert issubclass(field.annotation, BaseModel)
            inside = fields_with(field.annotation, effects)
            found |= {name: True if _is_whole(field.annotation, inside) else inside} if inside else {}
    return found


def _is_whole(kind: type[BaseModel], found: dict[str, Any]) -> bool:
    return found == dict.fromkeys(kind.model_fields, True)
