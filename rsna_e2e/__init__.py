"""End-to-end training of a CNN and a recurrent head over whole CT series. For research use only.

The names in `__all__` are the public interface; docs/api.md describes each. A name is imported when it is first used:
importing this package loads neither torch nor NumPy.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsna_e2e.config.files import load_config
    from rsna_e2e.core.errors import RsnaError
    from rsna_e2e.inference.predict_dicom import predict_dicom
    from rsna_e2e.inference.trained_model import TrainedModel
    from rsna_e2e.loader.batch import SeriesBatch
    from rsna_e2e.loader.geometry import crop_affine
    from rsna_e2e.loader.image_loader import ImageLoader
    from rsna_e2e.loader.kernels.dali_plugin import load as load_dali_operators
    from rsna_e2e.loader.kernels.torch_ops import content_box, transform_slices
    from rsna_e2e.store.reader import Store
    from rsna_e2e.tasks.catalogue import get_task
    from rsna_e2e.tasks.task import Task

    open_run = TrainedModel.open

__version__ = "0.1.0"

__all__ = [
    "ImageLoader",
    "RsnaError",
    "SeriesBatch",
    "Store",
    "Task",
    "TrainedModel",
    "content_box",
    "crop_affine",
    "get_task",
    "load_config",
    "load_dali_operators",
    "open_run",
    "predict_dicom",
    "transform_slices",
]

# Where each is defined, below this package
_DEFINED_IN = {
    "ImageLoader": "loader.image_loader:ImageLoader",
    "RsnaError": "core.errors:RsnaError",
    "SeriesBatch": "loader.batch:SeriesBatch",
    "Store": "store.reader:Store",
    "Task": "tasks.task:Task",
    "TrainedModel": "inference.trained_model:TrainedModel",
    "content_box": "loader.kernels.torch_ops:content_box",
    "crop_affine": "loader.geometry:crop_affine",
    "get_task": "tasks.catalogue:get_task",
    "load_config": "config.files:load_config",
    "load_dali_operators": "loader.kernels.dali_plugin:load",
    "open_run": "inference.trained_model:TrainedModel.open",
    "predict_dicom": "inference.predict_dicom:predict_dicom",
    "transform_slices": "loader.kernels.torch_ops:transform_slices",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562). Raises AttributeError for any other name."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = resolve_name(f"{__name__}.{_DEFINED_IN[name]}")
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
