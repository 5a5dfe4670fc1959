"""Parameters and operations of the six published heads, as a Markdown table: `python examples/head_sizes.py`.

Of a multiplication and an addition torch counts two operations. Nothing is computed: tensors are on the meta device.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig

from shift_ser import ShiftConfig, ShiftForSequenceClassification
from shift_ser.model.heads import variants

MODELS = ("cnn", "shiftcnn", "lstm", "shiftlstm", "transformer", "shiftformer")
SECONDS = (1, 5)
FRAMES = 50  # of HuBERT base a second, less one for its receptive field


def size_of(variant: str) -> list[int]:
    """Parameters of head and classifier on HuBERT base, and operations for each length."""
    config = ShiftConfig.from_variant(variant, encoder_config=HubertConfig(num_hidden_layers=1), num_labels=4)
    config._attn_implementation = "eager"  # whose products are counted one by one
    with torch.device("meta"):
        model = ShiftForSequenceClassification(config).eval()
        model.shift_ser.encoder = None
    found = [sum(weight.numel() for part in (model.shift_ser.head, model.classifier) for weight in part.parameters())]
    for seconds in SECONDS:
        frames = torch.empty(1, FRAMES * seconds - 1, config.hidden_size, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(encoder_hidden_states=frames)
        found.append(counter.get_total_flops())
    return found


def main() -> None:
    """Print the table."""
    lines = ["| head | parameters | GFLOPs, 1 s | GFLOPs, 5 s |", "|---|---:|---:|---:|"]
    for variant in MODELS:
        parameters, *flops = size_of(variant)
        cells = [variants()[variant][1].title, f"{parameters:,}", *(f"{count / 1e9:.3f}" for count in flops)]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
