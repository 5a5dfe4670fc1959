"""Train and evaluate over the folds of a corpus; the same run as `shift-ser train`.

python examples/run_ser.py demo
accelerate launch examples/run_ser.py shiftformer_feature_extraction --corpus FOLDER
"""

import sys

from shift_ser.cli import cli

if __name__ == "__main__":
    cli(["train", *sys.argv[1:]], prog_name="shift-ser")
