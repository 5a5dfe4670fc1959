import pickle

import numpy as np
import pytest
import soundfile as sf
from datasets import Dataset, Features, Value, load_from_disk

from shift_ser.corpora.corpus import SpeechAudio, read_audio
from shift_ser.model.speech_input import log_once


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
