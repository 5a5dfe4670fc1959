"""Small media files, made by PyAV: a tone in a container, with or without a video."""

import io

import av
import numpy as np

KINDS = {  # suffix: container, codec, rate, and codec of a video beside it
    ".m4a": ("ipod", "aac", 16000, None),
    ".aac": ("adts", "aac", 16000, None),
    ".mp4": ("mp4", "aac", 44100, "mpeg4"),
    ".mov": ("mov", "pcm_s16le", 16000, None),
    ".webm": ("webm", "libopus", 48000, None),
    ".mkv": ("matroska", "libopus", 48000, "mpeg4"),
    ".avi": ("avi", "pcm_s16le", 16000, "mpeg4"),
    ".opus": ("ogg", "libopus", 48000, None),
}


def tone(rate: int, seconds: float = 2.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def media(container, codec, rate, video=None, *, seconds=2.0) -> bytes:
    """A tone of 440 Hz in a container, with a video if a codec is named; no `codec`: the video alone."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        pictures = out.add_stream(video, rate=10, width=32, height=32, pix_fmt="yuv420p") if video else None
        sound = out.add_stream(codec, rate=rate, layout="mono") if codec else None
        if pictures:
            for number in range(int(seconds * 10)):
                picture = np.full((32, 32, 3), 10 * number, np.uint8)
                out.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(pictures.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(tone(rate, seconds)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return file.getvalue()
