import io

import numpy as np
import pytest
from media_files import KINDS, media

from shift_ser.inference.blocks import open_speech
from shift_ser.model import media_container
from shift_ser.model.media_container import media_kind
from shift_ser.model.speech_input import read_audio


@pytest.mark.parametrize("suffix", KINDS)
def test_speech_in_a_container_is_read_from_a_file_and_from_bytes(suffix, tmp_path):
    container, codec, rate, video = KINDS[suffix]
    content = media(container, codec, rate, video)
    (tmp_path / f"speech{suffix}").write_bytes(content)
    samples = read_audio(tmp_path / f"speech{suffix}", sampling_rate=rate)
    np.testing.assert_array_equal(samples, read_audio(content, sampling_rate=rate))
    assert samples.dtype == np.float32 and abs(len(samples) / rate - 2) < 0.15  # an encoder pads to whole frames
    heard = np.abs(np.fft.rfft(samples[rate // 2 : rate // 2 + rate]))
    assert heard.argmax() == 440 and np.abs(samples[rate // 2 : rate]).max() == pytest.approx(0.5, abs=0.03)
    assert len(read_audio(content)) / 16000 == pytest.approx(len(samples) / rate, abs=1e-3)
    with open_speech(content, sampling_rate=rate) as blocks:
        np.testing.assert_allclose(np.concatenate(list(blocks.blocks)), samples, atol=1e-6)


@pytest.mark.parametrize("suffix", [".aac", ".webm", ".mkv", ".avi"])
def test_a_file_that_is_cut_is_refused_and_read_as_far_as_it_goes_if_that_is_allowed(suffix):
    container, codec, rate, video = KINDS[suffix]
    content = media(container, codec, rate, video)
    half = content[: len(content) // 2]
    with pytest.raises(ValueError, match=r"must hold as much audio as its header promises, got .*: it was cut"):
        read_audio(half)
    assert 8000 < len(read_audio(half, allow_truncated=True)) < 24000


def test_what_cannot_be_read_is_told_in_a_line(tmp_path):
    silent = tmp_path / "silent.mp4"
    silent.write_bytes(media("mp4", None, 0, "mpeg4"))
    with pytest.raises(ValueError, match=r"silent.mp4 must have an audio track, got: video"):
        read_audio(silent)
    with pytest.raises(ValueError, match="must be a file that FFmpeg reads as mov, got: Invalid data"):
        read_audio(media(*KINDS[".m4a"])[:5000])  # the table of its contents lies at its end
    with pytest.raises(ValueError, match=r"must last at most 1 s \(max_seconds\)"):
        read_audio(media(*KINDS[".mp4"]), max_seconds=1.0)


def test_a_file_cannot_have_others_opened(tmp_path):
    """A playlist, whatever its name, is none of the kinds that FFmpeg is given."""
    (tmp_path / "other.m4a").write_bytes(media(*KINDS[".m4a"]))
    for text in ("#EXTM3U\n#EXTINF:2,\nother.m4a\n", "ffconcat version 1.0\nfile other.m4a\n"):
        (tmp_path / "list.m4a").write_text(text)
        assert media_kind(io.BytesIO(text.encode())) is None
        with pytest.raises(ValueError, match="must be an audio file that libsndfile reads"):
            read_audio(tmp_path / "list.m4a")


def test_without_pyav_what_is_needed_is_told(monkeypatch):
    content = media(*KINDS[".m4a"])
    monkeypatch.setattr(media_container, "av", None)
    with pytest.raises(ImportError, match=r'needs PyAV: pip install "shift-ser\[av\]"'):
        read_audio(content)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_an_error_or_sound_and_never_anything_else(seed):
    rng = np.random.default_rng(seed)
    for suffix in (".m4a", ".mkv", ".avi"):
        content = bytearray(media(*KINDS[suffix], seconds=0.5))
        for place in rng.integers(0, len(content), 20):
            content[place] = rng.integers(256)
        try:
            assert np.isfinite(read_audio(bytes(content))).all()
        except ValueError as error:
            assert "must" in str(error)
