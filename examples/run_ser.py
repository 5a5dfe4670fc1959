"""Train and evaluate a temporal shift model over the folds of IEMOCAP, or of a corpus in its layout.

    python examples/run_ser.py demo
    accelerate launch examples/run_ser.py shiftformer_feature_extraction --corpus FOLDER

`--help` lists the flags: the encoder's and head's, the corpus's, and those of the Trainer. Flags win over the recipe.
The same command goes on where a run was stopped, and runs folds that failed again. `--push_to_hub` brings the finished
run to the Hub; if the upload fails, the same command again goes on with it.
"""

import logging
import sys

from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging as transformers_logging

from shift_ser.cpu import keep_freed_memory
from shift_ser.hub.model_card import write_fold_cards
from shift_ser.hub.push import HubRepository, PushError, same_command
from shift_ser.training.arguments import parse_arguments
from shift_ser.training.cross_validation import AllFoldsFailed, CrossValidation


def main() -> None:
    """Parse, run, print."""
    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    hub = None
    try:
        arguments = parse_arguments(sys.argv[1:])
        main_process = arguments[-1].process_index == 0
        logging.basicConfig(level=logging.INFO if main_process else logging.ERROR, format="%(message)s")
        run = CrossValidation(*arguments)
        if run.run_args.push_to_hub:
            hub = HubRepository(run.run_args, settings=run.settings, corpus=run.corpus.info)
        results = run.run()
        if main_process and not run.run_args.evaluate_only:
            write_fold_cards(run.output_dir, results)
        PartialState().destroy_process_group()  # one that is left to the interpreter's exit may abort it
    except (ValueError, OSError, StrictDataclassError, AllFoldsFailed) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; this goes on from the last finished epoch:\n\n    {same_command(sys.argv)}")
    if main_process:
        print(
            f"\n{results['corpus']['description']}\n\n{run.table(results)}"
            f"\n\nResults, models and figures: {run.results_dir}"
        )
    if run.failed:
        told = "\n".join(f"fold {entry['fold']}, seed {entry['seed']}: {entry['reason']}" for entry in run.failed)
        sys.exit(
            f"error: {len(run.failed)} folds failed\n{told}\nThey are run again by\n\n    {same_command(sys.argv)}"
        )
    if main_process and hub:
        try:
            print(f"Pushed: {hub.push(run.output_dir)}")
        except PushError as error:
            sys.exit(f"error: {error}\n\n    {same_command(sys.argv)}")


if __name__ == "__main__":
    main()
