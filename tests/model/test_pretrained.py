"""Whether pretrained weights can be had: from a cache, from a hub that answers, or not at all."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.model.pretrained import check_pretrained


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache and no network; the addresses that are asked for."""
    addresses: list[str] = []

    def ask(address: str, timeout: float) -> None:
        addresses.append(address)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return addresses


def put_in_cache(cache: Path, repository: str) -> None:
    """Lay a file where the hub's client looks for it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


def test_what_is_nowhere_is_refused(asked: list[str]) -> None:
    with pytest.raises(MissingCapabilityError, match=r"resnet10t\.c3_in1k \(ConnectionError\).*weights_file=FILE"):
        check_pretrained("resnet10t.c3_in1k")
    assert asked == ["https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"]


@pytest.mark.parametrize("name", ["resnet10t.c3_in1k", "resnet10t"])  # timm takes the first tag of a name without one
def test_what_is_in_the_cache_is_not_asked_for(name: str, asked: list[str], tmp_path: Path) -> None:
    put_in_cache(tmp_path, "timm/resnet10t.c3_in1k")
    check_pretrained(name)
    assert asked == []


def test_weights_of_another_publisher_are_asked_for_there(asked: list[str]) -> None:
    with pytest.raises(MissingCapabilityError):
        check_pretrained("cspnext_l.rsb_a1_in1k")
    assert asked == ["https://huggingface.co/munehiro-k/cspnext_l.rsb_a1_in1k/resolve/main/model.safetensors"]


@pytest.mark.usefixtures("asked")
def test_a_refusal_by_the_hub_is_left_to_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, timeout: float) -> None:
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    check_pretrained("resnet10t.c3_in1k")


def test_a_model_without_weights_on_the_hub_is_left_to_timm(asked: list[str]) -> None:
    check_pretrained("resnet26t.no_such_tag")
    assert asked == []
