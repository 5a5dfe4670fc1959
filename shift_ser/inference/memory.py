"""What a pass over a recording takes of memory, counted without running it."""

from collections.abc import Sequence

import numpy as np
import torch

from ..memory import counting
from ..model.pipeline_shift_ser import ShiftAudioClassificationPipeline
from .graph import GraphModel

SCRATCH = 1.5  # what a pass was seen to take, as a multiple of its tensors: 1.3 to 1.4 beyond half a minute of speech


def pass_memory(classifier: ShiftAudioClassificationPipeline, seconds: float) -> int:
    """Bytes that a pass over a recording takes beside the weights; its tensors have shapes here and no values.

    Args:
        classifier: What `load_classifier` gives.
        seconds: Length of the recording.
    """
    reads = classifier.feature_extractor
    name, samples = reads.model_input_names[0], max(1, round(seconds * reads.sampling_rate))
    shape: Sequence[int] = (1, samples)
    if name != "input_values":  # how many frames a spectrogram has only its extractor knows
        shape = classifier.features([np.zeros(samples, np.float32)])[name].shape
    model, share = classifier.model, 1.0
    with torch.inference_mode(), counting() as count:
        if isinstance(model, GraphModel):
            model, share = model.in_torch()
        weights = count.peak = count.live  # of a model that is made here
        model(**{name: torch.empty(shape, dtype=model.dtype, device=classifier.device)})
        return round(SCRATCH * share * (count.peak - weights))
