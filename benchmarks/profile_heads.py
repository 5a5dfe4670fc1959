"""Where the time of a head's steps goes: shares of the operators, for each published head, from the cache in bfloat16.

python -m benchmarks.profile_heads [--smoke]
"""

import argparse
from collections.abc import Sequence

from torch.profiler import ProfilerActivity, profile

from shift_ser.cpu import keep_freed_memory

from .feature_extraction import HeadSteps
from .workload import SMOKE, Sizes

HEADS = ("shiftformer", "shiftcnn", "shiftlstm")
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "LSTM": ("aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"),
    "depthwise convolution": ("aten::mkldnn_convolution", "aten::convolution_backward"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::gather"),
    "masks": ("aten::masked_fill_", "aten::where"),
    "norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "optimizer": ("aten::_fused_adamw_",),
}


def shares(case: HeadSteps) -> dict[str, float]:
    """Milliseconds a step, altogether and for each kind of operator."""
    case.prepare()
    case.run()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        case.run()
    own = {event.key: event.self_cpu_time_total / 1e3 / len(case.batches) for event in profiled.key_averages()}
    return {"altogether": sum(own.values())} | {
        kind: sum(own.get(name, 0.0) for name in names) for kind, names in KINDS.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, profile, print a table."""
    parser = argparse.ArgumentParser(description="Profile a step of each head.")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    found = [shares(HeadSteps(SMOKE if args.smoke else Sizes(), head)) for head in HEADS]
    print(f"| milliseconds a step | {' | '.join(HEADS)} |\n|---|{'---:|' * len(HEADS)}")
    for kind in found[0]:
        print(f"| {kind} | {' | '.join(f'{of_head[kind]:.0f}' for of_head in found)} |")


if __name__ == "__main__":
    main()
