"""Heads that are trained on each frame of joined utterances, and timelines that take what they tell of frames."""

import numpy as np
import pytest
import torch
from conftest import speech_batch, tiny_model
from huggingface_hub.errors import StrictDataclassError
from torch.nn.functional import cross_entropy

from shift_ser import ShiftForSequenceClassification, load_classifier
from shift_ser.inference.dialogs import evaluate_dialogs
from shift_ser.training.augmentation import MOST_JOINED, JoinedUtterances
from shift_ser.training.batching import DataCollatorForShift


@pytest.fixture(scope="module")
def trained(cross_validate, tmp_path_factory):
    """A run with labels of frames, focal so that the Trainer's own loss is taken; read only."""
    flags = ["--folds", 1, "--variant", "shiftcnn", "--frame_labels", "true", "--focal_gamma", 1]
    run = cross_validate(tmp_path_factory.mktemp("frames") / "out", *flags)
    return run, run.run()


def test_an_utterance_s_logits_are_the_mean_of_its_frames_alone_and_in_a_batch():
    model = tiny_model("shiftcnn", frame_labels=True)
    speech, mask = speech_batch([4000, 2500])
    with torch.no_grad():
        logits = model(speech, attention_mask=mask).logits
        frames = model.frame_logits(speech, mask)
        alone = model.frame_logits(speech[1:, :2500])[0]
    assert [len(rows) for rows in frames] == model.shift_ser.encoder._get_feat_extract_output_lengths(
        torch.tensor([4000, 2500])
    ).tolist()
    torch.testing.assert_close(torch.stack([rows.mean(dim=0) for rows in frames]), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(frames[1], alone, rtol=0, atol=1e-5)
    plain = tiny_model("shiftcnn")
    assert torch.equal(plain(speech, attention_mask=mask).logits, logits)


def test_joined_utterances_keep_each_frame_and_its_label_and_are_drawn_anew_in_each_epoch():
    frames = [torch.full((length, 2), float(row)) for row, length in enumerate((3, 5, 2, 4))]
    examples = [{"encoder_hidden_states": f, "labels": 3 - row} for row, f in enumerate(frames)]
    joined = JoinedUtterances(examples, seed=0)
    counts = set()
    for draw in range(20):
        example = joined(1, draw=draw)
        again = JoinedUtterances(examples, seed=0)(1, draw=draw)
        assert torch.equal(example["encoder_hidden_states"], again["encoder_hidden_states"])
        rows = example["encoder_hidden_states"][:, 0].long()
        assert torch.equal(example["labels"], 3 - rows) and rows[:5].tolist() == [1] * 5
        left, order = rows.tolist(), []
        while left:  # whole utterances, one behind the other
            order.append(left[0])
            assert left[: len(frames[left[0]])] == [left[0]] * len(frames[left[0]])
            left = left[len(frames[left[0]]) :]
        counts.add(len(order))
    assert counts == set(range(1, MOST_JOINED + 1))


def test_the_loss_is_the_mean_cross_entropy_of_the_frames_that_have_a_label():
    model = tiny_model("cnn", frame_labels=True, mask_time_prob=0.0)
    examples = [
        {"encoder_hidden_states": torch.randn(length, 96), "labels": torch.randint(4, (length,))} for length in (7, 4)
    ]
    batch = DataCollatorForShift()(examples)
    assert batch["labels"].shape == (2, 7) and (batch["labels"][1, 4:] == -100).all()
    with torch.no_grad():
        outputs = model(**batch)
        alone = [
            model(encoder_hidden_states=e["encoder_hidden_states"][None], labels=e["labels"][None]) for e in examples
        ]
    said = torch.cat([output.logits[0] for output in alone])
    wanted = cross_entropy(said, torch.cat([example["labels"] for example in examples]))
    torch.testing.assert_close(outputs.loss, wanted, rtol=1e-5, atol=1e-6)


def test_a_run_trains_on_joined_utterances_and_is_scored_on_single_ones(trained):
    run, results = trained
    assert np.isfinite([entry["loss"] for entry in results["folds"][0]["history"] if "loss" in entry]).all()
    folder = run.output_dir / "fold1"
    model = ShiftForSequenceClassification.from_pretrained(folder)
    assert model.config.frame_labels is True
    scores, _ = run.fold_runs[0].score(model)
    assert scores == results["folds"][0]["test"]


def test_frames_of_the_timeline_are_those_of_the_model(trained):
    """One window over a noise: each frame of the timeline has the probabilities of the model's frame at its middle."""
    run, _ = trained
    classifier = load_classifier(run.output_dir / "fold1", dtype="float32")
    speech = 0.1 * speech_batch([16000])[0][0].numpy()
    options = {"voice_activity": False, "chunk_length_s": 1.0, "return_frames": True}
    found = classifier.timeline(speech, **options)
    features = classifier.features([speech])
    rows = classifier.model.frame_logits(**features)[0].softmax(dim=-1).numpy()
    places = (found.times.mean(axis=1) * len(rows)).astype(int)
    np.testing.assert_allclose(found.scores, rows[places], atol=1e-6)
    windows = classifier.timeline(speech, frame_scores=False, **options)
    assert np.ptp(windows.scores, axis=0).max() < 1e-6 < np.ptp(found.scores, axis=0).max()


def test_dialogs_compare_frames_with_windows(trained, small_corpus):
    rows = evaluate_dialogs(trained[0].output_dir, small_corpus, step=1.0)
    assert {row["setting"] for row in rows} == {"4 s every 4 s", "frames of 4 s every 4 s", "turns given"}
    assert all(0 <= row["scores"]["frame_accuracy"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--scenario", "fine_tuning"], "frame_labels must go with frames that are kept"),
        (["--mixup_alpha", "0.2"], "frame_labels must be left out with mixup_alpha"),
        (["--max_batch_seconds", "30"], "frame_labels must be left out with .* batches of utterances of like length"),
    ],
)
def test_what_makes_no_sense_is_refused(flags, told, cross_validate, tmp_path):
    with pytest.raises(ValueError, match=told):
        cross_validate(tmp_path / "out", "--frame_labels", "true", *flags)


def test_frames_have_no_values_and_no_votes():
    with pytest.raises(StrictDataclassError, match="frame_labels must be False with problem_type 'regression'"):
        tiny_model(frame_labels=True, problem_type="regression", num_labels=3)
