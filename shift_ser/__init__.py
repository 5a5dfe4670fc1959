"""Temporal shift heads for speech emotion recognition on the Hugging Face stack."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .audio import read_audio
from .configuration_shift_ser import ShiftConfig
from .feature_extraction_shift_ser import ShiftFeatureExtractor
from .modeling_shift_ser import ShiftForSequenceClassification, ShiftModel
from .temporal_shift import TemporalShift, temporal_shift

__version__ = "0.1.0"
__all__ = [
    "ShiftConfig",
    "ShiftFeatureExtractor",
    "ShiftForSequenceClassification",
    "ShiftModel",
    "TemporalShift",
    "read_audio",
    "temporal_shift",
]

AutoConfig.register(ShiftConfig.model_type, ShiftConfig, exist_ok=True)
AutoFeatureExtractor.register(ShiftConfig, ShiftFeatureExtractor, exist_ok=True)
AutoModel.register(ShiftConfig, ShiftModel, exist_ok=True)
AutoModelForAudioClassification.register(ShiftConfig, ShiftForSequenceClassification, exist_ok=True)
