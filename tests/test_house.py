"""A stranger's head, corpus and protocol, each one class or function and one entry, from the command line to a card."""

import re
from pathlib import Path

import pytest
import torch
from conftest import command_line, speech_batch, tiny_encoder_config, tiny_model
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForAudioClassification

from shift_ser import ShiftConfig
from shift_ser.corpora import CORPORA
from shift_ser.corpora.corpus import Corpus, CorpusInfo, SpeechAudio
from shift_ser.evaluation.run_folder import read_json
from shift_ser.hub.model_card import run_card, untrained_card
from shift_ser.model.heads import HEADS, Head, Variant
from shift_ser.model.temporal_shift import temporal_shift
from shift_ser.studies.figures import plot_mingling
from shift_ser.studies.grid import plan_study
from shift_ser.training.fold_plan import FoldPlan
from shift_ser.training.protocols import PROTOCOLS, FoldProtocol


class GatedBlock(nn.Module):
    """Frames times a gate that reads shifted frames."""

    def __init__(self, config, layer):
        super().__init__()
        moves = config.shift_placement == "gate" and layer in config.shift_layers
        self.proportion, self.bias = config.shift_proportion if moves else 0.0, config.gate_bias
        self.gate = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, frames, mask, output_attentions):
        shifted = temporal_shift(frames, proportion=self.proportion)
        return frames * torch.sigmoid(self.gate(shifted) + self.bias) * (1 if mask is None else mask[..., None]), None


GATED = Head(
    block=GatedBlock,
    placements=("gate", "none"),
    published={"num_head_layers": 2, "shift_proportion": 0.5, "shift_direction": "forward", "gate_bias": 1.0},
    variants={
        "gated": Variant("none", "Gated head", "two gated blocks"),
        "shiftgated": Variant("gate", "ShiftGated", "two blocks whose gate reads shifted frames"),
    },
    has_norm=True,
    shifted="last",
)


def read_three_people(root, subset=None):
    """One file a person and label, `anna_calm_0.wav`."""
    paths = sorted(Path(root).glob("*_*_*.wav"))
    people, labels, _ = zip(*(path.stem.split("_") for path in paths), strict=True)
    names = ["calm", "cross"]
    features = Features(
        {"audio": SpeechAudio(), "label": ClassLabel(names=names), "utterance": Value("string"),
         "speaker": Value("string")}
    )  # fmt: skip
    columns = {
        "audio": [str(path) for path in paths], "label": [names.index(label) for label in labels],
        "utterance": [path.stem for path in paths], "speaker": list(people),
    }  # fmt: skip
    return Dataset.from_dict(columns, info=THREE_PEOPLE.info.dataset_info(features))


THREE_PEOPLE = Corpus(
    info=CorpusInfo(name="three", title="Three People", description="Three People: calm, cross.", license="cc0-1.0"),
    is_here=lambda root: (root / "three_people.txt").exists(),
    read=read_three_people,
)


def plan_by_parity(rows, options):
    """The first speaker tests; of the others' utterances every fourth selects."""
    (first, *_) = sorted({row.speaker for row in rows})
    test = [row.utterance for row in rows if row.speaker == first]
    others = [row.utterance for row in rows if row.speaker != first]
    train = [name for place, name in enumerate(others) if place % 4]
    yield FoldPlan(1, f"speaker {first}", "random every fourth", tuple(train), tuple(others[::4]), tuple(test))


FIRST_SPEAKER = FoldProtocol(
    "first_speaker", "the first speaker tests", plan_by_parity, selects=True, reads=(),
    title="the first speaker tests", text=lambda settings: "*The first speaker tests*, once and for all.",
)  # fmt: skip


@pytest.fixture
def gated(monkeypatch):
    monkeypatch.setitem(HEADS, "gated_mean", GATED)


@pytest.fixture
def three_people(monkeypatch, small_corpus, tmp_path):
    """Folder of the made-up corpus, its speech borrowed."""
    monkeypatch.setitem(CORPORA, "three", THREE_PEOPLE)
    folder = tmp_path / "three"
    folder.mkdir()
    (folder / "three_people.txt").touch()
    speech = iter(sorted(small_corpus.rglob("[!.]*.wav")))
    for person in ("anna", "ben", "cleo"):
        for label in ("calm", "cross"):
            for number in range(2):
                (folder / f"{person}_{label}_{number}.wav").write_bytes(next(speech).read_bytes())
    return folder


