"""The model: what travels to the Hub with the weights, and nothing else. Importing it registers it."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_shift_ser import ShiftConfig
from .feature_extraction_shift_ser import ShiftFeatureExtractor
from .modeling_shift_ser import ShiftForSequenceClassification, ShiftModel
from .pipeline_shift_ser import register_pipeline

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
