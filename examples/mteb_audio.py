"""MTEB's tasks on emotion in speech with the embeddings of a saved model.

    pip install mteb
    python examples/mteb_audio.py runs/demo/fold1 --tasks IEMOCAPEmotion CREMA_D

mteb fetches the tasks' data from the Hub, or finds it in its cache. Written against the calls of mteb 2.26; not run.
"""

import argparse
from typing import Any

import mteb
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import AudioCollator

from shift_ser import load_classifier


class ShiftEncoder(AbsEncoder):
    """What mteb calls an encoder: `encode` takes its batches of recordings.

    Args:
        model_name: Hub name or folder of a saved model.
        revision: Not used: `load_classifier` takes the newest.
        device: Not used: the model runs where transformers puts it.
        **options: Those of the classifier's `embed`: `of` and `pooling`.
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **options: Any):
        self.model, self.options = load_classifier(model_name, dtype="float32"), options
        name = f"shift-ser/{model_name.strip('./').replace('/', '_')}"  # mteb wants organisation and name
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "modalities": ["audio"]})

    def encode(self, inputs: Any, **options: Any) -> np.ndarray:
        """Embeddings of all recordings of a data loader, float32 `(recordings, channels)`."""
        inputs.collate_fn = AudioCollator(target_sampling_rate=self.model.feature_extractor.sampling_rate)
        return np.concatenate([self.model.embed(batch["audio"], **self.options) for batch in inputs])


def main() -> None:
    """Run the tasks and print their main scores."""
    parser = argparse.ArgumentParser(description="MTEB's tasks on emotion in speech.")
    parser.add_argument("model", help="Hub name or folder of a saved model")
    parser.add_argument("--tasks", nargs="+", default=["IEMOCAPEmotion", "CREMA_D"])
    parser.add_argument("--of", choices=["head", "encoder"], default="encoder")
    parser.add_argument("--pooling", choices=["mean", "mean_and_deviation"], default="mean")
    args = parser.parse_args()
    model = ShiftEncoder(args.model, of=args.of, pooling=args.pooling)
    for result in mteb.evaluate(model, mteb.get_tasks(args.tasks)).task_results:
        print(result.task_name, result.get_score())


if __name__ == "__main__":
    main()
