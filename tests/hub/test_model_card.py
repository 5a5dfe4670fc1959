import copy
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub, card_errors

from shift_ser.corpora import CORPORA
from shift_ser.evaluation.report import fold_table, summarise
from shift_ser.evaluation.run_folder import read_json
from shift_ser.hub.model_card import (
    PUBLISHED_ENCODERS,
    PUBLISHED_VARIANTS,
    hub_name,
    main,
    repository_name,
    run_card,
    split_hash,
    training_command,
    untrained_card,
)
from shift_ser.model.heads import variants
from shift_ser.training.arguments import ModelArguments, parse_arguments

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
SIX = {f"{head}-{encoder}-iemocap" for head in PUBLISHED_VARIANTS for encoder in ("hubert", "wav2vec2")}
HEADINGS = ["How to use", "Results", "Protocol", "Training", "Data and licence", "Intended use", "Misuse", "Limits"]


@pytest.fixture
def results(finished):
    """Results as of a run on IEMOCAP, for whose card no corpus is needed."""
    results = copy.deepcopy(finished[1])
    results["corpus"] = asdict(CORPORA["iemocap"].info)
    results["settings"]["encoder"] = "facebook/hubert-base-ls960"
    return results


def metadata(card: str) -> str:
    return card.split("\n---\n")[0]


def test_the_committed_cards_are_what_the_generator_writes(tmp_path):
    assert {path.stem for path in CARDS.glob("*.md")} == SIX | {"shiftformer-demo"}
    main(["--folder", str(tmp_path), "--demo", str(tmp_path / "none")])
    assert {path.stem for path in tmp_path.glob("*.md")} == SIX
    for path in tmp_path.glob("*.md"):
        assert path.read_text(encoding="utf-8") == (CARDS / path.name).read_text(encoding="utf-8"), path.name


def test_a_card_tells_how_the_speech_of_training_was_changed(results):
    plain = run_card(results, model="./fold1")
    assert "changed at random" not in plain and "mixed with each other" not in plain
    results["settings"] |= {"augment": ["noise", "room"], "mixup_alpha": 0.4}
    card = run_card(results, model="./fold1")
    assert "The speech of training, and no other, was changed at random: noise, room." in card
    assert "by shares of Beta(0.4, 0.4)." in card and "--augment noise room" in card


def test_the_demo_s_card_is_written_from_its_run(finished, tmp_path):
    main(["--folder", str(tmp_path), "--demo", str(finished[0].output_dir)])
    assert (tmp_path / "shiftformer-demo-confusion.png").read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "shiftformer-demo.md").read_text(encoding="utf-8")
    assert "(shiftformer-demo-confusion.png)" in card and finished[0].table(finished[1]) in card
    ours = (CARDS / "shiftformer-demo.md").read_text(encoding="utf-8")
    assert re.findall("^## .*", ours, flags=re.M) == re.findall("^## .*", card, flags=re.M)
    assert (CARDS / "shiftformer-demo-confusion.png").exists()


