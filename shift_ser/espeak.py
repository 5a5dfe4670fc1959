"""A thin binding to espeak-ng, the formant synthesiser that speaks the synthetic corpus.

The library and its voices come with the wheel `espeakng-loader` (extra `demo`; espeak-ng is GPL, so it is optional and
loaded only when an `Espeak` is made). Its voices are rules and formant tables, not recordings of people.
"""

import ctypes
import shutil
import tempfile
import weakref
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
