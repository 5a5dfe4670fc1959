"""Temporal shift heads for speech emotion recognition on the Hugging Face stack.

Importing the package registers its models with the Auto classes and `pipeline`. What trains, evaluates or exports is
imported when it is first asked for.
"""

import importlib
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .model.configuration_shift_ser import ShiftConfig, __version__
from .model.feature_extraction_shift_ser import ShiftFeatureExtractor
from .model.modeling_shift_ser import ShiftForSequenceClassification, ShiftModel
from .model.pipeline_shift_ser import ShiftAudioClassificationPipeline, register_pipeline
from .model.speech_input import read_audio
from .model.temporal_shift import TemporalShift, temporal_shift

# Public names that are imported when they are first asked for, each with the module that holds it.
_LAZY = {
    "CORPORA": "corpora",
    "DataCollatorForShift": "training.batching",
    "Predictions": "evaluation.predictions",
    "check_corpus": "corpora",
    "classify_recordings": "inference.predict",
    "compare": "evaluation.comparison",
    "cross_validate": "training.cross_validation",
    "evaluate_predictions": "evaluation.predictions_report",
    "export_onnx": "hub.onnx",
    "load_classifier": "inference.predict",
    "load_corpus": "corpora",
    "push_to_hub": "hub.push",
}

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
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    """The public name that is not imported yet (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


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
