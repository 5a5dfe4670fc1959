"""How the synthetic corpus speaks: voices, sentences, and what an emotion does to a sentence.

The recipe has two axes. *Arousal* changes rate, pitch, pitch range and volume, as in speech; it is easily heard in
averages over time. *Valence* leaves almost no trace there: it is the direction in which a formant bump sweeps, three
times a second, so only a model that knows the order of the frames can tell it. Everything here is synthetic: rules
and formant tables, nobody's feelings.
"""

import ctypes
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

SAMPLING_RATE = 16000  # Hz, of everything that leaves this module

_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8, _POS_CHARACTER = 2, 0x8000, 1, 1
_PARAMETERS = {"rate": (1, 80, 450), "volume": (2, 0, 200), "pitch": (3, 0, 99), "pitch_range": (4, 0, 99)}
_LONGEST_PATH = 150  # characters; espeak-ng cannot hold the name of a data folder of 160
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """One synthesiser with a fresh state: the same calls in the same order give the same samples, bit for bit.

    espeak-ng seeds its breath noise from the clock, and keeps the state of its flutter in the shared library for as
    long as the process lives. Each `Espeak` therefore sets the seed and loads a copy of the library of its own; make
    one per corpus, not one per sentence.

    Raises:
        ImportError: If `espeakng-loader` is not installed.
        RuntimeError: If espeak-ng cannot start with the data of the wheel.

    Example:
        >>> espeak = Espeak()
        >>> speech = espeak.speak("The train leaves at nine.", voice="en-us+f1")
        >>> speech.dtype, speech.ndim, 1.0 < len(speech) / SAMPLING_RATE < 3.0
        (dtype('float32'), 1, True)
    """

    def __init__(self) -> None:
        """Load a private copy of the library and initialise it."""
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError('synthetic speech needs espeak-ng: pip install "shift-ser[demo]"') from error
        folder = Path(tempfile.mkdtemp(prefix="espeak-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._data = Path(espeakng_loader.get_data_path())
        if len(str(self._data)) >= _LONGEST_PATH:
            self._data = folder / "espeak-ng-data"
            self._data.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
        self._library = ctypes.CDLL(str(shutil.copy(espeakng_loader.get_library_path(), folder)))
        self._native_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), _DO_NOT_EXIT)
        if self._native_rate <= 0:
            raise RuntimeError(f"espeak-ng could not start with the data folder {self._data}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._chunks: list[bytes] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def speak(
        self, text: str, *, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50, volume: int = 100
    ) -> np.ndarray:
        """Speak one text.

        Args:
            text: What to say.
            voice: espeak-ng language with a variant, such as `"en-us+f1"`.
            rate: Words per minute, 80 to 450.
            pitch: Base pitch, 0 to 99 (50 is the voice's own).
            pitch_range: How far the pitch moves, 0 (monotone) to 99.
            volume: 0 to 200 (100 is the voice's own).

        Returns:
            Speech, float32, shape `(samples,)`, mono, 16 kHz, full scale 1.

        Raises:
            ValueError: If the text has nothing to say, the voice does not exist or a setting is out of its range.
        """
        self._set_voice(voice)
        for name, value in {"rate": rate, "pitch": pitch, "pitch_range": pitch_range, "volume": volume}.items():
            number, low, high = _PARAMETERS[name]
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low} and {high}, got {value!r}")
            self._library.espeak_SetParameter(number, int(value), 0)
        self._chunks.clear()
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, _POS_CHARACTER, 0, _UTF8, None, None)
        samples = np.frombuffer(b"".join(self._chunks), dtype=np.int16).astype(np.float32) / 32768
        if not samples.any():
            raise ValueError(f"text must have something to say, got {text!r}")
        return soxr.resample(samples, self._native_rate, SAMPLING_RATE, quality="HQ")

    def _set_voice(self, voice: str) -> None:
        variant = voice.partition("+")[2]  # an unknown variant is silently dropped by the library
        known = not variant or (self._data / "voices" / "!v" / variant).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f'voice must be an espeak-ng language with a variant, such as "en-us+f1", got {voice!r}')


