"""A model as one graph: an ONNX folder that runs without torch, and what `torch.export` and `torch.compile` need.

Batch and time are dynamic and the mask is an input, for every head and every encoder; a file is left only if
onnxruntime gives torch's logits at lengths and batch sizes other than the traced one.

- `torch.export` takes every head. Two limits: torch unrolls an LSTM over the traced length, so a model with LSTM blocks
  is traced inside `exportable`, which makes each an operator of its own (a saved program then needs this module where
  it is loaded, and has no gradient); and torch takes a length of one frame for a constant, so a program that holds the
  encoder refuses speech of less than two frames. The ONNX file takes one frame too.
- `torch.compile(model, dynamic=True)` takes every head. Around an LSTM it breaks the graph; `fullgraph=True` refuses a
  model with LSTM blocks outside `exportable`.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxscript
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from ..model.encoders import input_name
from ..model.feature_extraction_shift_ser import ShiftFeatureExtractor
from ..model.losses import split_outputs
from ..model.modeling_shift_ser import ShiftForSequenceClassification

README = """# Speech emotion recognition with onnxruntime: {labels}

`model.onnx` takes `input_values` (batch, samples) float32 and `attention_mask` (batch, samples) int64, 1 on speech and
0 on the padding at its right, and gives `logits` (batch, {num_labels}), for any batch size and length. {padding}
{precision} were compared with torch's on {batches} batches of noise: the largest difference is {difference:.0e}.

To classify wav files ({rate} Hz, mono, 16 bits), run this here with their names (`pip install onnxruntime numpy`):

