"""What a step is timed on is what a run gives the model; all that changes how long it takes is timed by itself."""

import pytest
from spectrogram_encoders import CONFIGS, STOCK
from transformers import AutoModel

from shift_ser import ShiftForSequenceClassification
from shift_ser.studies.cost import time_model, timing
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.data import SpeechCorpus
from shift_ser.training.rehearsal import Rehearsal

FINE = ["--scenario", "fine_tuning"]


def test_what_changes_how_long_a_step_takes_is_timed_by_itself(encoder, small_corpus):
    timed = {}
    ways = [
        FINE, [*FINE, "--adapter", "lora"], [*FINE, "--adapter", "lora", "--adapter_rank", "2"],
        [*FINE, "--unfreeze_layers", "1"], [*FINE, "--cache_convolutions", "true"], [], ["--encoder_layer", "1"],
        ["--use_weighted_layer_sum", "true"], ["--problem_type", "multi_task"], ["--gradient_accumulation_steps", "2"],
    ]  # fmt: skip
    base = ["--encoder", str(encoder), "--variant", "shiftcnn", "--max_seconds", "0.2", "--use_cpu", "true"]
    base += ["--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2", "--output_dir", "nowhere"]
    for way in ways:
        arguments = parse_arguments([*base, *way])
        seconds = timing(timed, *arguments)
        assert min(seconds) > 0
        assert timing(timed, *parse_arguments([*base, *way, "--shift_proportion", "0.5"])) is seconds
    assert len(timed) == len(ways)


@pytest.mark.parametrize("family", ["whisper", "wav2vec2-bert"])
@pytest.mark.parametrize("way", [[], ["--use_weighted_layer_sum", "true"], FINE], ids=["frozen", "layers", "trained"])
def test_a_step_is_timed_on_what_a_run_gives_the_model(way, family, small_corpus, tmp_path):
    AutoModel.from_config(CONFIGS[family]).save_pretrained(tmp_path)
    STOCK[family].save_pretrained(tmp_path)
    arguments = parse_arguments([
        "--encoder", str(tmp_path), "--max_seconds", "0.5", "--corpus", str(small_corpus), "--output_dir", "nowhere",
        "--cache_dir", str(tmp_path / "frames"), "--use_cpu", "true", "--per_device_train_batch_size", "2", *way,
    ])  # fmt: skip
    corpus = SpeechCorpus(*arguments[:2])
    model_args, data_args, run_args = arguments
    model = ShiftForSequenceClassification.from_encoder_pretrained(tmp_path, **model_args.config_options())
    rehearsal = Rehearsal(
        model, model_args=model_args, data_args=data_args, run_args=run_args, feature_extractor=corpus.feature_extractor
    )
    batch = rehearsal.batch(1, rehearsal.speech(data_args.max_seconds))
    if model.config.freeze_encoder:
        corpus.encode(rehearsal.encoder, output=model.config.encoder_output)
    longest = max(corpus.recordings, key=lambda name: corpus.recordings[name].num_samples)
    given = DataCollatorForShift()([corpus.examples([longest])[0]])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        name: tuple(value.shape) for name, value in given.items()
    }
    assert min(time_model(*arguments)) > 0