# The real speaker of IEMOCAP's layout -> an espeak-ng voice: ten variants of one accent.
VOICES = {
    "Ses01F": "en-us+f1",
    "Ses01M": "en-us+m1",
    "Ses02F": "en-us+f2",
    "Ses02M": "en-us+m2",
    "Ses03F": "en-us+f3",
    "Ses03M": "en-us+m3",
    "Ses04F": "en-us+f4",
    "Ses04M": "en-us+m4",
    "Ses05F": "en-us+f5",
    "Ses05M": "en-us+m7",
}
# The same speakers with another accent and other throats: for testing on voices that no training has heard.
OTHER_VOICES = {
    "Ses01F": "en-gb-scotland+linda",
    "Ses01M": "en-gb-scotland+adam",
    "Ses02F": "en-gb-scotland+steph",
    "Ses02M": "en-gb-scotland+david",
    "Ses03F": "en-gb-scotland+anika",
    "Ses03M": "en-gb-scotland+edward",
    "Ses04F": "en-gb-scotland+belinda",
    "Ses04M": "en-gb-scotland+boris",
    "Ses05F": "en-gb-scotland+Alicia",
    "Ses05M": "en-gb-scotland+travis",
}

# Said with every emotion alike: the words tell nothing.
SENTENCES = (
    "The train leaves at nine from the other platform.",
    "There is a letter for you on the kitchen table.",
    "They painted the door green last summer.",
    "I think the meeting has been moved to Thursday.",
    "The shop around the corner sells bread and milk.",
    "She put the keys into the top drawer.",
    "We walked along the river until it got dark.",
    "He told me about the house on the hill.",
    "The number of the room is twenty four.",
    "You can leave your coat in the hall.",
    "My brother works in the office next to mine.",
    "It takes an hour to get there by bus.",
    "The children have gone to the park with her.",
    "I will call you back in the afternoon.",
    "The new road goes right through the village.",
    "Nobody has used this computer since Monday.",
    "There are seven chairs and only one table.",
    "The man at the counter wrote down my name.",
    "We could meet in front of the library.",
    "I have read the first half of the report.",
)

# Original label -> signs of the mean arousal and valence; a sign of 0 is drawn by chance (nobody agreed on those).
EMOTION_SIGNS = {
    "ang": (1, -1),
    "hap": (1, 1),
    "exc": (1, 1),
    "neu": (-1, 1),
    "sad": (-1, -1),
    "fru": (1, -1),
    "xxx": (0, 0),
}

AROUSAL_MEAN, VALENCE_MEAN, SPREAD = 1.0, 0.3, 0.7
CUE_FLIPPED = 0.1  # share of utterances whose sweep goes against their valence
NOISE_DB = 20.0  # signal-to-noise ratio
HEADROOM = 0.25  # leaves room for the bump at the loudest setting


@dataclass(frozen=True)
class Expression:
    """How one utterance is to be said.

    Attributes:
        arousal: About -3 (calm) to 3 (excited).
        valence: About -3 (unpleasant) to 3 (pleasant).
        sweep: Direction of the formant bump, 1 up or -1 down.
    """

    arousal: float
    valence: float
    sweep: int


def draw_expression(emotion: str, *, order_cue: bool = True, rng: np.random.Generator) -> Expression:
    """Draw how an utterance of an emotion is said.

    The sweep follows the sign of the emotion's *mean* valence (the class), not of the drawn value: the drawn one is
    on the class's side only two times in three and would cap what any model could reach.

    Args:
        emotion: One of `EMOTION_SIGNS`.
        order_cue: Whether the sweep tells the valence (but for `CUE_FLIPPED`); otherwise it is drawn by chance.
        rng: Source of chance.
    """
    arousal_sign, valence_sign = (sign or rng.choice([-1, 1]) for sign in EMOTION_SIGNS[emotion])
    flipped = rng.random() < (CUE_FLIPPED if order_cue else 0.5)
    return Expression(
        arousal=float(arousal_sign * AROUSAL_MEAN + SPREAD * rng.standard_normal()),
        valence=float(valence_sign * VALENCE_MEAN + SPREAD * rng.standard_normal()),
        sweep=int(-valence_sign if flipped else valence_sign),
    )


