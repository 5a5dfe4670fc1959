"""Run a study of placement, proportion and whatever else a grid varies, as one command.

    python examples/run_study.py demo
    python examples/run_study.py demo --jobs 2 --output_dir runs/mine

The same command goes on where it was stopped; a grid with more values runs only what is new.
"""

import argparse
import logging
import sys

from transformers.utils import logging as transformers_logging

from shift_ser.cpu import keep_freed_memory
from shift_ser.studies.study import run_study


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="YAML file with base and grid, or the name of one that ships with the package")
    parser.add_argument("--output_dir", help="folder of the study, in place of the one in the file")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    try:
        study = run_study(args.study, output_dir=args.output_dir, jobs=args.jobs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"\n{study.summary}\nTables and figures: {study.plan.output_dir}")
    if study.failed:
        sys.exit(f"error: {len(study.failed)} of {len(study.plan.cells)} cells failed, see above")


if __name__ == "__main__":
    main()
