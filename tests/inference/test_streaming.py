"""Streams: any pieces give the same answers, those of the stated context; what is refused."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soxr
import torch
from conftest import tiny_model
from transformers import pipeline

from shift_ser import ShiftAudioClassificationPipeline, ShiftFeatureExtractor
from shift_ser.corpora.synthetic_speech import SENTENCES, Espeak
from shift_ser.inference.streaming import StreamOptions, _Pool

RATE, HOP, FIELD = 16000, 320, 325  # of the tiny encoder
LABELS = ["angry", "happy", "neutral", "sad"]
HEARD = {"context_s": 0.5, "look_ahead_s": 0.1, "step_s": 0.2, "voice_activity": False}


def make_classifier(variant, **options):
    ids = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    model = tiny_model(variant, **ids, **options)
    model.classifier.weight.data *= 20
    return pipeline(
        "audio-classification", model=model, device="cpu", top_k=None, feature_extractor=ShiftFeatureExtractor(),
        pipeline_class=ShiftAudioClassificationPipeline,
    )  # fmt: skip


@pytest.fixture(scope="module")
def causal():
    return make_classifier("shiftcnn", causal=True, temperature=3.0)


@pytest.fixture(scope="module")
def plain():
    return make_classifier("shiftcnn")


def noise(seconds, *, seed=0):
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.01, 0.3, int(seconds * 10) + 1), RATE // 10)[: int(seconds * RATE)]
    return (loudness * rng.normal(0, 1, len(loudness))).astype(np.float32)


def listen(classifier, pieces, **options):
    stream = classifier.stream(**{**HEARD, **options})
    updates = [update for piece in pieces for update in stream.push(piece)]
    return updates + stream.flush()


def in_pieces(speech, rng):
    cuts = np.sort(rng.integers(0, len(speech), rng.integers(0, 9)))
    return np.split(speech, cuts)


def same(found, expected, tolerance=0.0):
    assert [update.time for update in found] == [update.time for update in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=tolerance)


@torch.no_grad()
def by_hand(classifier, speech, *, context, look_ahead, step):
    """Pooled scores after each step, from the definition: clips through the model, new frames, one head over all."""
    model, taken, clips, ends = classifier.model, 0, [], []
    for end in [*range(step, len(speech), step), len(speech)]:
        start = -(-max(0, end - context) // HOP) * HOP
        upto = (end - (0 if end == len(speech) else look_ahead) - FIELD) // HOP + 1
        if upto > taken:
            states = model.base_model(**classifier.features([speech[start:end]]), output_hidden_states=True)
            frames = states.hidden_states[0] if model.config.causal else states.last_hidden_state
            clips.append(frames[:, taken - start // HOP : upto - start // HOP])
            taken = upto
        ends.append(taken)
    frames = torch.cat(clips, dim=1)
    output = model.base_model.head(frames, None)[0] if model.config.causal else frames
    return [model.classifier(output[:, :end].mean(dim=1)).softmax(dim=-1)[0].numpy() for end in ends]


@pytest.mark.parametrize("which", ["causal", "plain"])
def test_a_stream_scores_what_is_stated(which, request):
    classifier, speech = request.getfixturevalue(which), noise(1.17)
    expected = by_hand(classifier, speech, context=8000, look_ahead=1600, step=3200)
    found = listen(classifier, [speech])
    assert len(found) == len(expected) == 6
    for update, scores in zip(found, expected, strict=True):
        told = [update.scores[label] for label in LABELS]
        np.testing.assert_allclose(told, scores, rtol=0, atol=1e-5)
    assert [round(update.heard, 2) for update in found] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.17]
    assert found[-1].label == max(found[-1].scores, key=found[-1].scores.get)


@pytest.mark.parametrize("which", ["causal", "plain"])
def test_pieces_of_any_length_give_the_same(which, request):
    classifier, speech, rng = request.getfixturevalue(which), noise(1.1, seed=1), np.random.default_rng(0)
    whole = listen(classifier, [speech])
    for _ in range(8):
        same(listen(classifier, in_pieces(speech, rng)), whole)
    same(listen(classifier, np.split(speech, range(160, len(speech), 160)), half_life_s=0.3),
         listen(classifier, [speech], half_life_s=0.3))  # fmt: skip


def test_a_context_as_long_as_the_clip_gives_the_scores_of_the_clip(causal, plain):
    speech = noise(0.9, seed=2)
    for classifier in (causal, plain):
        (update,) = listen(classifier, [speech], context_s=3, step_s=2)
        alone = {entry["label"]: entry["score"] for entry in classifier(speech)}
        assert update.scores == pytest.approx(alone, abs=1e-5)
    (update,) = listen(causal, [speech], context_s=3, step_s=2, calibrated=True)
    alone = {entry["label"]: entry["score"] for entry in causal(speech, calibrated=True)}
    assert update.scores == pytest.approx(alone, abs=1e-5)


def test_streams_side_by_side_leave_each_other_alone(causal):
    speech = [noise(1.0, seed=seed) for seed in range(4)]
    alone = [listen(causal, [each]) for each in speech]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda each: listen(causal, np.split(each, 10)), speech))
    for found, expected in zip(together, alone, strict=True):
        same(found, expected)


def test_memory_is_that_of_the_context(causal):
    stream = causal.stream(**HEARD)
    for _ in range(30):
        stream.push(noise(0.3))
    assert stream._first + len(stream._held) == 30 * 4800 and len(stream._held) <= 8000


def test_other_rates_types_and_channels(causal):
    speech = 0.5 * noise(1.0, seed=3)
    whole = np.round(speech * 32767).astype(np.int16)
    stereo = np.stack([whole, whole], axis=1)
    same(listen(causal, [stereo]), listen(causal, [whole / np.float32(32768)]), 1e-6)
    high = soxr.resample(speech, RATE, 48000)
    for pieces in ([high], np.split(high, range(999, len(high), 999))):
        found = listen(causal, pieces, sampling_rate=48000)
        expected = listen(
            causal, [soxr.ResampleStream(48000, RATE, 1).resample_chunk(high.astype(np.float32), last=True)]
        )
        same(found, expected, 1e-4)
    for rate in (8000, 96000):
        (*_, last) = listen(causal, [soxr.resample(speech, RATE, rate)], sampling_rate=rate)
        assert last.heard == pytest.approx(1.0, abs=1e-3)


def test_frames_without_a_voice_do_not_count(causal):
    voice = {"voice_activity": True, "step_s": 0.3, "context_s": 1.0}
    silent = listen(causal, [np.zeros(RATE, np.float32)], **voice)
    assert all(update.scores is None and update.label is None and not update.voice for update in silent)
    spoken = 0.3 * Espeak().speak(SENTENCES[0], voice="en-us+f1")
    speech = np.concatenate([np.zeros(RATE, np.float32), spoken, np.zeros(RATE, np.float32)])
    found = listen(causal, [speech], **voice)
    scored = [update for update in found if update.scores]
    assert not found[0].scores and found[-len(scored) :] == scored and any(update.voice for update in scored)
    assert not found[-1].voice and found[-1].scores == scored[-2].scores, "silence forgets nothing"
    same(listen(causal, in_pieces(speech, np.random.default_rng(1)), **voice)[-len(scored) :], scored)


def test_exponential_pooling_is_the_weighted_mean():
    frames, pool = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double(), _Pool(0.7)
    for start, end in ((0, 4), (4, 4), (4, 9)):
        pool.add(frames[start:end])
    weights = 0.7 ** torch.arange(8, -1, -1).double()
    torch.testing.assert_close(pool.mean(), (weights[:, None] * frames).sum(0) / weights.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_s": 0.3}, "context_s must be at least 0.34: a step (0.2), the look-ahead (0.1) and a frame"),
        ({"look_ahead_s": -1}, "look_ahead_s must be a number of at least 0, got -1"),
        ({"step_s": 0}, "step_s must be a number above 0, got 0"),
        ({"half_life_s": float("nan")}, "half_life_s must be a number above 0, got nan"),
        ({"onset": 2}, "onset must be from 0 to 1, got 2"),
        ({"chunk": 1}, "options must be some of context_s, look_ahead_s, step_s"),
        ({"sampling_rate": 10}, "the stream must have a sampling rate that is a number from"),
    ],
)
def test_wrong_options_are_refused(causal, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        causal.stream(**{**HEARD, **options})


def test_wrong_samples_are_refused(causal):
    for samples, message in (
        ([0.0, float("nan")], "the stream must hold finite samples only, got 1 NaN"),
        (np.zeros(4, np.int64), "the stream is int64"),
        (np.full(4, 1e30), "the stream must hold samples within"),
    ):
        with pytest.raises(ValueError, match=message):
            causal.stream(**HEARD).push(samples)
    stream = causal.stream(**HEARD)
    with pytest.raises(ValueError, match="a stream must hold at least one sample, got none"):
        stream.flush()
    with pytest.raises(ValueError, match="a stream that was flushed must not be pushed to"):
        stream.push(np.zeros(3))
    with pytest.raises(ValueError, match="a stream must be flushed once"):
        stream.flush()
    (update,) = listen(causal, [np.full(7, 0.1, np.float32)])
    assert update.heard == 7 / RATE and update.scores
    fixed = make_classifier("cnn")
    fixed.feature_extractor.fixed_length = 8000
    with pytest.raises(ValueError, match="got one with fixed_length"):
        fixed.stream(**HEARD)


def test_defaults_say_how_far_scores_are_behind():
    options = StreamOptions()
    assert (options.context_s, options.look_ahead_s, options.step_s, options.half_life_s) == (4.0, 0.4, 0.5, None)


def test_the_context_that_the_message_asks_for_is_taken(plain):
    with pytest.raises(ValueError, match="context_s must be at least") as told:
        plain.stream(context_s=0.1, step_s=0.25, look_ahead_s=0.1, voice_activity=False)
    least = float(re.search(r"at least ([0-9.]+)", str(told.value))[1])
    assert (
        plain.stream(context_s=least, step_s=0.25, look_ahead_s=0.1, voice_activity=False).push(np.zeros(16000))
        is not None
    )
