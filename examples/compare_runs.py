"""Compare two finished runs over the same folds and seeds: difference, interval, permutation test, in a sentence.

python examples/compare_runs.py runs/demo runs/demo_lstm
"""

import argparse

from shift_ser.evaluation.comparison import compare, sentence, settings_line


def main() -> None:
    """Print a sentence for WA, UA and macro F1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run, or a file of predictions")
    parser.add_argument("other", help="folder of the run it is compared with")
    args = parser.parse_args()
    try:
        comparison = compare(args.run, args.other)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for score in ("wa", "ua", "f1"):
        print(sentence(comparison, score=score))
    if told := settings_line(comparison):
        print(told)


if __name__ == "__main__":
    main()