```python
import json, sys, wave
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
labels = json.load(open("config.json"))["id2label"]
{preprocessing}
(logits,) = session.run(["logits"], {{"input_values": values.astype(np.float32), "attention_mask": mask}})
{scores}
```
"""


def describe(
    model: ShiftForSequenceClassification,
    feature_extractor: ShiftFeatureExtractor,
    *,
    int8: bool,
    batches: int,
    difference: float,
) -> str:
    """The folder's README: the graph's inputs and output, and how to run it.

    Args:
        model: The exported model.
        feature_extractor: The one saved with it.
        int8: Whether its matrix products are in int8.
        batches: How many batches were compared with torch.
        difference: What was found there.
    """
    masked = model.config.mask_padding
    return README.format(
        labels=", ".join(model.config.id2label.values()),
        num_labels=model.config.num_labels,
        padding="Padding does not change scores." if masked else "This model was trained to ignore the mask.",
        batches=batches,
        precision="Its matrix products are in int8; its scores" if int8 else "Its logits",
        difference=difference,
        rate=feature_extractor.sampling_rate,
        preprocessing="\n".join(preprocessing(feature_extractor)),
        scores="\n".join(scores_of(model)),
    )


def preprocessing(feature_extractor: ShiftFeatureExtractor) -> list[str]:
    """Lines of numpy that do what the feature extractor does."""
    least, fixed = feature_extractor.min_length, feature_extractor.fixed_length
    lines = ["clips = [np.frombuffer(wave.open(path).readframes(-1), np.int16) / 32768 for path in sys.argv[1:]]"]
    lines.append(f"clips = [np.pad(clip, (0, max(0, {least} - len(clip)))) for clip in clips]")
    if fixed is not None:
        lines.append(f"clips = [clip[:{fixed}] for clip in clips]")
    if feature_extractor.do_normalize:
        lines.append("clips = [(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip in clips]")
    lines.append("length = max(map(len, clips))" if fixed is None else f"length = {fixed}")
    lines.append("values = np.stack([np.pad(clip, (0, length - len(clip))) for clip in clips])")
    if fixed is None:
        lines.append("mask = np.stack([np.arange(length) < len(clip) for clip in clips]).astype(np.int64)")
    else:
        lines.append("mask = np.ones(values.shape, np.int64)")
    return lines


def scores_of(model: ShiftForSequenceClassification) -> list[str]:
    """Lines of numpy that make scores of `logits`, and print them: probabilities of classes, values of dimensions."""
    classes = model.config.num_labels - len(model.config.dimensions or ())
    lines = ["for path, row in zip(sys.argv[1:], logits):"]
    if classes:
        lines.append(f"    shares = np.exp(row[:{classes}] - row[:{classes}].max())")
        rest = f", *row[{classes}:]" if model.config.dimensions else ""
        lines.append(f"    row = [*shares / shares.sum(){rest}]")
    told = "{labels[str(index)]: round(float(score), 4) for index, score in enumerate(row)}"
    return [*lines, f"    print(path, {told})"]


TOLERANCE = 1e-4  # largest difference between the logits of torch and of onnxruntime
INT8_TOLERANCE = 0.05  # largest difference between scores (softmax) where matrix products are in int8
TRACED = (49, 31)  # frames of the utterances in the batch that is traced, and in those that are checked
CHECKED = ((1,), (50,), (131, 77, 2), (400, 12, 1, 399, 200))


def export_onnx(
    model: ShiftForSequenceClassification,
    feature_extractor: ShiftFeatureExtractor,
    output_dir: str | Path,
    *,
    opset: int = 20,
    int8: bool = False,
) -> float:
    """Write a folder with `model.onnx`, its labels, its preprocessing and a README of how to run it without torch.

    The graph takes `input_values` `(batch, samples)` float32 and `attention_mask` `(batch, samples)` int64 and gives
    `logits` `(batch, labels)`. The folder appears only when it is whole and checked.

    Args:
        model: A model with its encoder, in float32 on the CPU, in eval mode.
        feature_extractor: The one saved with it.
        output_dir: Folder to write; must not exist yet, or be empty.
        opset: Version of the ONNX operators, at least 18.
        int8: Matrix products in int8, by onnxruntime's dynamic quantization: the weights once, per channel, the frames
            as they come. The file has a third of the size (HuBERT base) and runs faster; scores change a little.

    Returns:
        The largest difference between the logits of torch and of onnxruntime over the batches compared; with `int8`
        that between the scores.

    Raises:
        ValueError: If the model is in train mode or not in float32 on the CPU, or its encoder reads spectrograms, or
            `opset` is below 18.
        FileExistsError: If `output_dir` holds something.
        RuntimeError: If onnxruntime's logits are not torch's within 1e-4; with `int8`, scores within 0.05 and values of
            dimensions within a tenth of their deviation.
    """
    if model.training or model.dtype != torch.float32 or model.device.type != "cpu":
        mode = "train" if model.training else "eval"
        raise ValueError(
            f"model must be in eval mode and in float32 on the CPU, got {mode} mode and {model.dtype} on {model.device}"
        )
    encoder_config: Any = model.config.encoder_config
    if (name := input_name(encoder_config)) != "input_values":
        raise ValueError(
            f"model must have an encoder of waveforms, or its graph would lack the spectrogram that makes {name},"
            f" got the family {encoder_config.model_type!r}"
        )
    if opset < 18:
        raise ValueError(f"opset must be at least 18, got {opset}")
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"output_dir must not exist yet or be an empty folder, got {str(output_dir)!r}")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as aside:
        folder = Path(aside) / output_dir.name
        folder.mkdir()
        write_onnx(model, folder / "model.onnx", opset=opset)
        if int8:
            use_int8(folder / "model.onnx")
        difference = check_onnx(folder / "model.onnx", model, int8=int8)
        config = {name: value for name, value in model.config.to_dict().items() if name != "auto_map"}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        feature_extractor.to_json_file(folder / "preprocessor_config.json")
        readme = describe(model, feature_extractor, int8=int8, batches=len(CHECKED), difference=difference)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        if output_dir.exists():
            output_dir.rmdir()
        folder.rename(output_dir)
    return difference


def write_onnx(model: ShiftForSequenceClassification, path: Path, *, opset: int) -> None:
    """Trace the model and write it to `path`, unchecked; weights beyond 2 GB go to a file beside it."""
    written = torch.onnx.export(
        trace(model),
        input_names=["input_values", "attention_mask"],
        output_names=["logits"],
        opset_version=opset,
        dynamic_shapes=({0: "batch", 1: "samples"}, {}),  # the mask's axes are the same ones
        custom_translation_table={
            torch.ops.shift_ser.lstm.default: _onnx_lstm,
            torch.ops.aten.div.Tensor_mode: _onnx_floor_division,
        },
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    written.save(path)


def use_int8(path: Path) -> None:
    """Quantize the matrix products of the graph at `path`, in place."""
    whole = path.with_name("whole.onnx")
    path.rename(whole)
    quantize_dynamic(
        whole, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True
    )  # fmt: skip
    whole.unlink()


def trace(model: ShiftForSequenceClassification) -> torch.export.ExportedProgram:
    """The model as a graph from `(input_values, attention_mask)` to logits, batch and samples dynamic."""
    chosen = model.config._attn_implementation
    model.config._attn_implementation = "eager"  # of the head: ONNX's decomposition of sdpa trips over its strides
    try:
        with torch.no_grad(), exportable(model):
            return torch.export.export(
                _Logits(model),
                noise_batch(TRACED, model),
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) * 2,
                prefer_deferred_runtime_asserts_over_guards=True,  # lengths torch cannot judge are checked at run
            )
    finally:
        model.config._attn_implementation = chosen


def check_onnx(path: Path, model: ShiftForSequenceClassification, *, int8: bool = False) -> float:
    """The largest difference between the logits of torch and of onnxruntime over noise of other lengths than traced.

    Args:
        path: The graph.
        model: What it was made from.
        int8: Compare the scores in place of the logits.

    Raises:
        RuntimeError: If it exceeds 1e-4 (`int8`: 0.05) or is not a number.
    """
    what, tolerance = ("scores", INT8_TOLERANCE) if int8 else ("logits", TOLERANCE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = []
    for frames in CHECKED:
        values, mask = noise_batch(frames, model)
        (output,) = session.run(["logits"], {"input_values": values.numpy(), "attention_mask": mask.numpy()})
        found = torch.from_numpy(output)
        with torch.no_grad():
            expected = model(values, attention_mask=mask).logits
        if int8:
            found, expected = (_scores(each, model) for each in (found, expected))
        difference = float((found - expected).abs().max())
        if not difference <= tolerance:
            raise RuntimeError(
                f"onnxruntime's {what} must be within {tolerance:g} of torch's, but utterances of {frames} frames"
                f" differ by {difference:g}; nothing was written"
            )
        differences.append(difference)
    return max(differences)


def _scores(outputs: torch.Tensor, model: ShiftForSequenceClassification) -> torch.Tensor:
    """Probabilities of the classes, and values of the dimensions in units of twice their deviation."""
    logits, values = split_outputs(outputs, model.config)
    values = values / (2 * values.new_tensor(model.config.dimension_stds or [1.0] * values.shape[-1]))
    return torch.cat([logits.softmax(dim=-1), values], dim=-1)


def samples_of(frames: int, encoder_config: Any) -> int:
    """The least number of samples from which the encoder's convolutions make so many frames.

    Example:
        >>> from transformers import HubertConfig
        >>> samples_of(1, HubertConfig()), samples_of(2, HubertConfig())
        (400, 720)
    """
    length = frames
    for kernel, stride in zip(reversed(encoder_config.conv_kernel), reversed(encoder_config.conv_stride), strict=True):
        length = (length - 1) * stride + kernel
    return length


def noise_batch(frames: Sequence[int], model: ShiftForSequenceClassification) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeded noise of so many frames an utterance, zero-padded, and its mask: two tensors `(batch, samples)`."""
    lengths = torch.tensor([samples_of(number, model.config.encoder_config) for number in frames])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)) * mask, mask


