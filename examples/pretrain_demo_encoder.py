"""Pretrain the demo's encoder: a tiny HuBERT, by masked prediction of k-means units of MFCCs, on synthetic speech.

    python examples/pretrain_demo_encoder.py shift_ser/recipes/demo_encoder

It hears other voices and other sentences than the demo corpus, and no labels: how each is said is drawn by chance.
Method: Hsu et al. 2021, arXiv 2106.07447 (first iteration). Needs the extra `demo`.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import nn
from tqdm import tqdm
from transformers import HubertConfig, HubertModel, get_cosine_schedule_with_warmup, set_seed
from transformers.models.hubert.modeling_hubert import _compute_mask_indices

from shift_ser import ShiftFeatureExtractor
from shift_ser.corpora.synthetic_speech import SAMPLING_RATE, SENTENCES, VOICES, Espeak, draw_expression, say
from shift_ser.training.batching import DataCollatorForShift
from shift_ser.training.pretraining import mfcc, stock_extractor

logger = logging.getLogger(__name__)

OTHER_VOICES = (
    "en-us+m5", "en-us+m6", "en-us+m8", "en-us+Annie", "en-us+Andrea", "en-us+linda", "en-us+steph", "en-us+Alicia",
    "en-us+anika", "en-us+belinda", "en-us+aunty", "en-us+Michael", "en-us+paul", "en-us+travis", "en-us+ian",
    "en-us+Denis", "en-us+Andy", "en-us+Gene", "en-us+Alex", "en-us+klatt2",
)  # fmt: skip
OTHER_SENTENCES = (
    "A grey cat slept on the warm roof of the car.",
    "Please turn to page eleven and read it aloud.",
    "The boat came back with the evening tide.",
    "Our neighbours are planting apple trees.",
    "Two engineers checked the bridge before noon.",
    "It was the third time he had lost his ticket.",
    "Someone has opened all of the windows upstairs.",
    "She prefers tea with a little honey in it.",
    "The museum keeps its oldest maps in the cellar.",
    "A bicycle was leaning against the garden wall.",
    "Every Friday they play chess at the corner cafe.",
    "The doctor asked how long I had been waiting.",
    "Clouds were moving quickly over the bare fields.",
    "I bought a pair of shoes and an umbrella.",
    "The radio in the workshop was playing jazz.",
    "They will announce the winner in early spring.",
    "His uncle repairs clocks in a narrow street.",
    "Remember to water the plants while I am away.",
    "The last page of the notebook was missing.",
    "We heard a dog bark somewhere behind the barn.",
    "Fresh snow covered the steps of the school.",
    "The pilot thanked everyone for flying with them.",
    "Half of the questions were about geography.",
    "An old photograph fell out of the dictionary.",
)
CONFIG = HubertConfig(
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=512,
    conv_dim=(32, 64, 128, 128),
    conv_kernel=(16, 5, 5, 2),
    conv_stride=(10, 4, 4, 2),
    conv_bias=True,
    feat_extract_norm="layer",
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    layerdrop=0.0,
    mask_time_prob=0.08,
)


def speak(num_utterances: int, *, seed: int) -> list[np.ndarray]:
    """Utterances `(samples,)` by voices and with sentences that the demo corpus does not have."""
    if set(OTHER_VOICES) & set(VOICES.values()) or set(OTHER_SENTENCES) & set(SENTENCES):
        raise ValueError("voices and sentences must be others than the corpus's")
    rng, espeak, speech = np.random.default_rng(seed), Espeak(), []
    for index in tqdm(range(num_utterances), desc="speaking"):
        text, voice = str(rng.choice(OTHER_SENTENCES)), OTHER_VOICES[index % len(OTHER_VOICES)]
        speech.append(say(espeak, text, voice=voice, expression=draw_expression("xxx", rng=rng), rng=rng))
    return speech


def cluster(features: Sequence[np.ndarray], *, num_units: int, seed: int) -> list[np.ndarray]:
    """K-means unit of every frame, per utterance; features are scaled to unit variance first."""
    stacked = np.concatenate(features)
    mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
    means = MiniBatchKMeans(num_units, random_state=seed, batch_size=4096, n_init=3).fit((stacked - mean) / deviation)
    return [means.predict((feature - mean) / deviation) for feature in features]


def pretrain(speech: Sequence[np.ndarray], units: Sequence[np.ndarray], *, args: argparse.Namespace) -> HubertModel:
    """Train the encoder to tell the units of masked frames; the prediction layer is thrown away."""
    model = HubertModel(CONFIG).train()
    predict = nn.Linear(CONFIG.hidden_size, args.num_units)
    parameters = [*model.parameters(), *predict.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 12, args.steps)
    extractor, collate = ShiftFeatureExtractor(), DataCollatorForShift()
    values = [extractor(wave, sampling_rate=SAMPLING_RATE)["input_values"][0] for wave in speech]
    rng = np.random.default_rng(args.seed)
    with tqdm(range(args.steps), desc="pretraining") as progress:
        for step in progress:
            rows = rng.choice(len(values), args.batch_size, replace=False)
            batch = collate([{"input_values": values[row]} for row in rows])
            frames = int(model._get_feat_extract_output_lengths(batch["input_values"].shape[1]))
            mask = model._get_feature_vector_attention_mask(frames, batch["attention_mask"])
            masked = _compute_mask_indices(mask.shape, 0.5, 10, attention_mask=mask.long(), min_masks=2)
            masked = torch.from_numpy(masked) & mask
            targets = torch.full(mask.shape, -100)
            for row, unit in zip(targets, (units[row] for row in rows), strict=True):
                row[: len(unit)] = torch.from_numpy(unit[:frames])
            hidden = model(batch["input_values"], batch["attention_mask"], mask_time_indices=masked).last_hidden_state
            logits, wanted = predict(hidden[masked]), targets[masked]
            seen = mask & ~masked
            loss = nn.functional.cross_entropy(logits, wanted)
            total = loss + args.unmasked_weight * nn.functional.cross_entropy(predict(hidden[seen]), targets[seen])
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            schedule.step()
            if step % 25 == 24:
                progress.set_postfix(
                    loss=f"{loss.item():.3f}", right=f"{(logits.argmax(-1) == wanted).float().mean():.3f}"
                )
    logger.info("last batch: loss %.3f, units told right %.3f", loss, (logits.argmax(-1) == wanted).float().mean())
    return model.eval()


def main() -> None:
    """Speak, cluster, pretrain, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", type=Path, help="folder of the encoder")
    parser.add_argument("--num_utterances", type=int, default=2400)
    parser.add_argument("--num_units", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1500, help="0 saves random weights, for comparison")
    parser.add_argument("--batch_size", type=int, default=12)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument(
        "--unmasked_weight", type=float, default=1.0, help="weight of the loss on frames that are heard"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_seed(args.seed)
    if args.steps:
        speech = speak(args.num_utterances, seed=args.seed)
        units = cluster([mfcc(wave) for wave in tqdm(speech, desc="MFCC")], num_units=args.num_units, seed=args.seed)
        model = pretrain(speech, units, args=args)
    else:
        model = HubertModel(CONFIG).eval()
    model.save_pretrained(args.output_dir)
    stock_extractor(do_normalize=True).save_pretrained(args.output_dir)
    logger.info("saved %s, %.2f M parameters", args.output_dir, model.num_parameters() / 1e6)


if __name__ == "__main__":
    main()
