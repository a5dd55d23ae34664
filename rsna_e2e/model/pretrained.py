"""Whether a backbone's pretrained weights can be had: found out in seconds, before anything is trained or prepared."""

from rsna_e2e.core.errors import MissingCapabilityError

_FILES = ("model.safetensors", "pytorch_model.bin")  # timm takes the first that there is
_TIMEOUT_S = 5.0


def check_pretrained(backbone: str) -> None:
    """Raise MissingCapabilityError when timm's weights are neither in the local cache nor to be had from the hub.

    What timm takes from elsewhere, and an answer of the hub that refuses them, are left to timm.
    """
    if _is_cached(f"timm/{backbone}"):
        return
    import timm  # takes two seconds: a name may be short for one with a tag, and some are another publisher's
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    found = timm.get_pretrained_cfg(backbone) if timm.is_model_pretrained(backbone) else None
    if found is None or not found.hf_hub_id:
        return
    if _is_cached(found.hf_hub_id):
        return
    try:
        get_hf_file_metadata(hf_hub_url(found.hf_hub_id, _FILES[0]), timeout=_TIMEOUT_S)
    except HfHubHTTPError:
        return
    except (OSError, HTTPError) as error:
        raise MissingCapabilityError(no_weights(backbone, error)) from None


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in _FILES)


def no_weights(backbone: str, error: Exception) -> str:
    """Say that pretrained weights cannot be downloaded, and what to do."""
    return (
        f"cannot download the pretrained weights of {backbone} ({type(error).__name__}), and they are not in the local "
        f"cache. On a machine with network, fetch model.safetensors of huggingface.co/timm/{backbone}; give it here "
        "with --set model.weights_file=FILE. Or train from scratch: --set model.pretrained=false"
    )
