"""Temporal shift heads for speech emotion recognition on the Hugging Face stack.

Importing the package registers its models with the Auto classes and `pipeline`. What trains, evaluates or exports is
imported when it is first asked for.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .extras import missing_module

if TYPE_CHECKING:
    from .model.configuration_shift_ser import ShiftConfig as ShiftConfig
    from .model.configuration_shift_ser import __version__ as __version__
    from .model.feature_extraction_shift_ser import ShiftFeatureExtractor as ShiftFeatureExtractor
    from .model.modeling_shift_ser import ShiftForSequenceClassification as ShiftForSequenceClassification
    from .model.modeling_shift_ser import ShiftModel as ShiftModel
    from .model.pipeline_shift_ser import ShiftAudioClassificationPipeline as ShiftAudioClassificationPipeline
    from .model.speech_input import read_audio as read_audio
    from .model.temporal_shift import TemporalShift as TemporalShift
    from .model.temporal_shift import temporal_shift as temporal_shift

# Public names, which are imported when they are first asked for, each with the module that holds it.
_MODEL = {
    "ShiftAudioClassificationPipeline": "model.pipeline_shift_ser",
    "ShiftConfig": "model.configuration_shift_ser",
    "ShiftFeatureExtractor": "model.feature_extraction_shift_ser",
    "ShiftForSequenceClassification": "model.modeling_shift_ser",
    "ShiftModel": "model.modeling_shift_ser",
    "TemporalShift": "model.temporal_shift",
    "__version__": "model.configuration_shift_ser",
    "read_audio": "model.speech_input",
    "temporal_shift": "model.temporal_shift",
}
_OTHERS = {
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

__all__ = [*_MODEL, *_OTHERS]


def __getattr__(name: str) -> Any:
    """The public name that is not imported yet (PEP 562)."""
    module = {**_MODEL, **_OTHERS}.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name}: {missing_module(error.name)}", name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if Path((sys.argv or [""])[0]).stem != "shift-ser":  # a command imports what it needs; its help needs no torch
    from . import model as model
