"""Slips that cosmic-ray does not know, each made once and looked for ever since: a line dropped, swapped or simpler."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Slip:
    """One slip.

    Attributes:
        title: What goes wrong.
        module: Path below `shift_ser`.
        before: What stands there, once.
        after: What stands there after the slip.
        tests: Those that must fail, below `tests`.
    """

    title: str
    module: str
    before: str
    after: str
    tests: str

    def made(self, source: str) -> str:
        """The module with the slip.

        Raises:
            ValueError: If what it replaces does not stand there once.
        """
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.module} must hold {self.before!r} once, it is there {source.count(self.before)} times"
            )
        return source.replace(self.before, self.after)


_RANDOM = "training/test_randomness.py::test_each_seed_has_its_own_weights_and_its_own_order_and_dropout"
_MASKS = "model/test_modeling_shift_ser.py::test_spec_augment_has_its_least_number_of_masks_on_768_channels"
_CONFUSION = "evaluation/test_run_folder.py::test_confusion_matrix_is_drawn_with_row_percentages_and_counts"
_MEAN = "evaluation/test_uncertainty.py::test_the_jackknife_of_a_mean_is_the_t_test"
_DECAY = "training/test_optimization.py::test_vectors_and_biases_do_not_decay"

SLIPS = (
    Slip("a private repository is made public", "hub/push.py", "private=self.private, ", "",
         "hub/test_push.py::test_a_repository_is_private_if_it_is_asked_to_be"),
    Slip("--hub_token=... is shown", "evaluation/public.py", "elif is_token and equals:", "elif False:",
         "hub/test_push.py::test_a_token_is_never_shown"),
    Slip("code in a checkpoint is run", "hub/convert_original_checkpoint.py", "(path, weights_only=True)",
         "(path, weights_only=False)",
         "hub/test_convert_original_checkpoint.py::test_nothing_in_a_checkpoint_is_executed"),
    Slip("every seed has the weights of seed 0", "training/fold.py", "set_seed(self.training_seed)", "set_seed(0)",
         _RANDOM),
    Slip("every seed has the order and dropout of seed 0", "training/fold.py", "run_args.seed = self.training_seed",
         "run_args.seed = 0", _RANDOM),
    Slip("every seed has the dropout of seed 0", "training/fold.py", "run_args.seed = self.training_seed",
         "run_args.data_seed, run_args.seed = run_args.data_seed or self.training_seed, 0", _RANDOM),
    Slip("every seed has the order of seed 0", "training/fold.py", "run_args.seed = self.training_seed",
         "run_args.seed, run_args.data_seed = self.training_seed, 0", _RANDOM),
    Slip("every seed has the same batches of like length", "training/trainer.py",
         "            seed=args.seed if args.data_seed is None else args.data_seed,", "            seed=0,", _RANDOM),
    Slip("the drawn confusion matrix is transposed", "evaluation/report.py",
         'predictions.table["label"], predictions.table["prediction"], labels=label_names',
         'predictions.table["prediction"], predictions.table["label"], labels=label_names', _CONFUSION),
    Slip("the counts of the intervals are transposed", "evaluation/uncertainty.py", "(places, true, predicted)",
         "(places, predicted, true)", "evaluation/test_uncertainty.py::test_scores_are_those_of_scikit_learn"),
    Slip("a setting is an exception", "training/settings.py", '    "final": "adds',
         '    "warmup_epochs": "changes nothing",\n    "final": "adds', "training/test_settings.py"),
    Slip("a setting is not compared", "training/settings.py", "NOT_COMPARED = {",
         'NOT_COMPARED = {\n    "warmup_epochs": "changes nothing",', "training/test_settings.py"),
    Slip("the random validation set has no seed", "training/protocols.py", "{seed}/{fold}/{row.utterance}",
         "0/{fold}/{row.utterance}", "training/test_protocols.py::test_the_random_share_changes_with_seed_and_fold_and"
         "_not_with_the_order_of_rows"),
    Slip("the random validation set has the seed 0", "training/protocols.py",
         "_select_random(others, fold=index + 1, seed=options.seed)", "_select_random(others, fold=index + 1, seed=0)",
         "training/test_protocols.py::test_the_random_share_changes_with_seed_and_fold_and_not_with_the_order_of_rows"),
    Slip("every seed has the same balanced draws", "training/trainer.py",
         "BalancedSampler(classes, seed=self.args.seed if", "BalancedSampler(classes, seed=0 if", _RANDOM),
    Slip("the random validation set shares dialogs with the test set", "training/protocols.py",
         "_select_random(others, fold=index + 1,",
         "_select_random([row for row in rows if row not in test], fold=index + 1,",
         "training/test_random_corpora.py::test_no_protocol_shares_a_speaker_or_dialog_with_its_test_set"),
    Slip("the random validation set shares speakers with the test set", "training/protocols.py",
         "_select_random(others, fold=index + 1,", "_select_random(rows, fold=index + 1,",
         "training/test_random_corpora.py::test_no_protocol_shares_a_speaker_or_dialog_with_its_test_set"),
    Slip("no least number of time masks", "model/modeling_shift_ser.py", "min_masks=config.mask_time_min_masks",
         "min_masks=0", _MASKS),
    Slip("no least number of feature masks", "model/modeling_shift_ser.py", "min_masks=config.mask_feature_min_masks",
         "min_masks=0", _MASKS),
    Slip("an interval of one degree of freedom too many", "evaluation/uncertainty.py",
         "half = stats.t.ppf((1 + level) / 2, df=", "half = stats.t.ppf((1 + level) / 2, df=1 + ", _MEAN),
    Slip("as many degrees of freedom as units", "evaluation/uncertainty.py", "Jackknife(values[0], error, num - 1)",
         "Jackknife(values[0], error, num)", _MEAN),
    Slip("p is 0 where all units agree", "evaluation/uncertainty.py", "1.0, 2.0**-self.degrees)", "1.0, 0.0)",
         "evaluation/test_uncertainty.py evaluation/test_comparison.py"),
    Slip("identical runs differ", "evaluation/uncertainty.py", "< 1e-12, 1.0, 2.0", "< 1e-12, 0.0, 2.0",
         "evaluation/test_comparison.py::test_a_run_is_as_good_as_itself"),
    Slip("scoring draws from training's random numbers", "training/trainer.py",
         "with torch.random.fork_rng(devices=[]):", "with torch.enable_grad():",
         "training/test_optimization.py::test_an_evaluation_takes_no_random_number_from_the_training"),
    Slip("weights of one dimension decay", "training/optimization.py", "if value.dim() != 1 and not", "if not", _DECAY),
    Slip("biases of two dimensions decay", "training/optimization.py", ' and not name.endswith(".bias")', "", _DECAY),
    Slip("layer weights are not initialised", "model/modeling_shift_ser.py", "init.zeros_(module.layer_weights)",
         "pass", "model/test_loading.py::test_layer_weights_that_the_file_lacks_start_equal"),
    Slip("GroupNorm has torch's epsilon", "model/masked_norm.py", "centred * torch.rsqrt(variance + norm.eps)",
         "centred * torch.rsqrt(variance + 1e-5)",
         "model/test_encoders.py::test_masked_group_norm_equals_the_stock_one_on_each_utterance_alone"),
    Slip("GroupNorm in bfloat16 has torch's epsilon", "model/masked_norm.py",
         "weight * (torch.rsqrt(variance + norm.eps)",
         "weight * (torch.rsqrt(variance + 1e-5)",
         "test_matrix_products.py::test_convolution_and_norm_in_one_product_equal_float32"),
    Slip("runs of channels need no contiguous frames", "model/temporal_shift.py",
         "if whole_runs and hidden_states.is_contiguous()", "if whole_runs",
         "model/test_temporal_shift.py::test_frames_that_are_not_contiguous_with_runs_of_64_channels"),
    Slip("no hessian through the shift", "model/temporal_shift.py",
         "transformed = torch._C._are_functorch_transforms_active()", "transformed = False",
         "model/test_temporal_shift.py::test_hessian_through_the_shift"),
    Slip("resampling aliases", "model/speech_input.py", 'quality="HQ"', 'quality="QQ"',
         "model/test_speech_input.py::test_a_tone_beyond_the_new_rates_half_is_filtered_out"),
    Slip("NaN is exported", "hub/onnx.py", "if not difference <= tolerance:", "if difference > tolerance:",
         "hub/test_onnx.py::test_weights_that_are_nan_are_not_exported"),
    Slip("one shape is checked of an export", "hub/onnx.py", "for frames in CHECKED:", "for frames in CHECKED[:1]:",
         "hub/test_onnx.py::test_the_check_finds_a_graph_that_is_wrong_at_some_shape"),
    Slip("an export leaves its LSTM in the model", "hub/onnx.py", "            setattr(module, name, lstm)",
         "            pass", "hub/test_onnx.py::test_exportable_changes_nothing_for_good"),
    Slip("an export leaves its attention in the model", "hub/onnx.py", "model.config._attn_implementation = chosen",
         "pass", "hub/test_onnx.py::test_tracing_leaves_the_model_as_it_was"),
    Slip("infinite samples pass the check of a corpus", "corpora/check.py", "not np.isfinite(samples).all()",
         "bool(np.isnan(samples).any())", "corpora/test_iemocap.py::test_broken_recordings_are_problems"),
    Slip("--evaluate_only writes the cards anew", "cli/training.py", "if main_process and not run_args.evaluate_only:",
         "if main_process:", "test_cli.py::test_train_predict_compare_and_evaluate"),
)  # fmt: skip
