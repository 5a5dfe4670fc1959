"""One model of every family of encoders, asked by many threads, and by many clients of a web service."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from shift_ser import ShiftConfig, ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.inference.predict import load_classifier
from shift_ser.model.encoders import EXACT, WAVEFORM

THREADS, CALLS = 8, 200  # calls of each thread
VARIANTS = ("shiftcnn", "shiftlstm", "shiftformer")  # in turn


def attack_calls(folder: Path, seed: int, count: int | None) -> Iterator[tuple[str, str, str]]:
    """Every answer must be that of one call after the other, to the bit.

    Args:
        folder: For the models.
        seed: Of weights and speech.
        count: Calls of a thread; default: `CALLS`.
    """
    torch.set_num_threads(1)
    kinds: list[tuple[str, Any, Any]] = [
        (f"{family}, {norm} norm", _waveform_config(family, norm), None)
        for family in WAVEFORM
        for norm in ("layer", "group")
    ]
    kinds += [(family, *SPECTROGRAM[family]) for family in EXACT if family not in WAVEFORM]
    for number, (name, encoder, extractor) in enumerate(kinds):
        classifier = _classifier(folder / name, encoder, extractor, VARIANTS[number % 3], seed)
        speech = _speech(np.random.default_rng([seed, number]), THREADS * (count or CALLS))
        yield from _compare(f"{name}, threads", partial(_scores, classifier), speech)
        with _serve(classifier) as server:
            yield from _compare(
                f"{name}, service", partial(_asked, server.server_address[1]), speech[: len(speech) // 4]
            )


# Of each family that reads spectrograms a tiny configuration, and the stock feature extractor that makes them.
SPECTROGRAM = {
    "whisper": (
        WhisperConfig(
            d_model=24, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=24, num_mel_bins=20, vocab_size=64, max_target_positions=16,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        ),
        WhisperFeatureExtractor(feature_size=20),
    ),
    "wav2vec2-bert": (
        Wav2Vec2BertConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            conv_depthwise_kernel_size=7,
        ),
        SeamlessM4TFeatureExtractor(),
    ),
}  # fmt: skip


def _waveform_config(family: str, norm: str) -> Any:
    """A tiny encoder of a family that reads waveforms; data2vec has its norm as it has it."""
    options = {"conv_pos_kernel_size": 15, "num_conv_pos_embeddings": 2} if family == "data2vec-audio" else {}
    return AutoConfig.for_model(
        family, **{
            "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
            "conv_dim": (16, 16, 16), "conv_stride": (5, 8, 8), "conv_kernel": (10, 8, 8),
            "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": norm,
            "do_stable_layer_norm": norm == "layer", **options,
        }
    )  # fmt: skip


def _classifier(folder: Path, encoder: Any, extractor: Any, variant: str, seed: int) -> Any:
    """A tiny random model, saved and loaded."""
    torch.manual_seed(seed)
    config = ShiftConfig.from_variant(variant, num_labels=4, encoder_config=encoder, num_attention_heads=2)
    ShiftForSequenceClassification(config).save_pretrained(folder)
    if extractor is not None:
        extractor.save_pretrained(folder / "stock")
    made = ShiftFeatureExtractor() if extractor is None else ShiftFeatureExtractor.from_pretrained(folder / "stock")
    made.save_pretrained(folder)
    return load_classifier(folder, dtype="float32")


def _speech(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Noise of 0.05 to 1 s."""
    return [rng.normal(0, 0.1, rng.integers(800, 16000)).astype(np.float32) for _ in range(count)]


def _compare(
    name: str, ask: Callable[[np.ndarray], Any], speech: Sequence[np.ndarray]
) -> Iterator[tuple[str, str, str]]:
    """Ask one after the other, then all threads at once, each from its own place on."""
    expected = [ask(samples) for samples in speech]
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [range(start, len(speech), THREADS) for start in range(THREADS)]
        barrier = threading.Barrier(THREADS)

        def run(part: range) -> list[Any]:
            barrier.wait()
            return [_or_error(ask, speech[index]) for index in part]

        answers = dict(
            pair
            for part, said in zip(parts, pool.map(run, parts), strict=True)
            for pair in zip(part, said, strict=True)
        )
    for index, before in enumerate(expected):
        same = answers[index] == before
        yield f"{name}, call {index}", "right" if same else "wrong", f"{before} alone, {answers[index]} among others"


def _or_error(ask: Callable[[np.ndarray], Any], samples: np.ndarray) -> Any:
    try:
        return ask(samples)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _scores(classifier: Any, samples: np.ndarray) -> list[tuple[str, float]]:
    return [(entry["label"], entry["score"]) for entry in classifier({"array": samples, "sampling_rate": 16000})]


class _Server(ThreadingHTTPServer):
    """A web service with a thread for each request."""

    daemon_threads = True
    request_queue_size = 4 * THREADS


def _serve(classifier: Any) -> _Server:
    """A service that answers float32 samples with labels and scores."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            samples = np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), dtype=np.float32)
            answer = json.dumps(_or_error(partial(_scores, classifier), samples)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Say nothing of each request."""

    server = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _asked(port: int, samples: np.ndarray) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", data=samples.tobytes(), timeout=60) as answer:
        return json.load(answer)
