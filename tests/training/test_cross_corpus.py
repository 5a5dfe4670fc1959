import numpy as np
import pytest
import yaml
from conftest import command_line

from shift_ser.corpora import load_corpus
from shift_ser.evaluation.cross_report import cross_table, describe_cross, plot_cross
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import read_json
from shift_ser.training.arguments import DataArguments
from shift_ser.training.cross_corpus import common_labels


@pytest.fixture(scope="module")
def own_corpus(small_corpus, tmp_path_factory):
    """A table of half of the small corpus under other labels: glad for happy, and a label that the corpus lacks."""
    folder = tmp_path_factory.mktemp("own")
    rows = load_corpus(small_corpus)
    names, lines = rows.features["label"].names, ["audio,label,speaker"]
    paths = rows.data.column("audio").to_pylist()
    for path, label, speaker in zip(paths, rows["label"], rows["speaker"], strict=True):
        told = {"happy": "glad", "neutral": "bored"}.get(names[label], names[label])
        lines.append(f"{path},{told},{speaker}")
    (folder / "own.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "own.csv"


@pytest.fixture(scope="module")
def crossed(small_corpus, own_corpus, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross")
    recipe = {
        "encoder": str(encoder), "variant": "linear", "cache_dir": str(folder / "frames"), "num_train_epochs": 1,
        "learning_rate": "1e-3", "per_device_train_batch_size": 8, "disable_tqdm": True,
        "labels": ["happy=glad"], "output_dir": str(folder / "out"),
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = ("cross", "--recipe", folder / "recipe.yaml", small_corpus, own_corpus, "--num_folds", 5,
             "--protocol", "speaker_groups")  # fmt: skip
    return words, folder / "out", command_line(*words)


def test_each_corpus_on_each_over_the_labels_that_both_have(crossed, small_corpus):
    _, out, told = crossed
    assert told.exit_code == 0, told.stderr
    rows = read_json(out / "results.json")["pairs"]
    assert [(row["train"], row["test"]) for row in rows] == [
        (small_corpus.name, small_corpus.name), (small_corpus.name, "own.csv"), ("own.csv", small_corpus.name),
        ("own.csv", "own.csv"),
    ]  # fmt: skip
    assert read_json(out / "results.json")["labels"] == ["angry", "happy", "sad"]
    assert {row["num_utterances"] for row in rows} == {30} and {row["chance"] for row in rows} == {1 / 3}
    assert [row["unit"] for row in rows] == ["fold", "speaker", "speaker", "fold"]
    assert f"| own.csv | {100 * rows[2]['ua']['estimate']:.1f} (" in told.stdout
    assert (out / "cross.md").read_text(encoding="utf-8").strip() in told.stdout
    assert (out / "cross.png").stat().st_size > 10_000
    assert "over angry, happy, sad" in told.stdout and "†" not in told.stdout


def test_an_interval_over_utterances_among_others_is_marked(tmp_path):
    """Five speakers are too few for an interval over speakers; the fold is the unit on the diagonal."""

    def said(folds, speakers):
        rng = np.random.default_rng(folds)
        rows = [
            {"utterance": f"u{i}", "speaker": f"s{i % speakers}", "fold": fold, "seed": 0, "label": "ab"[i % 2],
             "prediction": rng.choice(["a", "b"])}
            for fold in range(folds) for i in range(60) if folds == 1 or i % speakers % folds == fold
        ]  # fmt: skip
        return Predictions.from_rows(rows)

    whole = {("x", "x"): said(3, 6), ("x", "y"): said(1, 6), ("y", "x"): said(1, 6), ("y", "y"): said(3, 6)}
    for few in ({}, {("x", "y"): said(1, 5)}):
        rows = describe_cross({**whole, **few})
        marked = [line.count("†") for line in cross_table(rows).splitlines() if line.startswith(("| x", "| y"))]
        assert marked == ([1, 0] if few else [0, 0]) and ("over utterances" in cross_table(rows)) == bool(few)
        plot_cross(tmp_path / "cross.png", rows, title="two corpora")


def test_the_other_corpus_is_scored_by_the_models_of_all_folds(crossed, small_corpus, own_corpus):
    """The two hold the same speech: each fold's model says of its own test set what it said in its own corpus."""
    _, out, told = crossed
    there = Predictions.read(out / "cross" / f"{small_corpus.name}_on_own.csv.csv")
    assert len(there) == 5 * 30 and there.count("fold") == 5
    assert f"hold, so that these scores are too high: {small_corpus.name} and own.csv: 30" in told.stdout
    names = []
    for corpus in (small_corpus, own_corpus):
        rows = load_corpus(corpus)
        names.append(dict(zip(rows.data.column("audio").to_pylist(), rows["utterance"], strict=True)))
    twin = {names[0][path]: names[1][path] for path in names[0]}
    keys = zip(there.table["utterance"], there.table["fold"], strict=True)
    elsewhere = dict(zip(keys, there.probabilities, strict=True))
    said = Predictions.read(out / small_corpus.name / "predictions.csv")
    for name, fold, shares in zip(said.table["utterance"], said.table["fold"], said.probabilities, strict=True):
        np.testing.assert_allclose(elsewhere[twin[name], fold], shares, atol=1e-6)


def test_nothing_is_done_twice(crossed, monkeypatch):
    words, _, told = crossed
    for name in ("fold.FoldRun.run", "cross_corpus.evaluate_model"):
        monkeypatch.setattr(f"shift_ser.training.{name}", lambda *_, **__: pytest.fail("done again"))
    assert command_line(*words).stdout == told.stdout


def test_corpora_without_two_common_labels_are_refused(crossed, small_corpus, own_corpus):
    with pytest.raises(ValueError, match="two labels in common") as caught:
        common_labels([str(small_corpus), str(own_corpus)], DataArguments(exclude=["sad"]))
    assert "has angry, happy, neutral, sad; " in str(caught.value) and "has angry, bored, glad, sad" in str(
        caught.value
    )
    told = command_line("cross", small_corpus, "--encoder", crossed[1])
    assert told.exit_code != 0