def test_all_three_from_the_command_line_to_scores_and_a_card(encoder, gated, three_people, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "first_speaker", FIRST_SPEAKER)
    flags = [
        *["--encoder", encoder, "--corpus", three_people, "--variant", "shiftgated", "--protocol", "first_speaker"],
        *["--output_dir", tmp_path / "run", "--cache_dir", tmp_path / "cache", "--num_train_epochs", 2],
        *["--per_device_train_batch_size", 4, "--disable_tqdm", "true"],
    ]
    told = command_line("train", *flags)
    assert told.exit_code == 0, told.output
    assert re.search(r"\|\s+1 \| speaker anna", told.stdout), told.stdout
    results = read_json(tmp_path / "run" / "results.json")
    assert results["folds"][0]["num_test"] == 4 and 0 <= results["summary"]["test"]["ua"]["mean"] <= 1
    card = (tmp_path / "run" / "fold1" / "README.md").read_text(encoding="utf-8")
    for words in (
        "# ShiftGated on", "under a ShiftGated head: two blocks whose gate reads shifted frames.", "license: cc0-1.0",
        "(Three People)", "*The first speaker tests*, once and for all.", "speaker anna",
        "--variant shiftgated", "--protocol first_speaker",
    ):  # fmt: skip
        assert words in card, words
    assert "iemocap" not in card.lower()
    assert run_card(results, model="me/model").startswith("---\n")
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "run" / "fold1")
    assert (model.config.head_type, model.config.gate_bias, model.config.shift_layers) == ("gated_mean", 1.0, [1])
    file = next(three_people.glob("cleo*.wav"))
    told = command_line("predict", "--model", tmp_path / "run" / "fold1", file)
    assert told.exit_code == 0 and "calm" in told.stdout and "cross" in told.stdout
    assert command_line("evaluate", tmp_path / "run").exit_code == 0


def test_a_made_up_head_is_a_configuration_and_a_saved_model(gated, tmp_path):
    config = ShiftConfig(head_type="gated_mean", encoder_config=tiny_encoder_config(), gate_bias=2.0)
    assert (config.shift_placement, config.num_head_layers, config.shift_proportion) == ("gate", 2, 0.5)
    assert config.gate_bias == 2.0 and ShiftConfig.from_variant("gated").shift_placement == "none"
    with pytest.raises(
        StrictDataclassError, match=r"of head_type='gated_mean' must be one of \('gate', 'none'\), got 'replace'"
    ):
        ShiftConfig(head_type="gated_mean", shift_placement="replace")
    model = tiny_model("shiftgated")
    assert "GatedBlock" in model._no_split_modules
    model.save_pretrained(tmp_path)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path)
    speech, mask = speech_batch((4000, 2500))
    with torch.no_grad():
        expected, alone = model(speech, attention_mask=mask).logits, model(speech[1:, :2500]).logits
        assert torch.equal(again(speech, attention_mask=mask).logits, expected)
        torch.testing.assert_close(expected[1:], alone)
        assert not torch.equal(expected, tiny_model("gated")(speech, attention_mask=mask).logits)
    assert "# Gated head on hubert" in untrained_card("gated", "feature_extraction")


def test_a_setting_that_would_be_ignored_is_refused(monkeypatch):
    monkeypatch.setitem(HEADS, "wide", Head(GatedBlock, ("none",), {"conv_kernel_size": 9}, {}))
    with pytest.raises(
        ValueError, match="head 'wide' must be options that are None by default, got 'conv_kernel_size'"
    ):
        ShiftConfig(head_type="wide")


def test_a_made_up_head_has_a_place_in_a_study(gated, encoder, small_corpus, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(
        f"base: {{encoder: {encoder}, corpus: {small_corpus}}}\n"
        "grid: {head_type: [gated_mean, cnn], shift_proportion: [0.25, 0]}\n"
    )
    plan = plan_study(study)
    variants = [words[words.index("--variant") + 1] for words in plan.cells.values()]
    assert sorted(variants) == ["cnn", "gated", "shiftcnn", "shiftgated"]
    groups = [
        {**place.options, "misalignment": 0.1, "mingling": 0.2, "ua": {"mean": 0.5}} for place in plan.places
    ]  # fmt: skip
    figure = plot_mingling(groups, varied=["head_type", "shift_proportion"])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"placement gate", "Gated head", "CNN"} <= set(shown)


def test_a_made_up_corpus_is_checked(three_people):
    told = command_line("check", three_people)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("Three People in ") and "published" not in told.stdout
    assert told.stdout.splitlines()[2].split() == ["all", "6", "6", "12"]
    (three_people / "ben_calm_9.wav").write_bytes(b"RIFF")
    assert command_line("check", three_people).exit_code == 1
