"""EndpointHandler: what Inference Endpoints of the Hub call; it lies beside a pushed model and needs no other code.

`python handler.py` in the model's folder serves the same answers on this machine: POST the bytes of a recording, or
JSON `{"inputs": ..., "parameters": {...}}`, to http://127.0.0.1:8080. What is wrong with a request is JSON, too:
`{"error": ...}` with status 400 (413: too large, 500: the model's fault).
"""

import argparse
import base64
import binascii
import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from transformers import pipeline

logger = logging.getLogger(__name__)

MAX_SECONDS = 600.0  # longest recording that is classified
MAX_BYTES = 2**26  # largest request
PARAMETERS: dict[str, Any] = {"top_k": int, "calibrated": bool, "allow_truncated": bool}


class EndpointHandler:
    """The model of a folder, for requests; threads may share one.

    Args:
        path: The model's folder.
    """

    def __init__(self, path: str = "") -> None:
        self.classify = pipeline(
            "audio-classification", model=path or ".", trust_remote_code=True, max_seconds=MAX_SECONDS
        )

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Classify one recording.

        Args:
            data: `inputs`: the bytes of a file in any format that libsndfile reads (or PyAV, where it is installed),
                the same in base64, or a dict of `array`, a list of samples of full scale 1, and its `sampling_rate`.
                `parameters`, which may be left out: `top_k`, `calibrated` and `allow_truncated`, as for the pipeline.

        Returns:
            `label` and `score` of the likeliest classes, then of each dimension, as the pipeline gives them.

        Raises:
            ValueError: If the request is none of these, or the recording is not audio, cut, empty or too long. An
                endpoint answers it with status 400 and the message.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError("a request must hold inputs: the bytes of a recording, or a dict of array, sampling_rate")
        return self.classify(_recording(data["inputs"]), **_parameters(data.get("parameters")))


def _recording(inputs: Any) -> Any:
    """What the pipeline reads; a text is never taken for a path or an address of the server's."""
    if isinstance(inputs, (bytes, bytearray)):
        return bytes(inputs)
    if isinstance(inputs, str):
        try:
            return base64.b64decode(inputs, validate=True)
        except binascii.Error as error:
            raise ValueError(
                f"inputs must be a recording's bytes in base64, got a text that is none: {error}"
            ) from None
    if isinstance(inputs, dict) and set(inputs) == {"array", "sampling_rate"}:
        array = inputs["array"]
        if not isinstance(array, list) or not all(isinstance(value, (int, float)) for value in array):
            raise ValueError("inputs must have as array a list of numbers, the samples of one channel")
        return {"array": [float(value) for value in array], "sampling_rate": inputs["sampling_rate"]}
    told = f"a dict of {sorted(inputs)}" if isinstance(inputs, dict) else type(inputs).__name__
    raise ValueError(f"inputs must be bytes, base64, or a dict of array and sampling_rate, got {told}")


def _parameters(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(f"parameters must be a dict, got {type(given).__name__}")
    for name, value in given.items():
        if name not in PARAMETERS:
            raise ValueError(f"parameters must be some of {', '.join(PARAMETERS)}, got {name!r}")
        if type(value) is not PARAMETERS[name] or (name == "top_k" and value < 1):
            rule = "a whole number of at least 1" if name == "top_k" else "true or false"
            raise ValueError(f"{name} must be {rule}, got {value!r}")
    return given


class Request(BaseHTTPRequestHandler):
    """One request to `serve`; the server holds the handler."""

    server: "Server"
    timeout = 60

    def do_POST(self) -> None:
        """Answer with JSON."""
        status, answer = self._answer()
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self) -> tuple[int, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, {"error": "a request must have a Content-Length"}
        if int(length) > MAX_BYTES:
            self.close_connection = True
            return 413, {"error": f"a request must hold at most {MAX_BYTES} bytes, got {length}"}
        content = self.rfile.read(int(length))
        try:
            is_json = self.headers.get_content_type() == "application/json"
            return 200, self.server.handler(json.loads(content) if is_json else {"inputs": content})
        except (ValueError, UnicodeDecodeError) as error:
            return 400, {"error": str(error)}
        except Exception as error:
            logger.exception("a request failed")
            return 500, {"error": f"{type(error).__name__}: {error}"}

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, not to stderr."""
        logger.info(format, *args)


class Server(ThreadingHTTPServer):
    """A server on this machine's own address, a thread for each request.

    Args:
        handler: What answers.
        port: 0 takes a free one; `server_port` tells which.
    """

    daemon_threads = True

    def __init__(self, handler: EndpointHandler, *, port: int) -> None:
        super().__init__(("127.0.0.1", port), Request)
        self.handler = handler


def main() -> None:
    """Serve the model of a folder to this machine."""
    parser = argparse.ArgumentParser(description="Serve the model of a folder to this machine.")
    parser.add_argument("path", nargs="?", default=str(Path(__file__).parent), help="folder of the model")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(EndpointHandler(args.path), port=args.port)
    logger.info("http://127.0.0.1:%d", server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
