"""Speech that is changed in training, and nowhere else."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fold import Stop, contents, with_callback  # noqa: F401
from torch.utils.data import DataLoader

from shift_ser.model.losses import classification_loss
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.augmentation import AUGMENTATIONS, Augmenter, mix_up, shift_pitch
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.cross_validation import CrossValidation

NAMES = [f"utterance {number}" for number in range(40)]
SPEECH = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
ALL = ["--augment", *AUGMENTATIONS]


def draws(*kinds, draw=0, names=NAMES, seed=0):
    augment = Augmenter(kinds, seed)
    return {name: augment(SPEECH, utterance=name, draw=draw) for name in names}


def same(one, other):
    return [np.array_equal(one[name], other[name]) for name in one]


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_kind_changes_half_of_the_utterances_anew_in_each_epoch_and_alike_in_any_order(kind):
    first = draws(kind)
    changed = [not np.array_equal(samples, SPEECH) for samples in first.values()]
    assert 10 <= sum(changed) <= 30  # of 40, each with a probability of one half
    assert all(same(first, draws(kind, names=NAMES[::-1])))
    assert not all(same(first, draws(kind, draw=1))) and not all(same(first, draws(kind, seed=1)))
    lengths = {len(samples) for samples in first.values()}
    assert (lengths != {8000}) == (kind == "speed")
    assert all(8000 / 1.1 - 1 <= length <= 8000 / 0.9 + 1 for length in lengths)
    assert all(samples.dtype == np.float32 and np.isfinite(samples).all() for samples in first.values())


def test_strengths_are_within_their_range():
    noise = [samples - SPEECH for samples in draws("noise").values() if not np.array_equal(samples, SPEECH)]
    ratios = [10 * np.log10((SPEECH**2).mean() / (part**2).mean()) for part in noise]
    assert 9.9 < min(ratios) < 15 and 25 < max(ratios) < 30.1
    gains = [20 * np.log10((samples**2).mean() / (SPEECH**2).mean()) / 2 for samples in draws("gain").values()]
    assert -10.01 < min(gains) < -5 and 5 < max(gains) < 10.01


@pytest.mark.parametrize("semitones", [-2, 1, 12])
def test_the_pitch_of_a_tone_moves_by_semitones_and_its_length_does_not(semitones):
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    shifted = shift_pitch(tone, 16000, None, (), semitones=semitones)
    loudest = np.abs(np.fft.rfft(shifted[2000:14000], 16000)).argmax()
    assert len(shifted) == 16000 and loudest == pytest.approx(440 * 2 ** (semitones / 12), abs=2)
    assert np.sqrt((shifted[2000:14000] ** 2).mean()) == pytest.approx(0.5**0.5, rel=0.2)


def test_what_is_not_among_the_kinds_changes_nothing():
    assert all(same(draws(), dict.fromkeys(NAMES, SPEECH)))


def epochs(dataset, *, workers=0):
    """The examples of three epochs."""
    loader = DataLoader(dataset, batch_size=4, collate_fn=list, num_workers=workers, persistent_workers=workers > 0)
    found = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        found.append([next(iter(example.values())) for example in itertools.chain(*loader)])
    return found


def equal(one, other):
    return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


def test_kept_frames_take_turns_and_what_is_scored_is_as_it_was(cross_validate, tmp_path):
    flags = ["--folds", 1, "--variant", "linear", "--augment", "noise", "speed", "--augment_variants", 2]
    run = cross_validate(tmp_path / "out", *flags)
    result = run.run()["folds"][0]
    corpus, fold = run.corpus, run.fold_runs[0]
    first, second, third = epochs(corpus.examples(fold.plan.train, augment=fold.augmenter), workers=1)
    assert all(equal(first, third)) and not all(equal(first, second))
    clean = [example["encoder_hidden_states"] for example in corpus.examples(fold.plan.train)]
    assert 0 < sum(equal(first, clean)) < len(clean)
    scored = cross_validate(tmp_path / "out", *flags, "--evaluate_only", "true")  # which hears nothing but clean speech
    assert scored.run()["folds"][0]["test"] == result["test"]
    for part in (fold.plan.validation, fold.plan.test):
        pairs = zip(corpus.examples(part), scored.corpus.examples(part), strict=True)
        assert all(torch.equal(a["encoder_hidden_states"], b["encoder_hidden_states"]) for a, b in pairs)
    with pytest.raises(ValueError, match=r"augment is .* there and None here"):
        cross_validate(tmp_path / "out", "--folds", 1, "--variant", "linear").run()


def test_waveforms_are_changed_anew_in_each_epoch_by_any_number_of_workers(cross_validate, tmp_path):
    run = cross_validate(tmp_path / "out", "--scenario", "fine_tuning", *ALL)
    fold = run.fold_runs[0]
    dataset = run.corpus.examples(fold.plan.train[:8], augment=fold.augmenter)
    alone = epochs(dataset)
    assert not any(equal(alone[0], alone[1]))
    assert all(all(equal(*pair)) for pair in zip(alone, epochs(dataset, workers=2), strict=True))
    audio = run.corpus.dataset[run.corpus.utterances.index(fold.plan.train[0])]["audio"]["array"]
    changed = fold.augmenter(audio, utterance=fold.plan.train[0], draw=1)
    wanted = run.corpus.feature_extractor(changed, sampling_rate=16000)["input_values"][0]
    np.testing.assert_array_equal(alone[1][0], wanted)


@pytest.mark.parametrize(
    "flags",
    [
        ["--augment_variants", 2, "--max_batch_seconds", 20],
        pytest.param(["--scenario", "fine_tuning"], marks=pytest.mark.slow),
    ],
    ids=["frozen", "fine-tuned"],
)
def test_a_fold_that_was_stopped_ends_like_one_that_was_not(flags, cross_validate, tmp_path, with_callback):  # noqa: F811
    flags = ["--folds", 1, "--variant", "linear", "--augment", "gain", "noise", "--mixup_alpha", 0.4, *flags]
    cross_validate(tmp_path / "whole" / "out", *flags).run()
    with with_callback(Stop(5)), pytest.raises(KeyboardInterrupt):
        cross_validate(tmp_path / "stopped" / "out", *flags).run()
    cross_validate(tmp_path / "stopped" / "out", *flags).run()
    whole, stopped = (contents(tmp_path / name / "out") for name in ("whole", "stopped"))
    assert {name for name in whole | stopped if whole.get(name) != stopped.get(name)} == set()


def test_mixup_mixes_frames_masks_and_labels_by_one_share():
    frames = [torch.full((length, 2), float(length)) for length in (3, 5, 2)]
    examples = [{"encoder_hidden_states": f, "labels": label} for f, label in zip(frames, (0, 2, 1), strict=True)]
    batch = DataCollatorForShift()(examples)
    np.random.seed(0)
    share, order = np.random.beta(0.5, 0.5), np.random.permutation(3)
    np.random.seed(0)
    mixed = mix_up(batch, alpha=0.5, classes=4)
    labels = [0, 2, 1]
    for row, other in enumerate(order):
        wanted = share * batch["encoder_hidden_states"][row] + (1 - share) * batch["encoder_hidden_states"][other]
        torch.testing.assert_close(mixed["encoder_hidden_states"][row], wanted)
        assert mixed["attention_mask"][row].sum() == max(len(frames[row]), len(frames[other]))
        target = np.zeros(4)
        target[labels[row]] += share
        target[labels[other]] += 1 - share
        assert mixed["labels"][row].tolist() == pytest.approx(target)
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    apart = [classification_loss(logits, torch.tensor(labels)[index]) for index in (slice(None), order)]
    mixture = share * apart[0] + (1 - share) * apart[1]
    torch.testing.assert_close(classification_loss(logits, mixed["labels"]), mixture)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--augment", "noise", "hall"], r"augment must be among \('noise', .*\), got 'hall'"),
        (["--augment_variants", "2"], "augment_variants must be left out: .* got 2"),
        (["--augment", "gain", "--augment_variants", "2", "--scenario", "fine_tuning"], "augment_variants must be"),
        (["--augment", "noise", "--augment_variants", "0"], "augment_variants must be at least 1 and finite, got 0"),
        (["--mixup_alpha", "-1"], "mixup_alpha must be at least 0 and finite, got -1"),
        (["--mixup_alpha", "0.2", "--problem_type", "regression"], "mixup_alpha must be 0 with problem_type 'regress"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(flags, told, tmp_path, encoder, small_corpus):
    words = ["--output_dir", tmp_path / "out", "--encoder", encoder, "--corpus", small_corpus, *flags]
    with pytest.raises(ValueError, match=told):
        CrossValidation(*parse_arguments([*map(str, words)]))


def test_the_page_has_a_row_for_each_kind():
    page = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text(encoding="utf-8")
    assert "\n".join(f"| `{kind}` | {entry.help} |" for kind, entry in AUGMENTATIONS.items()) in page
