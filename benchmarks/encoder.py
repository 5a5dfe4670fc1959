"""The encoder alone: what kept memory, bfloat16 and the matrix convolutions are worth, and how encoding grows."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel

from shift_ser.corpora.corpus import SAMPLING_RATE
from shift_ser.matrix_products import use_matrix_products
from shift_ser.model.encoders import encode
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.feature_cache import FrameDataset

from .feature_extraction import AuthorsEncoder, AuthorsHeadStep, Encoding, HeadSteps, Training
from .measure import Case, Experiment, Line, Way
from .workload import NUM_LABELS, Sizes, all_batches, shift_model

GROWTH = (1, 2, 4, 8)
_SIDE = 2048


@dataclass
class OurEncoder:
    """Our encoder over one batch of the longest length."""

    sizes: Sizes
    dtype: str
    matrix: bool = True
    output: int | str = "last"
    threads: int | None = None

    def prepare(self) -> None:
        """Make encoder and batch."""
        dtype = getattr(torch, self.dtype)
        torch.set_num_threads(self.threads or torch.get_num_threads())
        encoder = shift_model("linear", HubertConfig(**self.sizes.encoder)).shift_ser.encoder
        self.encoder = encoder.to(dtype).eval()
        if self.matrix:
            use_matrix_products(self.encoder)
        shape = (self.sizes.tuning_batch, int(self.sizes.longest * SAMPLING_RATE))
        self.values = torch.randn(shape).to(dtype)

    @torch.inference_mode()
    def run(self) -> None:
        """One forward pass."""
        encode(self.encoder, self.values, output=self.output)


@dataclass
class Products:
    """Square matrix products with as many operations as one pass of the encoder over the batch."""

    sizes: Sizes
    dtype: str

    def prepare(self) -> None:
        """Count the operations, make the matrices."""
        encoder = HubertModel(HubertConfig(**self.sizes.encoder)).eval()
        values = torch.randn(1, int(self.sizes.longest * SAMPLING_RATE))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(values)
        self.count = self.sizes.tuning_batch * counter.get_total_flops() / (2 * _SIDE**3)
        self.values = torch.randn(_SIDE, _SIDE).to(getattr(torch, self.dtype))
        self.multiply = torch.nn.Linear(_SIDE, _SIDE, bias=False).to(self.values.dtype)
        use_matrix_products(self.multiply)

    @torch.inference_mode()
    def run(self) -> None:
        """All products, the last one of fewer rows."""
        whole, rest = divmod(self.count, 1)
        for _ in range(int(whole)):
            self.multiply(self.values)
        self.multiply(self.values[: int(rest * _SIDE)])


@dataclass
class Growing(Encoding):
    """The pass over a corpus, and one epoch of a head on what it left."""

    batch: int = 32

    def prepare(self) -> None:
        """Also make the head and its batches; the encoder is too small for a second thread to help."""
        super().prepare()
        torch.set_num_threads(1)
        model = shift_model("shiftformer", HubertConfig(**self.encoder))
        model.shift_ser.encoder = None
        self.training = Training(model, optimizer=torch.optim.AdamW, bf16=True, fused=True)
        self.batches = all_batches(torch.tensor(self.seconds).numpy(), batch=self.batch)

    def run(self) -> None:
        """Encode everything, train once on it."""
        names, collate = self.dataset["utterance"], DataCollatorForShift()
        with tempfile.TemporaryDirectory() as folder:
            dataset = FrameDataset(self.encode(folder), names, [row % NUM_LABELS for row in range(len(names))])
            for rows in self.batches:
                self.training.step(collate([dataset[row] for row in rows]))


@dataclass
class SharedEncoding(Encoding):
    """The pass over a corpus by one of the processes that share it; all write into one folder."""

    def prepare(self) -> None:
        """Also meet the others, and take a share of the cores, as `accelerate launch` does."""
        super().prepare()
        self.state, self.round = PartialState(cpu=True), 0
        torch.set_num_threads(max(1, torch.get_num_threads() // self.state.num_processes))

    def run(self) -> None:
        """Encode a share, wait for the others."""
        self.round += 1
        self.encode(Path(tempfile.gettempdir()) / f"{self.state.num_processes}-{self.round}")
        self.state.wait_for_everyone()


def kept_memory(sizes: Sizes) -> Experiment:
    """The same work with the stock allocator and with kept memory."""
    cases: dict[str, Callable[[], Case]] = {
        "head step, padded float32": lambda: AuthorsHeadStep(sizes, "shiftformer"),
        "head steps, sorted bf16": lambda: HeadSteps(sizes, "shiftformer"),
        "encoder forward, float32": lambda: AuthorsEncoder(sizes, sizes.tuning_batch),
    }
    words = ("stock allocator", "kept memory")
    ways = {f"{name}, {w}": Way(case(), keeps_memory=w == words[1]) for name, case in cases.items() for w in words}
    lines = []
    for name in cases:
        stock, kept = ({f"{name}, {w}": 1.0} for w in words)
        lines += [Line(name, stock, kept, *words), Line(f"{name}: peak memory", stock, kept, *words, unit="MB")]
    return Experiment(
        "The same code with the stock allocator of glibc and with `keep_freed_memory`. Head: Shiftformer, a batch of"
        f" {sizes.batch} of the longest length, and {sizes.head_batches} of all lengths; encoder: HuBERT, a batch of"
        f" {sizes.tuning_batch} of {sizes.longest} s.",
        ways,
        tuple(lines),
    )


def convolutions(sizes: Sizes) -> Experiment:
    """The encoder in float32 and in bfloat16, each as torch computes it and with the products of `matrix_products`."""
    dtypes = {"bfloat16": "bf16", "float32": "float32"}
    ways = {f"{word}, stock": Way(OurEncoder(sizes, dtype, matrix=False)) for dtype, word in dtypes.items()}
    ways |= {f"{word}, matrix products": Way(OurEncoder(sizes, dtype)) for dtype, word in dtypes.items()}
    pairs = [(f"{word}, stock", f"{word}, matrix products") for word in dtypes.values()]
    pairs += [("float32, stock", "bf16, stock"), ("float32, matrix products", "bf16, matrix products")]
    return Experiment(
        f"HuBERT, a batch of {sizes.tuning_batch} of {sizes.longest} s, kept memory everywhere. What bf16 is worth"
        " depends on whether the processor computes in it, what the products of float32 on how fast MKL is there.",
        ways,
        tuple(Line("Encoder forward", {a: 1}, {b: 1}, a, b) for a, b in pairs),
    )


def matrix_rate(sizes: Sizes) -> Experiment:
    """The encoder pass against matrix products of as many operations, and what its layers cost."""
    dtypes = {"bfloat16": "bf16", "float32": "float32"}
    ways = {f"products, {word}": Way(Products(sizes, dtype)) for dtype, word in dtypes.items()}
    ways |= {f"encoder, {word}": Way(OurEncoder(sizes, dtype)) for dtype, word in dtypes.items()}
    layers = HubertConfig(**sizes.encoder).num_hidden_layers
    parts: dict[str, int | str] = {"convolutions": "convolutions", "no layer": 0} | {
        f"{number} of {layers} layers": number for number in sorted({layers // 4, layers // 2} - {0, layers})
    }
    ways |= {name: Way(OurEncoder(sizes, "bfloat16", output=output)) for name, output in parts.items()}
    lines = [
        Line(
            f"Share of the matrix rate, {word}",
            {f"products, {word}": 1},
            {f"encoder, {word}": 1},
            "products",
            "encoder",
        )
        for word in dtypes.values()
    ]
    lines += [Line("Share of the pass, bf16", {name: 1}, {"encoder, bf16": 1}, name, "all") for name in parts]
    return Experiment(
        f"HuBERT, a batch of {sizes.tuning_batch} of {sizes.longest} s, against square products (side {_SIDE}) with"
        " as many operations as the stock encoder has; and the pass that stops at an earlier output (`encoder_layer`):"
        " 1 is all of it.",
        ways,
        tuple(lines),
    )


def threads(sizes: Sizes) -> Experiment:
    """One thread against all."""
    count = os.cpu_count() or 1
    cases: dict[str, Callable[[int], Case]] = {
        "Encoder forward, bf16": lambda number: OurEncoder(sizes, "bfloat16", threads=number),
        "Shiftformer: head steps, bf16": lambda number: HeadSteps(sizes, "shiftformer", threads=number),
    }
    words = ("1 thread", f"{count} threads")
    ways, lines = {}, []
    for name, case in cases.items():
        one, all_of_them = (f"{name}, {word}" for word in words)
        ways |= {one: Way(case(1)), all_of_them: Way(case(count))}
        lines.append(Line(name, {one: 1}, {all_of_them: 1}, *words))
    return Experiment("The same work on one thread and on one for each core.", ways, tuple(lines))


def growth(sizes: Sizes) -> Experiment:
    """Time an utterance, over sizes of the corpus and over processes."""
    corpora = {f"{times}x": times * sizes.growth for times in GROWTH}
    ways = {
        name: Way(Growing(sizes.small_encoder, count, sizes.longest, batch=sizes.batch))
        for name, count in corpora.items()
    }
    most = corpora[f"{GROWTH[-1]}x"]
    for count in (1, 2):
        case = SharedEncoding(sizes.small_encoder, most, sizes.longest)
        ways[f"{count} processes"] = Way(case, num_processes=count)
    lines = [
        Line("Pass and one head epoch, an utterance", {"1x": 1 / corpora["1x"]}, {name: 1 / count}, "1x", name)
        for name, count in corpora.items()
        if name != "1x"
    ]
    shared = Line("Pass over the corpus", {"1 processes": 1}, {"2 processes": 1}, "1 process", "2 processes")
    return Experiment(
        "Growth over the corpus, with a small encoder, bf16: the pass over it and one epoch of a Shiftformer, per"
        f" utterance, on one thread; 1x is {sizes.growth} utterances. Then the pass over {most} utterances by one"
        f" process with all {os.cpu_count()} cores and by two that share them (accelerate).",
        ways,
        (*lines, shared),
    )
