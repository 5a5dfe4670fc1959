"""Temporal shift heads for speech emotion recognition on the Hugging Face stack."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .model.configuration_shift_ser import ShiftConfig, __version__
from .model.feature_extraction_shift_ser import ShiftFeatureExtractor
from .model.modeling_shift_ser import ShiftForSequenceClassification, ShiftModel
from .model.pipeline_shift_ser import ShiftAudioClassificationPipeline, register_pipeline
from .model.speech_input import read_audio
from .model.temporal_shift import TemporalShift, temporal_shift

__all__ = [
    "ShiftAudioClassificationPipeline",
    "ShiftConfig",
    "ShiftFeatureExtractor",
    "ShiftForSequenceClassification",
    "ShiftModel",
    "TemporalShift",
    "__version__",
    "read_audio",
    "temporal_shift",
]

AutoConfig.register(ShiftConfig.model_type, ShiftConfig, exist_ok=True)
AutoFeatureExtractor.register(ShiftConfig, ShiftFeatureExtractor, exist_ok=True)
AutoModel.register(ShiftConfig, ShiftModel, exist_ok=True)
AutoModelForAudioClassification.register(ShiftConfig, ShiftForSequenceClassification, exist_ok=True)
register_pipeline()
# What is saved takes its code along, for `trust_remote_code=True` where this package is not installed.
ShiftConfig.register_for_auto_class(AutoConfig)
ShiftFeatureExtractor.register_for_auto_class(AutoFeatureExtractor)
ShiftModel.register_for_auto_class(AutoModel)
ShiftForSequenceClassification.register_for_auto_class(AutoModelForAudioClassification)
