"""The authors' checkpoints in our names (`shift-ser convert`).

The authors' `Pretrain_Model` holds the head under `model.` and a torchaudio encoder under `pretrain.`; a bare head has
no prefix. Facts on names and label order: github.com/ECNU-Cross-Innovation-Lab/ShiftSER.
"""

import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig

from ..model.configuration_shift_ser import ShiftConfig
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.modeling_shift_ser import ShiftForSequenceClassification

logger = logging.getLogger(__name__)

ORIGINAL_LABELS = ("happy", "angry", "sad", "neutral")
_HEAD = "shift_ser.head."
_LSTM = r"^rnn\.(?:net\.)?((?:weight|bias)_[ih]h_)l(\d+)"
# (pattern, replacement), the first that matches is taken.
HEAD_NAMES = (
    (r"^head\.", "classifier."),
    (r"^specaugment\.masked_spec_embed$", "shift_ser.masked_spec_embed"),
    (r"^norm\.", _HEAD + "norm."),
    (r"^conv_block\.(\d+)\.(?:net\.)?sequential\.0\.", _HEAD + r"blocks.\1.depthwise."),
    (r"^conv_block\.(\d+)\.(?:net\.)?sequential\.2\.", _HEAD + r"blocks.\1.norm."),
    (r"^conv_block\.(\d+)\.(?:net\.)?sequential\.4\.", _HEAD + r"blocks.\1.expand."),
    (r"^conv_block\.(\d+)\.(?:net\.)?sequential\.6\.", _HEAD + r"blocks.\1.contract."),
    (_LSTM + r"_reverse$", _HEAD + r"blocks.\2.backward_lstm.\1l0"),
    (_LSTM + r"$", _HEAD + r"blocks.\2.forward_lstm.\1l0"),
    (r"^transformer\.(\d+)\.(?:net\.)?token_mixer\.", _HEAD + r"blocks.\1.attention."),
    (r"^transformer\.(\d+)\.(?:net\.)?norm1\.", _HEAD + r"blocks.\1.attention_norm."),
    (r"^transformer\.(\d+)\.(?:net\.)?norm2\.", _HEAD + r"blocks.\1.mlp_norm."),
    (r"^transformer\.(\d+)\.(?:net\.)?mlp\.fc1\.", _HEAD + r"blocks.\1.expand."),
    (r"^transformer\.(\d+)\.(?:net\.)?mlp\.fc2\.", _HEAD + r"blocks.\1.contract."),
)
ENCODER_NAMES = (
    (r"^feature_extractor\.", "shift_ser.encoder.feature_extractor."),
    (r"^encoder\.feature_projection\.", "shift_ser.encoder.feature_projection."),
    (r"^encoder\.transformer\.pos_conv_embed\.conv\.weight_g$", "{conv}parametrizations.weight.original0"),
    (r"^encoder\.transformer\.pos_conv_embed\.conv\.weight_v$", "{conv}parametrizations.weight.original1"),
    (r"^encoder\.transformer\.", "shift_ser.encoder.encoder."),
)


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' parameters under our names.

    Args:
        state_dict: Parameters of a head as the authors name them, bare or under `model.` (also under a further
            `module.` of data-parallel training), and of a torchaudio encoder under `pretrain.`, if there is one.

    Returns:
        Parameters of `ShiftForSequenceClassification`; those of the encoder only if `state_dict` has them.

    Raises:
        ValueError: If a name is not one of the authors'; the message shows it.

    Example:
        >>> weight = torch.zeros(96, 24, 1)
        >>> converted = convert_state_dict({"model.conv_block.0.sequential.4.weight": weight})
        >>> {name: tuple(tensor.shape) for name, tensor in converted.items()}
        {'shift_ser.head.blocks.0.expand.weight': (96, 24)}
    """
    converted = {}
    for name, tensor in state_dict.items():
        ours = _convert_name(name)
        if re.search(r"\.(expand|contract)\.weight$", ours) and tensor.dim() == 3:
            tensor = tensor.squeeze(-1)  # a convolution of width 1 is our linear layer
        converted[ours] = tensor
    return converted


def _convert_name(name: str) -> str:
    bare = name.removeprefix("module.")
    table, bare = (
        (ENCODER_NAMES, bare[9:]) if bare.startswith("pretrain.") else (HEAD_NAMES, bare.removeprefix("model."))
    )
    for pattern, replacement in table:
        if re.match(pattern, bare):
            conv = "shift_ser.encoder.encoder.pos_conv_embed.conv."
            return re.sub(pattern, replacement.replace("{conv}", conv), bare)
    raise ValueError(f"state_dict must hold parameters of the authors' models only, got {name!r}")


def convert_checkpoint(
    checkpoint: str | Path,
    *,
    output_dir: str | Path,
    variant: str,
    encoder: str | None = None,
    encoder_type: str = "hubert",
    labels: Sequence[str] = ORIGINAL_LABELS,
) -> ShiftForSequenceClassification:
    """Turn a checkpoint file of the authors into a folder that `from_pretrained` loads.

    Args:
        checkpoint: `.safetensors`, or a `torch.save` file of tensors (read with `weights_only=True`).
        output_dir: Where the model and its feature extractor are saved.
        variant: Which published model it is, a name of `ShiftConfig.from_variant`.
        encoder: Hub name or folder of the pretrained encoder; needed if the file holds a head alone.
        encoder_type: Architecture of the encoder inside the file (`hubert` or `wav2vec2`, base size), if there is one.
        labels: Class names by index; the authors' order by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of tensors, holds no encoder and none is named, or does not fit the variant.
    """
    path = Path(checkpoint)
    state_dict = convert_state_dict(_read_checkpoint(path))
    options = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "max_position_embeddings": _table_reach(state_dict),
    }
    has_encoder = any(name.startswith("shift_ser.encoder.") for name in state_dict)
    if encoder is not None:
        model = ShiftForSequenceClassification.from_encoder_pretrained(encoder, variant=variant, **options)
    elif has_encoder:
        config = ShiftConfig.from_variant(variant, encoder_config=AutoConfig.for_model(encoder_type), **options)
        model = ShiftForSequenceClassification(config)
    else:
        raise ValueError(f"encoder must be named, since {str(path)!r} holds a head alone; got None")
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the file must fit variant {variant!r} and the encoder's width: {error}") from error
    allowed = ("shift_ser.encoder.masked_spec_embed",) if has_encoder else ("shift_ser.encoder.",)
    missing = [name for name in missing if not name.startswith(allowed)]
    if missing or unexpected:
        raise ValueError(f"the file must fit variant {variant!r}; missing {missing[:3]}, unexpected {unexpected[:3]}")
    model.save_pretrained(output_dir)
    ShiftFeatureExtractor(do_normalize=False).save_pretrained(output_dir)
    return model


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file, by name; nothing in the file is executed."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, there is none at {str(path)!r}")
    told = f"checkpoint must hold parameters by name, as .safetensors or of torch.save, but {str(path)!r}"
    try:
        original = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (EOFError, KeyError, OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{told} cannot be read: {reason}") from error
    if not isinstance(original, Mapping) or not all(isinstance(value, torch.Tensor) for value in original.values()):
        found = f"the keys {list(original)[:3]}" if isinstance(original, Mapping) else f"a {type(original).__name__}"
        raise ValueError(f"{told} holds {found}")
    return dict(original)


def _table_reach(state_dict: Mapping[str, torch.Tensor]) -> int:
    """Frames the distance table reaches (it has twice as many rows less one), or the published 374 without a table."""
    rows = [len(tensor) for name, tensor in state_dict.items() if name.endswith("distance_embedding.weight")]
    return rows[0] // 2 + 1 if rows else 374