def test_the_demo_s_committed_card_agrees_with_itself_and_with_the_recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (CARDS / "shiftformer-demo.md").read_text(encoding="utf-8")
    mean = re.search(r"\| +mean [ |]*(\d\S+?)%? ± (\S+?)%? \| +(\S+?)%? ± (\S+?)%? \|", text)
    wa, ua = ModelCard(text).data.eval_results[:2]
    values = [wa.metric_value, wa.metric_args["std_over_folds"], ua.metric_value, ua.metric_args["std_over_folds"]]
    assert [f"{100 * value:.2f}" for value in values] == list(mean.groups())
    command = re.search(r"```bash\nshift-ser train (.*?)```", text, flags=re.DOTALL)[1]
    said = parse_arguments(shlex.split(command.replace("\\\n", " ")))
    recipe = parse_arguments(["demo"])
    assert said[0] == recipe[0]
    assert {**vars(said[1]), "cache_dir": "", "do_normalize": None} == {**vars(recipe[1]), "cache_dir": ""}
    different = {
        item.name for item in fields(recipe[2]) if getattr(said[2], item.name) != getattr(recipe[2], item.name)
    }
    assert different == {"output_dir", "fold_unit", "validation"}  # what the corpus chose is said


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.md")), ids=lambda path: path.stem)
def test_published_cards_pass_the_hub_s_validation(path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    card = ModelCard(text)
    assert str(card) == text
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    assert again.data.to_dict() == card.data.to_dict()
    assert card.data.pipeline_tag == "audio-classification" and card.data.library_name == "transformers"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with LoopbackHub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        card.validate()
        assert hub.requests == ["POST /api/validate-yaml"]
        with pytest.raises(ValueError, match="pipeline_tag must follow the Hub's rule, got 'speech'"):
            ModelCard(text.replace("pipeline_tag: audio-classification", "pipeline_tag: speech")).validate()


@pytest.mark.parametrize("name", sorted(SIX))
def test_an_untrained_card_claims_nothing(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert "Not trained yet: this command trains it" in text
    assert not re.search(r"\d\s*%", text) and "model-index" not in text and "±" not in text
    assert ModelCard(text).data.eval_results is None
    head, family, _ = name.split("-")
    (scenario,) = (scenario for scenario, encoder in PUBLISHED_ENCODERS.items() if family in encoder)
    recipe = re.search(r"shift-ser train (\S+) --corpus", text)[1]
    model_args = parse_arguments([recipe])[0]
    assert (model_args.variant, model_args.scenario) == (head, scenario)
    assert ModelCard(text).data.base_model == model_args.encoder == PUBLISHED_ENCODERS[scenario]


def test_a_card_of_a_run_on_iemocap(results):
    text = run_card(results, model="me/model", of=results["folds"][1])
    card = ModelCard(text)
    assert not card_errors(text)
    assert re.findall("^## (.*)", text, flags=re.M)[: len(HEADINGS)] == HEADINGS
    assert card.data.datasets == ["iemocap"] and card.data.base_model == "facebook/hubert-base-ls960"
    assert "synthetic" not in text.lower()
    assert card.data.model_name == "shiftformer-hubert-iemocap"
    for result, name in zip(card.data.eval_results, ("wa", "ua", "f1"), strict=True):
        summary = results["summary"]["test"][name]
        assert result.metric_value == round(summary["mean"], 4)
        assert result.metric_args["std_over_folds"] == round(summary["std"], 4)
        assert "test_blind" in result.metric_name and result.dataset_args["protocol"] == "test_blind"
        assert result.dataset_args["epoch"] == "selected on a validation set"
    assert fold_table(results["folds"], num_folds=5) in text
    for fold in results["folds"]:
        assert f"`{fold['plan']}`" in text
    assert "| 5 | the others (24 utterances) | session 1 (8) | session 5 (8) |" in text
    assert split_hash(results) in text and results["versions"]["transformers"] in text
    for words in (
        "trust_remote_code=True",
        "import shift_ser",
        "Article 5(1)(f)",
        "release form",
        "consented",
        "(confusion.png)",
    ):
        assert words in text, words


def test_a_synthetic_run_is_called_so_and_claims_nothing_of_iemocap(finished):
    text = run_card(finished[1], model="somewhere")
    card = ModelCard(text)
    assert "iemocap" not in metadata(text).lower() and "synthetic" in card.data.tags
    assert card.data.datasets is None and card.data.base_model is None and card.data.license == "apache-2.0"
    assert card.data.eval_results[0].dataset_type == "synthetic"
    assert "trained on synthetic speech" in text.splitlines()[metadata(text).count("\n") + 3]


def test_the_oracle_is_never_the_headline(results):
    results["settings"]["protocol"] = "authors"
    for result in results["folds"]:
        result["columns"] |= {"selected": None, "oracle": {"wa": 0.987, "ua": 0.976, "f1": 0.965}}
        result |= {"validation": None, "validation_group": None}
    results["summary"] = summarise(results["folds"], num_folds=5)
    text = run_card(results, model="me/model")
    assert "98.70/97.60" in text and "oracle WA/UA" in text and "they are not results" in text
    assert f"WA {98.7 - 100 * results['summary']['last']['wa']['mean']:+.2f}" in text
    assert "0.98" not in metadata(text) and "oracle" not in metadata(text)
    assert {entry.dataset_args["epoch"] for entry in ModelCard(text).data.eval_results} == {"last"}
    assert "session 1 (8) |" in text and "| nothing |" in text


def test_each_fold_s_folder_has_a_card_of_its_own(finished):
    for fold in range(1, 6):
        card = ModelCard.load(finished[0].output_dir / f"fold{fold}" / "README.md")
        assert f"those of fold {fold}**. They never heard session {fold}," in card.text
        assert f'model="./{finished[0].output_dir.name}/fold{fold}"' in card.text  # a path, no name on the Hub
        assert "confusion" not in card.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["leave one session out", "next session", "The result is the test score of the selected epoch. No"]),
        ({"fold_unit": "speaker", "validation": "speaker"}, ["leave one speaker out", "one speaker of the next"]),
        ({"validation": "random", "refit": True}, ["a random fifth", "Then a new model is trained"]),
        ({"protocol": "authors"}, ["nothing selects", "of the last epoch"]),
    ],
)
def test_the_protocol_is_told_as_it_was_set(results, settings, words):
    results["settings"] |= settings
    text = run_card(results, model="me/model")
    assert [word for word in [*words, "*oracle*", "never the result"] if word not in text.replace("\n", " ")] == []


def test_the_command_repeats_the_settings(cross_validate, tmp_path):
    flags = ["--mask_padding", "false", "--shift_layers", 0, 1, "--bf16", "true", "--adam_epsilon", 1e-7]
    run = cross_validate(tmp_path, *flags, "--optim", "adafactor", "--train_sampling_strategy", "sequential")
    words = shlex.split(training_command(run.settings, source="corpora/demo").replace("\\\n", " "))
    assert words[:4] == ["shift-ser", "train", "--corpus", "corpora/demo"]
    encoder = words.index("--encoder") + 1
    assert words[encoder] == Path(run.settings["encoder"]).name  # no path of this machine
    words[encoder] = run.settings["encoder"]
    model_args, data_args, run_args = parse_arguments(words[2:])
    assert model_args == run.model_args and data_args.max_seconds == run.data_args.max_seconds
    for name, value in run.settings.items():
        if hasattr(run_args, name):
            assert getattr(run_args, name) == getattr(run.run_args, name), (name, value)


@pytest.mark.parametrize("variant", sorted(variants()))
def test_every_head_has_its_words(variant):
    assert variants()[variant][1].title in untrained_card(variant, "feature_extraction")
    assert repository_name(vars(ModelArguments(variant=variant)), corpus="iemocap") == f"{variant}-hubert-iemocap"


def test_names_of_the_hub_are_told_from_folders(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert hub_name("facebook/hubert-base-ls960") == "facebook/hubert-base-ls960"
    assert hub_name("shift_ser/recipes") is hub_name("/home/me/encoder") is hub_name("encoder") is None


def test_results_of_the_demo_are_read_back(finished):
    assert run_card(read_json(finished[0].output_dir / "results.json"), model="m") == run_card(finished[1], model="m")
