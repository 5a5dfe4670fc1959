import numpy as np
import pytest

from shift_ser.evaluation.robustness import CLEAN, CONDITIONS

RATE = 16000


def speech(seconds=1.5, *, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * hertz * time) for hertz in (150, 450, 1200))
    return (0.1 * tone + 0.005 * rng.standard_normal(len(time))).astype(np.float32)


OTHERS = [speech(length, seed=seed) for seed, length in enumerate((0.7, 1.1, 2.0, 0.9, 1.3, 1.8), start=1)]


def change(name, samples=None, *, utterance="a", seed=0, others=OTHERS):
    samples = speech() if samples is None else samples
    return CONDITIONS[name](samples, sampling_rate=RATE, utterance=utterance, seed=seed, others=others)


def db(signal):
    return 10 * np.log10(np.mean(np.asarray(signal, dtype=float) ** 2))


@pytest.mark.parametrize("name", CONDITIONS)
def test_what_is_drawn_depends_on_seed_and_utterance_alone(name):
    first = change(name)
    assert first.dtype == np.float32 and first.ndim == 1 and np.isfinite(first).all()
    change(name, utterance="b")
    np.testing.assert_array_equal(change(name), first)
    if CONDITIONS[name].kind in ("white noise", "babble", "reverberation"):
        for other in (change(name, utterance="b"), change(name, seed=1)):
            assert (other != first).mean() > 0.9
    silent = change(name, np.zeros(RATE, dtype=np.float32))
    assert np.isfinite(silent).all() and abs(silent).max() < 1e-3


@pytest.mark.parametrize("name", [name for name in CONDITIONS if CONDITIONS[name].unit == "dB"])
def test_decibels_are_those_that_are_promised(name):
    clean, changed, value = speech(), change(name), CONDITIONS[name].value
    if CONDITIONS[name].kind == "level":
        assert db(changed) - db(clean) == pytest.approx(value, abs=1e-3)
    elif CONDITIONS[name].kind == "clipping":
        assert 20 * np.log10(abs(clean).max() / abs(changed).max()) == pytest.approx(value, abs=1e-3)
        kept = abs(clean) < abs(changed).max()
        np.testing.assert_array_equal(changed[kept], clean[kept])
    else:
        assert db(clean) - db(changed.astype(float) - clean) == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("name", CONDITIONS)
def test_lengths_are_those_that_are_promised(name):
    kind, value, samples = CONDITIONS[name].kind, CONDITIONS[name].value, speech()
    length = {"speed": len(samples) / (value or 1), "cut": min(len(samples), RATE * (value or 1))}.get(kind)
    assert len(change(name)) == pytest.approx(len(samples) if length is None else length, abs=1)


def test_clean_changes_nothing_and_noise_of_all_strengths_is_the_same_noise():
    np.testing.assert_array_equal(change(CLEAN), speech())
    loud, soft = change("white_noise_0_dB") - speech(), change("white_noise_20_dB") - speech()
    np.testing.assert_allclose(loud / 10, soft, atol=1e-6)


def test_a_speed_changes_the_pitch_and_a_band_takes_what_is_above_it():
    def loudest(samples):
        return RATE * abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() / len(samples)

    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    assert loudest(change("speed_1.25_x", tone)) == pytest.approx(1250, abs=2)
    high = np.sin(2 * np.pi * 6000 * np.arange(RATE) / RATE).astype(np.float32)
    for name in ("band_8_kHz", "G.711_mu-law", "G.711_A-law"):
        assert db(change(name, high)) < db(high) - 30
        assert db(change(name, tone) - tone) < db(tone) - 20


@pytest.mark.parametrize("name", ["MP3", "Opus", "Vorbis"])
def test_a_codec_changes_speech_a_little_and_keeps_its_place(name):
    clean = speech()
    coded = change(name, clean)
    products = np.correlate(coded[4000:12000], clean[3500:12500])
    assert abs(int(products.argmax()) - 500) <= 1  # no delay
    assert -60 < db(coded - clean) - db(clean) < -5


def test_reverberation_has_as_much_energy_in_its_tail_and_falls_as_promised():
    impulse = np.zeros(2 * RATE, dtype=np.float32)
    impulse[0] = 1
    for seconds in (0.3, 0.6, 1.2):
        response = change(f"reverberation_{seconds}_s", impulse).astype(float)
        assert response[0] == pytest.approx(1, abs=1e-5) and (response[1:] ** 2).sum() == pytest.approx(1, rel=1e-3)
        early, late = (db(response[round(share * seconds * RATE) :][:800]) for share in (0.1, 0.6))
        assert early - late == pytest.approx(30, abs=3)


def test_babble_needs_others():
    with pytest.raises(ValueError, match="utterances of other speakers for babble, got none"):
        change("babble_0_dB", others=[])
