"""CONDITIONS: what may happen to speech before a model hears it, as functions of waveforms, each with a promise."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile as sf
import soxr
from scipy.signal import fftconvolve

CLEAN = "clean"
NUM_TALKERS = 5
_PEAK = 0.99  # of what goes into a codec, which has no room above full scale

# Samples (float32, full scale 1), their rate in Hz, the utterance's random numbers, and utterances of other speakers.
Change = Callable[[np.ndarray, int, np.random.Generator, Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Condition:
    """An entry of `CONDITIONS`.

    Attributes:
        name: Its key, also the name of its folder.
        kind: Which curve it is a point of.
        value: Where on the curve; `None` where there is no scale.
        unit: Of the value.
        change: What it does to samples.
        help: One sentence for tables and documentation.
    """

    name: str
    kind: str
    value: float | None
    unit: str
    change: Change
    help: str

    def __call__(
        self, samples: np.ndarray, *, sampling_rate: int, utterance: str, seed: int, others: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """The changed samples, float32; the same for the same utterance and seed, whatever was changed before.

        Args:
            samples: Shape `(samples,)`, full scale 1.
            sampling_rate: In Hz.
            utterance: Its name; with the seed it draws the random numbers.
            seed: Any number.
            others: Utterances of other speakers; babble is made of them.
        """
        digest = hashlib.sha256(f"{seed} {self.kind} {utterance}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        changed = self.change(np.asarray(samples, dtype=np.float32), sampling_rate, rng, others)
        return np.ascontiguousarray(changed, dtype=np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, *, snr: float) -> np.ndarray:
    """Samples with noise whose power is `snr` dB below theirs, both over the whole utterance; silence stays as it is.

    Example:
        >>> mixed = add_noise(np.ones(4), np.array([2.0, -2.0, 2.0, -2.0]), snr=20)
        >>> mixed.round(6).tolist()
        [1.1, 0.9, 1.1, 0.9]
    """
    power, other = float(np.mean(samples.astype(float) ** 2)), float(np.mean(noise.astype(float) ** 2))
    if power == 0 or other == 0:
        return samples
    return samples + noise * np.sqrt(power / other / 10 ** (snr / 10))


def white_noise(samples: np.ndarray, rate: int, rng: np.random.Generator, others: object, *, snr: float) -> np.ndarray:
    """White noise, `snr` dB below the speech."""
    return add_noise(samples, rng.standard_normal(len(samples)), snr=snr)


def _babble(
    samples: np.ndarray, rate: int, rng: np.random.Generator, others: Sequence[np.ndarray], *, snr: float
) -> np.ndarray:
    """Talkers of equal power, each begun anywhere in its utterance and repeated to the length."""
    if not others:
        raise ValueError("others must hold utterances of other speakers for babble, got none")
    noise = np.zeros(len(samples))
    for index in rng.choice(len(others), size=min(NUM_TALKERS, len(others)), replace=False):
        talker = np.roll(others[index].astype(float), rng.integers(len(others[index])))
        power = np.sqrt(np.mean(talker**2))
        noise += np.resize(talker / power if power else talker, len(samples))
    return add_noise(samples, noise, snr=snr)


def reverberate(samples: np.ndarray, rate: int, rng: np.random.Generator, others: object, *, t60: float) -> np.ndarray:
    """Direct sound and a tail of as much energy, noise that falls by 60 dB in `t60` seconds; the length stays."""
    time = np.arange(round(t60 * rate)) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60)
    tail[0] = 0
    response = tail / np.sqrt((tail**2).sum())
    response[0] = 1
    return fftconvolve(samples, response)[: len(samples)]


def _narrow(samples: np.ndarray, rate: int, rng: object, others: object) -> np.ndarray:
    return fit(soxr.resample(soxr.resample(samples, rate, 8000), 8000, rate), len(samples))


def _code(samples: np.ndarray, rate: int, rng: object, others: object, *, format: str, subtype: str) -> np.ndarray:
    """Through a codec at its default rate and back; what is louder than full scale is turned down for it."""
    gain = min(1.0, _PEAK / max(float(abs(samples).max(initial=0)), 1e-9))
    file = io.BytesIO()
    sf.write(file, samples * gain, rate, format=format, subtype=subtype)
    file.seek(0)
    return fit(sf.read(file, dtype="float32")[0] / gain, len(samples))


def _telephone(samples: np.ndarray, rate: int, rng: object, others: object, *, subtype: str) -> np.ndarray:
    low = soxr.resample(samples, rate, 8000)
    return fit(soxr.resample(_code(low, 8000, rng, others, format="WAV", subtype=subtype), 8000, rate), len(samples))


def change_level(samples: np.ndarray, rate: int, rng: object, others: object, *, db: float) -> np.ndarray:
    """A plain gain, without clipping."""
    return samples * 10 ** (db / 20)


def _clip(samples: np.ndarray, rate: int, rng: object, others: object, *, db: float) -> np.ndarray:
    limit = abs(samples).max(initial=0) * 10 ** (-db / 20)
    return samples.clip(-limit, limit)


def change_speed(samples: np.ndarray, rate: int, rng: object, others: object, *, factor: float) -> np.ndarray:
    """As a tape that runs at another speed: pitch changes too."""
    return soxr.resample(samples, round(rate * factor), rate)


def _cut(samples: np.ndarray, rate: int, rng: object, others: object, *, seconds: float) -> np.ndarray:
    return samples[: round(seconds * rate)]


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Samples cut or filled with zeros to a length."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _same(samples: np.ndarray, rate: int, rng: object, others: object) -> np.ndarray:
    return samples


def _table() -> dict[str, Condition]:
    found = [Condition(CLEAN, CLEAN, None, "", _same, "the recording as it is")]

    def add(kind: str, unit: str, values: Sequence[float], change: Callable[..., np.ndarray], option: str, text: str):  # type: ignore[no-untyped-def]
        for value in values:
            name = f"{kind} {value:g} {unit}".strip().replace(" ", "_")
            found.append(Condition(name, kind, value, unit, partial(change, **{option: value}), text))

    add("white noise", "dB", (20, 10, 5, 0), white_noise, "snr", "white noise; signal-to-noise ratio of the utterance")
    add("babble", "dB", (20, 10, 5, 0), _babble, "snr", f"{NUM_TALKERS} utterances of other speakers at once")
    add("reverberation", "s", (0.3, 0.6, 1.2), reverberate, "t60", "synthetic exponential decay; time to fall by 60 dB")
    add("level", "dB", (-30, -20, -10, 10, 20), change_level, "db", "a plain gain, without clipping")
    add("clipping", "dB", (6, 12, 20), _clip, "db", "cut off so far below the utterance's peak")
    add("speed", "x", (0.8, 0.9, 1.1, 1.25), change_speed, "factor", "faster or slower, with its pitch")
    add("cut", "s", (0.5, 1, 2, 4), _cut, "seconds", "its first seconds alone")
    found.append(Condition("band_8_kHz", "telephone and codecs", None, "8 kHz", _narrow, "resampled to 8 kHz and back"))
    for name, kind, subtype in (("MP3", "MP3", "MPEG_LAYER_III"), ("Opus", "OGG", "OPUS"), ("Vorbis", "OGG", "VORBIS")):
        code = partial(_code, format=kind, subtype=subtype)
        if subtype in sf.available_subtypes(kind) if kind in sf.available_formats() else False:
            found.append(Condition(name, "telephone and codecs", None, name, code, "coded and decoded by libsndfile"))
    for name, subtype in (("G.711_mu-law", "ULAW"), ("G.711_A-law", "ALAW")):
        call = partial(_telephone, subtype=subtype)
        found.append(
            Condition(name, "telephone and codecs", None, name.replace("_", " "), call, "8 kHz, as by telephone")
        )
    return {condition.name: condition for condition in found}


CONDITIONS = _table()
