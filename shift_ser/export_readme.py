"""The README of an ONNX folder: what the graph takes and gives, and lines that run it without torch."""

from .feature_extraction_shift_ser import ShiftFeatureExtractor
from .modeling_shift_ser import ShiftForSequenceClassification

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
for path, row in zip(sys.argv[1:], np.exp(logits - logits.max(axis=1, keepdims=True))):
    print(path, {{labels[str(index)]: round(float(score), 4) for index, score in enumerate(row / row.sum())}})
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
