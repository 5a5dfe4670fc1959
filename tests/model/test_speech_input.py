import io
import os
import pickle
import struct

import numpy as np
import pytest
import soundfile as sf
import torch
from datasets import Dataset, Features, Value, load_from_disk

from shift_ser.corpora.corpus import SpeechAudio, read_audio
from shift_ser.model.speech_input import load_speech, log_once


def tone(*, rate=16000, seconds=0.5, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.fixture(autouse=True)
def forget_what_was_logged():
    log_once.cache_clear()


@pytest.fixture
def wavs(tmp_path):
    paths = []
    for index in range(6):
        paths.append(str(tmp_path / f"{index}.wav"))
        sf.write(paths[-1], tone(seconds=0.1 * (index + 1)), 16000)
    return paths


@pytest.fixture
def dataset(wavs):
    columns = {"audio": wavs, "x": list(range(len(wavs)))}
    return Dataset.from_dict(columns, features=Features({"audio": SpeechAudio(), "x": Value("int64")}))


def test_16_khz_mono_is_read_as_it_is(tmp_path):
    samples = tone()
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_another_rate_is_resampled_to_the_same_tone(tmp_path, rate, caplog):
    sf.write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT")
    for _ in range(2):
        read = read_audio(tmp_path / "a.wav")
    assert abs(len(read) - 8000) <= 1
    middle = slice(1000, 7000)  # the filter rings at the edges
    np.testing.assert_allclose(read[middle], tone()[middle], atol=1e-3)
    assert caplog.messages == [f"audio of {rate} Hz is resampled to 16000 Hz"]


def test_stereo_is_averaged_and_logged_once(tmp_path, caplog):
    samples = tone()
    sf.write(tmp_path / "a.wav", np.stack([samples, -0.5 * samples], axis=1), 16000, subtype="FLOAT")
    for _ in range(2):
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), 0.25 * samples, atol=1e-7)
    assert caplog.messages == ["audio of 2 channels is averaged to mono"]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"audio file not found: .*nowhere\.wav"):
        read_audio(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("content", [b"", b"this is a letter, not a recording", b"RIFF\x00\x00"])
def test_not_audio(tmp_path, content):
    (tmp_path / "letter.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"letter\.wav must be an audio file that libsndfile reads, got: "):
        read_audio(tmp_path / "letter.wav")


def test_folder_is_not_audio(tmp_path):
    with pytest.raises(ValueError, match="must be an audio file that libsndfile reads"):
        read_audio(tmp_path)


@pytest.mark.parametrize(("samples", "rate"), [(0, 16000), (0, 44100), (1, 48000)])
def test_empty_recording(tmp_path, samples, rate):
    sf.write(tmp_path / "empty.wav", np.zeros(samples), rate)
    with pytest.raises(ValueError, match=rf"empty\.wav must hold at least one sample at 16000 Hz, got {samples} "):
        read_audio(tmp_path / "empty.wav")


def test_samples_that_are_not_finite(tmp_path):
    samples = tone()
    samples[:2], samples[7] = np.nan, -np.inf
    sf.write(tmp_path / "broken.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"broken\.wav must hold finite samples only, got 2 NaN and 1 infinite"):
        read_audio(tmp_path / "broken.wav")


CONTAINERS = [  # format and subtype of libsndfile
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"),
    ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("NIST", "PCM_16"), ("SVX", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


def written(kind, subtype, samples):
    file = io.BytesIO()
    sf.write(file, samples, 16000, format=kind, subtype=subtype)
    return file.getvalue()


def wav_of(data, *, promised):
    """A 16 kHz mono wav of 16 bits whose header promises so many bytes."""
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    return head + struct.pack("<4sI", b"data", promised) + data


@pytest.mark.parametrize(("kind", "subtype"), CONTAINERS)
def test_a_file_cut_anywhere_is_refused(kind, subtype, tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 16000)
    whole = written(kind, subtype, samples)
    expected = len(read_audio(whole))
    assert abs(expected - 16000) <= 1152  # the codecs' delay
    for size in [*np.random.default_rng(1).integers(0, len(whole), 25).tolist(), len(whole) - 1]:
        with pytest.raises(ValueError, match=r"audio of \d+ bytes must "):
            read_audio(whole[:size])
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"cut\.wav must (hold as much audio as its header promises, got|be an audio file)"
    ):
        read_audio(tmp_path / "cut.wav")


@pytest.mark.parametrize(("kind", "subtype"), [each for each in CONTAINERS if each[0] not in ("OGG", "CAF")])
def test_what_is_there_of_a_cut_file_is_read_where_it_is_allowed(kind, subtype, caplog):
    samples = np.random.default_rng(0).normal(0, 0.1, 16000)
    whole = written(kind, subtype, samples)
    read = read_audio(whole[: len(whole) * 3 // 4], allow_truncated=True)
    assert 5000 < len(read) < 15000
    most = 1e-6 if subtype in ("FLOAT", "PCM_16", "PCM_24") else 0.5
    np.testing.assert_allclose(read[:5000], read_audio(whole)[:5000], atol=most)
    assert len([message for message in caplog.messages if "is cut and is read as far as it goes: " in message]) == 1


@pytest.mark.parametrize("promised", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024, 0x80000000])
def test_a_streamed_wav_goes_to_its_end(promised):
    data = np.arange(5000, dtype="<i2").tobytes()
    np.testing.assert_array_equal(read_audio(wav_of(data, promised=promised)), np.arange(5000) / np.float32(32768))


def test_a_wav_that_was_not_finished_is_refused_and_read_where_it_is_allowed():
    data = np.arange(5000, dtype="<i2").tobytes()
    with pytest.raises(
        ValueError, match="got 0 bytes of audio promised, 10000 held: a recording that was not finished"
    ):
        read_audio(wav_of(data, promised=0))
    read = read_audio(wav_of(data, promised=0), allow_truncated=True)
    np.testing.assert_array_equal(read, np.arange(5000) / np.float32(32768))


def test_bytes_after_the_audio_are_no_matter():
    data = np.arange(5000, dtype="<i2").tobytes()
    for after in (b"LIST\x04\0\0\0INFO", b"\0", b"anything at all"):
        assert len(read_audio(wav_of(data, promised=10000) + after)) == 5000
    with pytest.raises(ValueError, match="at least one sample"):
        read_audio(wav_of(b"LIST\x04\0\0\0INFO", promised=0))
    mp3 = written("MP3", "MPEG_LAYER_III", np.random.default_rng(0).normal(0, 0.1, 16000))
    assert len(read_audio(mp3 + b"TAG" + bytes(125))) == len(read_audio(mp3))
    assert len(read_audio(b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + mp3)) == len(read_audio(mp3))


@pytest.mark.parametrize(
    "rate",
    [np.inf, -np.inf, np.nan, 1e300, "16000", 1e-3, 0, -16000, 999, 1e6 + 1, True, np.array([16000]), [16000], 1j],
)
def test_rates_that_are_none(rate):
    with pytest.raises(
        ValueError, match="the input must have a sampling rate that is a number from 1000 to 1000000 Hz, got"
    ):
        load_speech({"array": tone(), "sampling_rate": rate})


@pytest.mark.parametrize("rate", [8000, 8000.0, np.int64(8000), np.float32(8000), np.array(8000), torch.tensor(8000)])
def test_rates_in_every_form(rate):
    np.testing.assert_array_equal(
        load_speech({"array": tone(rate=8000), "sampling_rate": rate}), load_speech((8000, tone(rate=8000)))
    )


def test_a_wav_that_claims_one_hertz(tmp_path):
    sf.write(tmp_path / "slow.wav", np.zeros(16000), 1)
    with pytest.raises(ValueError, match=r"slow\.wav must have a sampling rate .*, got 1$"):
        read_audio(tmp_path / "slow.wav")


def test_a_header_that_claims_days():
    flac = bytearray(written("FLAC", "PCM_16", tone()))
    flac[21:26] = bytes([flac[21] | 0x0F, 255, 255, 255, 255])  # 2**36 - 1 samples
    for options, message in (({}, "must last at most 21600 s .*, got 4.29497e"), ({"max_seconds": 1e9}, "must ")):
        with pytest.raises(ValueError, match=message):
            read_audio(bytes(flac), **options)


def test_a_recording_beyond_the_longest_is_refused(tmp_path):
    sf.write(tmp_path / "a.wav", tone(seconds=2), 16000)
    for recording in (tmp_path / "a.wav", tone(seconds=2), (8000, tone(seconds=1))):
        assert len(load_speech(recording, max_seconds=2.0)) == 32000
        with pytest.raises(ValueError, match=r"must last at most 1\.5 s \(max_seconds\), got 2 s"):
            load_speech(recording, max_seconds=1.5)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(
        ValueError, match=r"pipe\.wav must be an audio file that libsndfile reads, got: a pipe or a device"
    ):
        read_audio(tmp_path / "pipe.wav")


def test_file_objects(wavs):
    with open(wavs[0], "rb") as file:
        np.testing.assert_array_equal(load_speech(file), read_audio(wavs[0]))
        with pytest.raises(ValueError, match="audio of 0 bytes"):  # it was read to its end
            load_speech(file)
    with open(wavs[0], "rb") as file, pytest.raises(ValueError, match=r"at most 100 bytes \(max_bytes\), got more"):
        load_speech(file, max_bytes=100)
    with (
        open(__file__, encoding="utf-8") as file,
        pytest.raises(ValueError, match="in binary mode, got one that reads str"),
    ):
        load_speech(file)


def test_samples_beyond_reason(tmp_path):
    samples = tone()
    for amplitude in (1e10, 1e18, -1e30):
        samples[3] = amplitude
        sf.write(tmp_path / "flipped.wav", samples, 16000, subtype="FLOAT")
        with pytest.raises(
            ValueError, match=r"flipped\.wav must hold samples within 4\.29497e\+09 \(full scale is 1\), got"
        ):
            read_audio(tmp_path / "flipped.wav")
    integers = (tone() * 2**31).astype(np.float64)  # not scaled by whoever read them: unusual, and no error
    np.testing.assert_allclose(load_speech(integers), integers, rtol=1e-6)


def test_a_constant_stays_constant_at_another_rate():
    assert set(load_speech((8000, np.full(800, 0.25))).tolist()) == {0.25}


def test_a_tone_beyond_the_new_rates_half_is_filtered_out():
    for rate in (44100, 48000):
        high, low = tone(rate=rate, hertz=10000.0), tone(rate=rate, hertz=3000.0)
        assert np.abs(load_speech((rate, high)))[800:-800].max() < 1e-3  # an alias would have half of full scale
        assert np.abs(load_speech((rate, low)))[800:-800].max() > 0.49


def test_names_that_are_not_unicode(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path / "a") + b"\xff.wav")
    with open(path, "wb") as file:
        file.write(written("WAV", "PCM_16", tone()))
    assert len(read_audio(path)) == 8000


def test_nested_lists_and_masked_arrays():
    with pytest.raises(ValueError, match="the input must be one recording, got what makes no array"):
        load_speech([[0.1, 0.2], [0.3]])
    masked = np.ma.masked_greater(tone(), 0.4)
    with pytest.raises(ValueError, match=r"the input must hold no masked samples, got \d+: fill or cut them"):
        load_speech(masked)
    np.testing.assert_array_equal(load_speech(np.ma.masked_greater(tone(), 0.6)), tone())


def test_column_decodes_on_access(dataset, wavs):
    row = dataset[2]["audio"]
    assert (row["path"], row["sampling_rate"]) == (wavs[2], 16000)
    np.testing.assert_array_equal(row["array"], read_audio(wavs[2]))


def test_column_survives_what_datasets_do(dataset, wavs):
    kept = dataset.filter(lambda row: len(row["audio"]["array"]) > 3000).select([1, 2])
    assert [row["path"] for row in kept["audio"]] == wavs[2:4]
    for made in (
        dataset.map(lambda row: {"seconds": len(row["audio"]["array"]) / 16000}),
        dataset.map(lambda row: {**row, "seconds": len(row["audio"]["array"]) / 16000}),
    ):
        assert isinstance(made.features["audio"], SpeechAudio)
        assert [row["path"] for row in made["audio"]] == wavs
        assert made["seconds"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[3]["audio"]["array"], dataset[3]["audio"]["array"])


def test_column_casts(dataset, wavs):
    assert dataset.cast_column("audio", SpeechAudio(decode=False))[0]["audio"] == wavs[0]
    assert dataset.cast_column("audio", SpeechAudio(8000))[1]["audio"]["array"].shape == (1600,)
    assert Dataset.from_list([dataset[4]], features=dataset.features)[0]["audio"]["path"] == wavs[4]


def test_saving_keeps_paths_and_no_audio(dataset, wavs, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    again = load_from_disk(tmp_path / "saved")
    np.testing.assert_array_equal(again[5]["audio"]["array"], read_audio(wavs[5]))
    dataset.to_parquet(tmp_path / "saved" / "all.parquet")
    sound = sf.read(wavs[5], dtype="int16")[0].tobytes()[:64]
    for path in (tmp_path / "saved").iterdir():
        assert sound not in path.read_bytes()
        assert path.stat().st_size < 8000


def test_decoded_is_left_alone():
    decoded = {"path": "a.wav", "array": np.zeros(3), "sampling_rate": 16000}
    assert SpeechAudio().decode_example(decoded) is decoded


@pytest.mark.parametrize("value", [3, {"array": [0.0]}, b"RIFF"])
def test_column_takes_paths_only(value):
    with pytest.raises(ValueError, match='audio must be a path, or a dict with a "path", got'):
        SpeechAudio().encode_example(value)
