"""Which test files meet the mutants of a module, and which mutants no test can tell from the module."""

# Module below `shift_ser` -> its fast test files below `tests`, the quickest first.
MODULES = {
    "training/checkpoints.py": "training/test_fold.py",
    "training/settings.py": "training/test_settings.py training/test_fold_lists.py evaluation/test_comparison.py",
    "training/data.py": "training/test_data.py training/test_data_collator.py training/test_fold.py",
    "training/protocols.py": "training/test_protocols.py training/test_random_corpora.py",
    "training/targets.py": "training/test_targets.py",
    "training/trainer.py": "training/test_optimization.py training/test_batching.py training/test_randomness.py",
    "training/fold.py": "training/test_saved_model.py training/test_fold.py",
    "training/saved_model.py": "training/test_saved_model.py",
    "model/loading.py": "model/test_loading.py",
    "hub/push.py": "hub/test_push.py",
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

# Module -> mutant -> why no test can tell it from the module.
_CARE = "refuses what no caller does: a mistake of ours would raise"
EQUIVALENT: dict[str, dict[str, str]] = {
    "evaluation/comparison.py": {
        "for comparison, p in zip(comparisons, adjusted, strict=True)"
        "  ->  for comparison, p in zip(comparisons, adjusted, strict=False)": _CARE,
        "@dataclass(frozen=True)  ->  @dataclass(frozen=False)": _CARE,
    },
}