class _Logits(nn.Module):
    """The model with the two arguments and the one result that the graph has."""

    def __init__(self, model: ShiftForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_values, attention_mask=attention_mask).logits


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """While inside, every LSTM of the model is one operator, `shift_ser::lstm`, that traces with a dynamic length."""
    places = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.LSTM)
    ]
    for module, name, lstm in places:
        setattr(module, name, _Lstm(lstm))
    try:
        yield
    finally:
        for module, name, lstm in places:
            setattr(module, name, lstm)


class _Lstm(nn.Module):
    """An LSTM of one layer and one direction as one operator; it shares the parameters.

    Shape:
        `(batch, time, channels)` -> `(batch, time, width)`, and None for the last states, which nobody reads
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.weights = nn.ParameterList([lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0])

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _lstm(frames, list(self.weights)), None


@torch.library.custom_op("shift_ser::lstm", mutates_args=())
def _lstm(frames: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    zero = frames.new_zeros(1, frames.shape[0], weights[1].shape[1])
    return torch.lstm(frames, (zero, zero), weights, True, 1, 0.0, False, False, True)[0]


@_lstm.register_fake
def _lstm_shape(frames: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    return frames.new_empty(*frames.shape[:2], weights[1].shape[1])


def _onnx_lstm(frames: Any, weights: Sequence[Any]) -> Any:
    """The same in ONNX: gates in another order (i, o, f, c for torch's i, f, c, o), and time before batch."""
    op: Any = onnxscript.opset18
    width = weights[1].shape[1]
    in_gate, forget, cell, out = np.arange(4 * width).reshape(4, width)
    order = op.Constant(value_ints=np.concatenate([in_gate, out, forget, cell]).tolist())
    from_input, from_state, bias_input, bias_state = (op.Gather(weight, order, axis=0) for weight in weights)
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    states, _, _ = op.LSTM(
        op.Transpose(frames, perm=[1, 0, 2]),
        op.Unsqueeze(from_input, first),
        op.Unsqueeze(from_state, first),
        op.Unsqueeze(op.Concat(bias_input, bias_state, axis=0), first),
        hidden_size=width,
    )
    return op.Transpose(op.Squeeze(states, second), perm=[1, 0, 2])


def _onnx_floor_division(dividend: Any, divisor: Any, rounding_mode: str) -> Any:
    """Lengths in frames, in whole numbers: torch's own translation divides floats, and bfloat16 has 8 bits for them."""
    if rounding_mode != "floor" or not dividend.dtype.is_integer():
        raise ValueError(f"division must be of whole numbers and round down, got {dividend.dtype} and {rounding_mode}")
    op: Any = onnxscript.opset18
    return op.Div(op.Sub(dividend, op.Mod(dividend, divisor)), divisor)
