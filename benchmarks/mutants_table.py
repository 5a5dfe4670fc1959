"""Which test files meet the mutants of a module, and which mutants no test can tell from the module."""

# Module below `shift_ser` -> its fast test files below `tests`, the quickest first.
_RUNS = "training/test_cross_validation.py training/test_fold.py"  # whole runs, and what breaks them
MODULES = {
    "training/checkpoints.py": "training/test_fold.py",
    "training/settings.py": "training/test_settings.py training/test_fold_lists.py evaluation/test_comparison.py",
    "training/data.py": "training/test_data.py training/test_augmentation.py model/test_spectrogram_encoders.py"
    f" {_RUNS}",
    "training/protocols.py": "training/test_random_corpora.py training/test_fold_lists.py training/test_protocols.py",
    "training/targets.py": "training/test_targets.py",
    "training/trainer.py": "training/test_optimization.py training/test_batching.py training/test_randomness.py"
    f" training/test_fold_results.py training/test_frame_labels.py training/test_targets.py {_RUNS}",
    "training/fold.py": "training/test_fold_results.py training/test_saved_model.py training/test_randomness.py"
    f" training/test_targets.py training/test_adapters.py training/test_augmentation.py {_RUNS}",
    "training/saved_model.py": "training/test_saved_model.py",
    "model/loading.py": "model/test_loading.py training/test_saved_model.py",
    "hub/push.py": "hub/test_push.py training/test_final.py",
    "hub/onnx.py": "hub/test_onnx.py",
    "hub/convert_original_checkpoint.py": "hub/test_convert_original_checkpoint.py",
    "evaluation/metrics.py": "evaluation/test_metrics.py",
    "evaluation/uncertainty.py": "evaluation/test_uncertainty.py",
    "evaluation/comparison.py": "evaluation/test_comparison.py",
    "evaluation/calibration.py": "evaluation/test_calibration.py",
    "evaluation/predictions.py": "evaluation/test_predictions.py evaluation/test_comparison.py",
    "evaluation/run_folder.py": "evaluation/test_run_folder.py evaluation/test_comparison.py",
    "corpora/check.py": "corpora/test_corpora.py corpora/test_known_defects.py corpora/test_iemocap.py",
}

# A mutant that only takes one of these back changes no result: it lets pass what no caller does.
GUARDS = {"strict=True": "strict=False", "frozen=True": "frozen=False"}
# Module -> mutant, or the line whatever becomes of it -> why no test can tell it from the module.
EQUIVALENT: dict[str, dict[str, str]] = {
    "training/protocols.py": {
        'by_session = bool(sessions) and (unit == "session" or how in FOLD_UNITS)'
        '  ->  by_session = bool(sessions) and (unit <= "session" or how in FOLD_UNITS)': "of two names the lesser",
    },
    "evaluation/comparison.py": {
        'key = [name for name in ("fold", "seed", "utterance") if name in tables[0]]'
        '  ->  key = [name for name in ("fold", "seed", "utterance") if name in tables[ -1]]': "both have the same",
    },
    "evaluation/metrics.py": {
        "return SpeechEmotionMetric().compute(predictions=logits.argmax(-1), references=eval_prediction.label_ids)"
        "  ->  "
        "return SpeechEmotionMetric().compute(predictions=logits.argmax(1),"
        " references=eval_prediction.label_ids)": "the last of two axes",
    },
    "evaluation/run_folder.py": {
        "_BLOCK = 1 << 20 # bytes": "how much of a file is read at once, the checksum is that of the whole",
    },
}
