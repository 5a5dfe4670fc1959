"""Thousands of malformed recordings, seeded: each is read right or refused in one clear line.

    python -m benchmarks.attack_input --count 10000 --seed 0

Prints how many were tried, read right, refused with a clear error, and answered wrong (0 is the aim; each is shown).
"""

import argparse
import io
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile as sf

from shift_ser import ShiftFeatureExtractor
from shift_ser.model.speech_input import load_speech

CLEAR = (ValueError, FileNotFoundError)
SLOW = 10.0  # seconds after which an answer counts as none
LENGTH = 4000
CONTAINERS = (
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_32"),
    ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
)  # fmt: skip
Case = tuple[str, Any, np.ndarray | None]  # what it is, the input, what it must be read as (None: it must be refused)
ANYTHING = np.zeros(0)  # may be read as any finite samples, or refused


def speech(rng: np.random.Generator) -> np.ndarray:
    """Noise of a quarter second, float32."""
    return rng.normal(0, 0.1, LENGTH).astype(np.float32)


def file_of(rng: np.random.Generator) -> tuple[str, bytes]:
    """The bytes of a whole audio file of a random kind, and the kind."""
    kind, subtype = CONTAINERS[rng.integers(len(CONTAINERS))]
    file = io.BytesIO()
    sf.write(file, speech(rng), 16000, format=kind, subtype=subtype)
    return f"{kind} {subtype}", file.getvalue()


def cut_file(rng: np.random.Generator) -> Case:
    """A file of which the end is missing."""
    kind, whole = file_of(rng)
    return f"{kind}, cut", whole[: rng.integers(len(whole))], None


