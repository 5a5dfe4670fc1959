"""Many clients at once against the example service: wrong answers, refusals, how long they wait, memory.

python -m benchmarks.load runs/demo/fold1
python -m benchmarks.load runs/demo/fold1 --clients 64 --waiting 32     # a queue that is too short for them
python -m benchmarks.load runs/demo/fold1 --dtype auto                  # in bfloat16, where the machine computes in it

An answer is right if its scores are those of the recording alone: within 1e-5 in float32, and within 0.01 in bfloat16,
which rounds otherwise beside other recordings.
"""

import argparse
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

SERVICE = Path(__file__).parents[1] / "examples" / "serve.py"
CLIPS = 24  # different recordings
TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 0.01}  # of a score


@dataclass(frozen=True)
class Answer:
    """What a client got: number of its clip, status, scores or error, seconds that it waited."""

    clip: int
    status: int
    content: object
    seconds: float


def clips() -> list[bytes]:
    """Recordings of 1 to 6 seconds, as WAV files."""
    rng, made = np.random.default_rng(0), []
    for seconds in rng.uniform(1, 6, CLIPS):
        content = io.BytesIO()
        sf.write(content, 0.1 * rng.standard_normal(round(16000 * seconds)), 16000, format="WAV")
        made.append(content.getvalue())
    return made


def expected(model: str, recordings: list[bytes], *, dtype: str) -> tuple[list[dict[str, float]], float]:
    """Scores of each recording alone, by the classifier itself, and how far an answer may be from them."""
    from shift_ser import load_classifier

    classify = load_classifier(model, dtype=dtype)
    alone = [{entry["label"]: entry["score"] for entry in classify(recording)} for recording in recordings]
    return alone, TOLERANCE[str(classify.model.dtype)]


def client(port: int, number: int, recordings: list[bytes], requests: int) -> list[Answer]:
    """One client: a request after the other, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    answers: list[Answer] = []
    for request in range(requests):
        clip = (number * requests + request) % len(recordings)
        start = time.perf_counter()
        connection.request("POST", "/classify", recordings[clip])
        answer = connection.getresponse()
        content = json.loads(answer.read())
        answers.append(Answer(clip, answer.status, content, time.perf_counter() - start))
        if answer.status == 503:
            time.sleep(float(answer.headers["Retry-After"]))
    connection.close()
    return answers


def memory(pid: int) -> tuple[float, float]:
    """What a process holds now, and its peak, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def is_right(answer: Answer, truth: list[dict[str, float]], tolerance: float) -> bool:
    """Whether an answer holds the scores of its recording alone."""
    scores = {entry["label"]: entry["score"] for entry in answer.content}
    wanted = truth[answer.clip]
    return set(scores) == set(wanted) and all(abs(scores[label] - wanted[label]) <= tolerance for label in wanted)


def main() -> None:
    """Start the service, let the clients loose, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a saved model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=8, help="of each client")
    parser.add_argument("--waiting", type=int, default=128, help="requests that the service holds")
    parser.add_argument("--dtype", default="float32", choices=("auto", "float32", "bfloat16"))
    args = parser.parse_args()
    recordings = clips()
    truth, tolerance = expected(args.model, recordings, dtype=args.dtype)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(SERVICE), args.model, "--port", str(port), "--waiting", str(args.waiting)]
    words += ["--dtype", args.dtype]
    with subprocess.Popen(words) as service:
        try:
            before = wait_for(port, service)
            start = time.perf_counter()
            with ThreadPoolExecutor(args.clients) as threads:
                runs = list(
                    threads.map(lambda number: client(port, number, recordings, args.requests), range(args.clients))
                )
            seconds = time.perf_counter() - start
            now, peak = memory(service.pid)
        finally:
            service.terminate()
    answers = [answer for run in runs for answer in run]
    done = [answer for answer in answers if answer.status == 200]
    wrong = sum(not is_right(answer, truth, tolerance) for answer in done)
    rejected = sum(answer.status == 503 for answer in answers)
    waits = np.array([answer.seconds for answer in done])
    print(
        "| clients | queue | requests | answered | wrong | rejected (503) | other errors | requests a second |"
        " mean wait (s) | p99 (s) | memory before, after, peak (MB) |"
    )
    print("|" + "---:|" * 11)
    print(
        f"| {args.clients} | {args.waiting} | {len(answers)} | {len(done)} | {wrong} | {rejected}"
        f" | {len(answers) - len(done) - rejected} | {len(done) / seconds:.1f} | {waits.mean():.2f}"
        f" | {np.quantile(waits, 0.99):.2f} | {before:.0f}, {now:.0f}, {peak:.0f} |"
    )
    if wrong or len(done) + rejected < len(answers):
        sys.exit("error: wrong answers or errors, see the table")


def wait_for(port: int, service: subprocess.Popen) -> float:
    """Until the service answers one request; what it holds then, in MB."""
    while service.poll() is None:
        try:
            (answer,) = client(port, 0, clips()[:1], 1)
            assert answer.status == 200, answer
            return memory(service.pid)[0]
        except ConnectionRefusedError:
            time.sleep(0.2)
    sys.exit("error: the service did not start")


if __name__ == "__main__":
    main()
