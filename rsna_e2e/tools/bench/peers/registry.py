"""The list of peers, and their contestants where the library is installed."""

from dataclasses import dataclass
from importlib import import_module

from rsna_e2e.tools.bench.job import Contestant, Job

INSTALL_COMMAND = "pip install '.[bench]'"


@dataclass(frozen=True, slots=True)
class Peer:
    """A module of this package, the library that it needs, and the name to show."""

    name: str
    module: str
    library: str
    is_for_gpu: bool = False


PEERS = (
    Peer("the reference's recipe", "published", "cv2"),
    Peer("OpenCV", "opencv", "cv2"),
    Peer("torchvision v2", "vision", "torchvision"),
    Peer("MONAI", "monai_transforms", "monai"),
    Peer("albumentations", "albumentation", "albumentations"),
    Peer("DALI's own operators", "dali_operators", "nvidia.dali"),
    Peer("eager torch", "eager", "torch"),
    Peer("eager torch, GPU", "eager_gpu", "torch", is_for_gpu=True),
)


def find_contestants(peer: Peer, job: Job) -> list[Contestant] | None:
    """Return a peer's contestants for the job; None when its library is not installed."""
    try:
        module = import_module(f"rsna_e2e.tools.bench.peers.{peer.module}")
    except ModuleNotFoundError as error:
        if error.name and (peer.library == error.name or peer.library.startswith(f"{error.name}.")):
            return None
        raise
    found: list[Contestant] = module.contestants(job)
    return found