def damaged_file(rng: np.random.Generator) -> Case:
    """A file with random bytes, most of them in its header."""
    kind, whole = file_of(rng)
    content = bytearray(whole)
    for _ in range(rng.integers(1, 6)):
        reach = 64 if rng.random() < 0.8 else len(content)
        content[rng.integers(min(reach, len(content)))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    return f"{kind}, damaged", bytes(content), ANYTHING


def noise_file(rng: np.random.Generator) -> Case:
    """The beginning of a file, then bytes of no sense."""
    kind, whole = file_of(rng)
    kept = int(rng.integers(4, 64))
    return f"{kind}, noise behind {kept} bytes", whole[:kept] + rng.bytes(int(rng.integers(0, 2000))), ANYTHING


def bad_rate(rng: np.random.Generator) -> Case:
    """Samples whose rate is none."""
    rates = (np.inf, -np.inf, np.nan, 1e300, "16000", 1e-3, 0, -8000, 1, True, np.array([8000]), [8000], 1j, b"8000")
    rate = rates[rng.integers(len(rates))]
    return f"rate {rate!r}", {"array": speech(rng), "sampling_rate": rate}, None


def bad_samples(rng: np.random.Generator) -> Case:
    """Samples of which one is no sample."""
    samples, place = speech(rng).astype(np.float64), int(rng.integers(LENGTH))
    value = rng.choice([np.nan, np.inf, -np.inf, 1e10, -1e18, 1e300])
    samples[place] = value
    if rng.random() < 0.2:
        return "masked", np.ma.masked_invalid(np.where(np.arange(LENGTH) == place, np.nan, speech(rng))), None
    return f"a sample of {value}", samples if rng.random() < 0.5 else {"raw": samples, "sampling_rate": 16000}, None


def bad_shape(rng: np.random.Generator) -> Case:
    """An array of a shape or dtype that no recording has."""
    shape = [(), (0,), (0, 2), (3, 500), (2, 2, 50), (1, 1, 1)][rng.integers(6)]
    dtype = rng.choice(["float32", "uint8", "int64", "complex64", "bool", "U3", "object", "datetime64[s]"])
    if shape and min(shape) > 0 and len(shape) < 3 and dtype == "float32":
        shape = (3, 500)
    return f"shape {shape} of {dtype}", np.zeros(shape, dtype=dtype), None


def odd_object(rng: np.random.Generator) -> Case:
    """What is no recording at all."""
    odd = (
        None, 7, 3.5, {}, {"path": None}, {"array": None, "sampling_rate": 16000}, {"audio": {}}, {"bytes": b""}, "",
        "\0", "nowhere.wav", "a/" * 3000, os.curdir, b"", b"RIFF", bytearray(4), memoryview(b"fLaC"),
        io.StringIO("RIFF"), io.BytesIO(), [[0.1], [0.2, 0.3]], [None], [{}], (16000, []), (16000, None),
        (np.nan, [0.1]), {"array": [0.1]}, object(), print, {1, 2}, range(0), "/dev/null", "/dev/zero", np.array(None),
        {"path": 7},
    )  # fmt: skip
    value = odd[rng.integers(len(odd))]
    return f"{value!r:.40}", value, None


def right_input(rng: np.random.Generator) -> Case:
    """A recording in an unusual form: it must be read to the sample."""
    samples = speech(rng)
    integers = np.round(samples * 32767).astype(np.int16)
    scaled = integers / np.float32(32768)
    file = io.BytesIO()
    sf.write(file, integers, 16000, format="WAV", subtype="PCM_16")
    whole = file.getvalue()
    streamed = whole[:40] + b"\xff\xff\xff\xff" + whole[44:]
    forms: tuple[tuple[str, Any], ...] = (
        ("gradio's tuple", (16000, integers)), ("wav", whole), ("streamed wav", streamed), ("tail", whole + b"LIST\0"),
        ("file object", io.BytesIO(whole)), ("memoryview", memoryview(whole)), ("columns", np.stack([integers] * 2, 1)),
        ("rows", integers[None]), ("dict", {"array": integers, "sampling_rate": np.int32(16000)}),
    )  # fmt: skip
    name, given = forms[rng.integers(len(forms))]
    return name, given, scaled


KINDS: tuple[Callable[[np.random.Generator], Case], ...] = (
    cut_file, cut_file, damaged_file, damaged_file, noise_file, bad_rate, bad_samples, bad_shape, odd_object,
    right_input,
)  # fmt: skip


def judge(given: Any, expected: np.ndarray | None, extractor: ShiftFeatureExtractor) -> tuple[str, str]:
    """`right`, `clear error` or `wrong`, and what was answered."""
    start = time.monotonic()
    try:
        samples = load_speech(given)
        values = extractor(samples, sampling_rate=16000, return_tensors="np")["input_values"]
    except CLEAR as error:
        message = str(error)
        answer = "wrong" if (expected is not None and expected is not ANYTHING) or not message else "clear error"
    except Exception as error:
        answer, message = "wrong", f"{type(error).__name__}: {error}"
    else:
        finite = bool(np.isfinite(samples).all() and np.isfinite(values).all())
        is_right = expected is ANYTHING or (expected is not None and np.array_equal(samples, expected))
        answer, message = "right" if finite and is_right else "wrong", f"read as {samples.shape} samples"
    if time.monotonic() - start > SLOW:
        return "wrong", f"after {time.monotonic() - start:.0f} s: {message}"
    return answer, message


def attack(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """For each of so many inputs what it is, how it was answered, and the answer."""
    extractor = ShiftFeatureExtractor()
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        name, given, expected = KINDS[rng.integers(len(KINDS))](rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer, message = judge(given, expected, extractor)
        yield f"{index}: {name}", answer, message


def main() -> None:
    """Attack and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="inputs to try")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        for name, answer, message in attack(args.count, args.seed):
            counts[answer] += 1
            if answer == "wrong":
                print(f"WRONG {name}: {message}")
        os.chdir(os.sep)
    print(f"tried {args.count}, " + ", ".join(f"{name} {counts[name]}" for name in ("right", "clear error", "wrong")))
    sys.exit(counts["wrong"] > 0)


if __name__ == "__main__":
    main()
