"""Write a saved model as an ONNX folder that runs without torch (needs `pip install shift-ser[onnx]`).

python examples/export_onnx.py runs/demo/fold1 exported/demo
"""

import argparse
import logging

import torch

from shift_ser import ShiftFeatureExtractor, ShiftForSequenceClassification
from shift_ser.hub.onnx import export_onnx


def main() -> None:
    """Export the model, check it with onnxruntime, and print how close it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hub name or folder of a saved model")
    parser.add_argument("output_dir", help="folder to write; must not exist yet, or be empty")
    parser.add_argument("--opset", type=int, default=20, help="version of the ONNX operators (default: 20)")
    parser.add_argument("--int8", action="store_true", help="matrix products in int8: smaller and faster")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what it does without
    model = ShiftForSequenceClassification.from_pretrained(args.model, dtype=torch.float32)
    feature_extractor = ShiftFeatureExtractor.from_pretrained(args.model)
    difference = export_onnx(model, feature_extractor, args.output_dir, opset=args.opset, int8=args.int8)
    what = "scores" if args.int8 else "logits"
    print(f"{args.output_dir}: {what} within {difference:.0e} of torch's; its README.md shows how to run it")


if __name__ == "__main__":
    main()
