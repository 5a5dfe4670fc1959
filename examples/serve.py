"""A service: recordings of many requests go through the model together; when too many wait, a request gets 503.

python examples/serve.py runs/demo/fold1 --port 8080       # pip install "shift-ser[serve]"
curl --data-binary @speech.wav http://127.0.0.1:8080/classify
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from shift_ser import ShiftAudioClassificationPipeline, load_classifier
from shift_ser.cpu import keep_freed_memory
from shift_ser.inference.predict import DTYPES
from shift_ser.model.pipeline_shift_ser import like_lengths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    Attributes:
        waiting: Requests at a time; the next one is answered with 503.
        max_bytes: Of a request.
        max_seconds: Of a recording.
        batch_seconds: Seconds of speech, with padding, that go through the model together.
    """

    waiting: int = 128
    max_bytes: int = 2**25
    max_seconds: float = 120.0
    batch_seconds: float = 30.0


class Batcher:
    """Scores recordings together: while the model is busy, those that come wait, and then go as batches of like length.

    Args:
        classifier: What `load_classifier` gives.
        batch_seconds: As in `Limits`.
    """

    def __init__(self, classifier: ShiftAudioClassificationPipeline, *, batch_seconds: float) -> None:
        self.classifier, self.batch_seconds = classifier, batch_seconds
        self.waiting: list[tuple[np.ndarray, asyncio.Future]] = []
        self.arrived = asyncio.Event()

    async def classify(self, samples: np.ndarray) -> list[dict[str, Any]]:
        """Labels and scores of one recording `(samples,)` at the model's rate."""
        done: asyncio.Future = asyncio.get_running_loop().create_future()
        self.waiting.append((samples, done))
        self.arrived.set()
        return await done

    async def run(self) -> None:
        """Serve those that wait, for ever."""
        while True:
            await self.arrived.wait()
            batch = self._take()
            try:
                answers = await asyncio.to_thread(self._score, [samples for samples, _ in batch])
                for (_, done), answer in zip(batch, answers, strict=True):
                    if not done.cancelled():
                        done.set_result(answer)
            except Exception as error:
                for _, done in batch:
                    if not done.cancelled():
                        done.set_exception(error)

    def _take(self) -> list[tuple[np.ndarray, asyncio.Future]]:
        """The one that has waited longest, and those of like length that fit beside it."""
        rate = self.classifier.feature_extractor.sampling_rate
        together = getattr(self.classifier.model.config, "mask_padding", True)
        places, batch = next(
            like_lengths(
                self.waiting, length=lambda entry: len(entry[0]) / rate, window=len(self.waiting),
                fits=lambda count, longest: together and count * longest <= self.batch_seconds,
            )
        )  # fmt: skip
        self.waiting = [entry for place, entry in enumerate(self.waiting) if place not in set(places)]
        if not self.waiting:
            self.arrived.clear()
        return batch

    def _score(self, speech: list[np.ndarray]) -> list[Any]:
        _, _, options = self.classifier._sanitize_parameters(top_k=None)
        return self.classifier.classify_batch(speech, **{**self.classifier._postprocess_params, **options})


def make_app(classifier: ShiftAudioClassificationPipeline, limits: Limits) -> FastAPI:
    """The service: POST /classify, GET /health; errors are JSON, `{"error": ...}`."""
    batcher = Batcher(classifier, batch_seconds=limits.batch_seconds)
    held = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(title="shift_ser", lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"labels": [*classifier.model.config.id2label.values()], "waiting": held}

    @app.post("/classify")
    async def classify(request: Request) -> Any:
        nonlocal held
        if held >= limits.waiting:
            return refuse(503, f"{held} requests are waiting: try again", **{"Retry-After": "1"})
        held += 1
        try:
            content = bytearray()
            async for part in request.stream():
                content += part
                if len(content) > limits.max_bytes:
                    return refuse(413, f"a request must hold at most {limits.max_bytes} bytes", Connection="close")
            samples = await asyncio.to_thread(classifier.read, bytes(content), max_seconds=limits.max_seconds)
            return await batcher.classify(samples)
        except ValueError as error:
            return refuse(400, str(error))
        except Exception as error:
            logger.exception("a request failed")
            return refuse(500, f"{type(error).__name__}: {error}")
        finally:
            held -= 1

    return app


def refuse(status: int, message: str, **headers: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def main() -> None:
    """Load a model and serve it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved model, or its name on the Hub")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--waiting", type=int, default=Limits.waiting, help="requests at a time; the next gets 503")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="in float32 a score does not depend on others")
    args = parser.parse_args()
    keep_freed_memory()
    app = make_app(load_classifier(args.model, dtype=args.dtype), Limits(waiting=args.waiting))
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
