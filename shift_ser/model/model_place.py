"""Where a model or an encoder is loaded from: a folder, the cache, or a Hub that answers."""

import difflib
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import httpx

_GRAPH, _WEIGHTS = "model.onnx", ("*.safetensors", "*.bin")
_HUB_SECONDS = 5.0  # what the Hub gets to answer before its models count as out of reach


def check_model_place(model: str, *, option: str = "model") -> None:
    """Say soon and plainly why nothing can be loaded from there.

    Args:
        model: Folder or Hub name.
        option: What messages call it.

    Raises:
        FileNotFoundError: If it looks like a folder and does not exist.
        OSError: If it is a Hub name that is not in the cache, and the Hub is switched off or does not answer.
        ValueError: If it is a file, or a folder without a model, or with one that was exported.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            inside = sorted(file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/config.json"))
            hint = f": did you mean {str(inside[0])!r}?" if inside else ""
            raise ValueError(f"{option} must be a folder with a config.json, got {model!r}, which has none{hint}")
        if (path / _GRAPH).exists() and not any(file for weights in _WEIGHTS for file in path.glob(weights)):
            raise ValueError(
                f"{option} must be a saved model, got {model!r}, which `shift-ser export` wrote: give the model that"
                " was exported; or predict with it by --engine onnxruntime or openvino, in Python by"
                " load_classifier(engine=...)"
            )
    elif path.exists():
        raise ValueError(f"{option} must be a folder or a Hub name, got the file {model!r}")
    elif model.startswith((".", "/", "~")) or model.count("/") > 1 or (path.parent != Path() and path.parent.exists()):
        beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.exists() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f": did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise FileNotFoundError(f"{option} must be an existing folder or a Hub name, got {model!r}{hint}")
    elif not isinstance(try_to_load_from_cache(model, "config.json"), str):
        _check_hub(model, option)


def _check_hub(model: str, option: str) -> None:
    """The Hub can be asked for a model that is not on this disk."""
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    try:
        if why is None:
            httpx.head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except httpx.HTTPError as error:
        why = f"{constants.ENDPOINT} does not answer ({error or type(error).__name__})"
    if why is not None:
        raise OSError(
            f"{option} {model!r} is no folder here, and the Hub is out of reach: {why}. Name the folder of a saved one"
        )
