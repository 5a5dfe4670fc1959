"""A trained model on disk; the frozen encoder that all folds of a run share is stored once."""

import filecmp
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..evaluation.run_folder import aside, write_json
from ..model.modeling_shift_ser import ShiftForSequenceClassification

logger = logging.getLogger(__name__)

ENCODER_SHARD, HEAD_SHARD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_ENCODER = "shift_ser.encoder."  # how the names of its weights begin


def save_model(
    model: ShiftForSequenceClassification, folder: Path, *, weights: Mapping[str, torch.Tensor], run: Path
) -> None:
    """Save a model; a frozen encoder goes into a shard of its own, a hard link where the run has the same one already.

    The folder is one that `from_pretrained` loads by itself: weights in shards with their index. Copying it
    (`cp -r`) copies the content of the links. Where the file system has no hard links, each folder has its own copy.

    Args:
        model: Its configuration and code are saved, too.
        folder: Where it goes; weights of an earlier save are replaced.
        weights: All weights by name.
        run: Folder of the run, whose other models may have the same encoder.
    """
    for old in folder.glob("model*.safetensors*"):
        old.unlink()  # never written over: the file may be that of other folders as well
    model.save_pretrained(folder, state_dict=dict(weights))
    if model.config.freeze_encoder and (folder / SAFE_WEIGHTS_NAME).is_file():
        split_weights(folder)
        share_shard(folder / ENCODER_SHARD, run)


def split_weights(folder: Path) -> None:
    """Put the weights of a saved model into two shards with their index: those of the encoder, and all others."""
    whole = folder / SAFE_WEIGHTS_NAME
    with safe_open(whole, "pt") as file:
        shard_of = {name: ENCODER_SHARD if name.startswith(_ENCODER) else HEAD_SHARD for name in file.keys()}  # noqa: SIM118
        size = 0
        for shard in (ENCODER_SHARD, HEAD_SHARD):
            tensors = {name: file.get_tensor(name) for name, place in shard_of.items() if place == shard}
            size += sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, folder / shard, metadata={"format": "pt"})
    write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": size}, "weight_map": shard_of})
    whole.unlink()


def share_shard(path: Path, run: Path) -> None:
    """Make a file a hard link to one of the same name and the same bytes in the run's folder, if there is one."""
    for other in sorted(run.rglob(path.name)):
        if other != path and not other.is_symlink() and filecmp.cmp(path, other, shallow=False):
            try:
                with aside(path) as part:
                    os.link(other, part)
            except OSError as error:  # no hard links there, or too many of one file
                logger.info("%s stays a copy of %s: %s", path, other, error)
            return