def say(espeak: Espeak, text: str, *, voice: str, expression: Expression, rng: np.random.Generator) -> np.ndarray:
    """Speak a sentence with an expression: espeak's settings, then the bump, then noise.

    Returns:
        Speech, float32, shape `(samples,)`, 16 kHz, within [-1, 1].
    """
    a, v = expression.arousal, expression.valence
    jitter = rng.standard_normal(4)
    speech = espeak.speak(
        text,
        voice=voice,
        rate=round(float(np.clip(170 + 22 * a + 6 * jitter[0], 80, 450))),
        pitch=round(float(np.clip(50 + 9 * a + 3 * v + 4 * jitter[1], 0, 99))),
        pitch_range=round(float(np.clip(50 + 12 * a + 10 * v + 4 * jitter[2], 0, 99))),
        volume=round(float(np.clip(95 + 22 * a + 6 * jitter[3], 0, 200))),
    )
    swept = sweep_bump(speech, direction=expression.sweep, phase=rng.random())
    return np.clip(HEADROOM * add_noise(swept, snr_db=NOISE_DB, rng=rng), -1, 1)


def sweep_bump(
    speech: np.ndarray,
    *,
    direction: int,
    phase: float,
    gain_db: float = 15.0,
    lowest_hz: float = 350.0,
    octaves: float = 3.0,
    sweeps_per_second: float = 3.0,
    width_octaves: float = 0.35,
) -> np.ndarray:
    """Boost a band that sweeps up, or down, again and again; the average over time is the same for both.

    Args:
        speech: Shape `(samples,)`, 16 kHz.
        direction: 1 sweeps up, -1 down.
        phase: Where in a sweep the utterance starts, in [0, 1).
        gain_db: Boost at the bump's centre.
        lowest_hz: Lower end of the sweep.
        octaves: Span of the sweep.
        sweeps_per_second: How often it starts over.
        width_octaves: Standard deviation of the bump (Gaussian over log frequency).

    Returns:
        New float32 array of the same shape.

    Raises:
        ValueError: If the direction is neither 1 nor -1.

    Example:
        >>> silence = np.zeros(8000, np.float32)
        >>> sweep_bump(silence, direction=1, phase=0.0).shape
        (8000,)
    """
    if direction not in (1, -1):
        raise ValueError(f"direction must be 1 (up) or -1 (down), got {direction!r}")
    size, hop = 512, 128
    window = np.hanning(size + 1)[:-1]  # overlapping four times, its square sums to 1.5
    padded = np.pad(speech, (size, size + -len(speech) % hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    seconds = (np.arange(len(frames)) * hop - size / 2) / SAMPLING_RATE
    position = (direction * sweeps_per_second * seconds + phase) % 1.0
    pitch = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLING_RATE), 1.0) / lowest_hz)
    bump = np.exp(-0.5 * ((pitch - octaves * position[:, None]) / width_octaves) ** 2)
    frames = np.fft.irfft(np.fft.rfft(frames) * 10 ** (gain_db * bump / 20)) * window / 1.5
    swept = np.zeros(len(padded))
    for index, frame in enumerate(frames):
        swept[index * hop : index * hop + size] += frame
    return swept[size : size + len(speech)].astype(np.float32)


def add_noise(speech: np.ndarray, *, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise at a signal-to-noise ratio in dB to speech of shape `(samples,)`; returns a new float32 array."""
    level = np.sqrt(np.mean(np.square(speech, dtype=np.float64))) * 10 ** (-snr_db / 20)
    return (speech + level * rng.standard_normal(len(speech))).astype(np.float32)
