import itertools

import numpy as np
import pytest
from conftest import command_line
from scipy import stats
from test_uncertainty import by_sklearn, predicted

from shift_ser.evaluation.comparison import FinishedRun, compare, sentence, settings_line
from shift_ser.evaluation.metrics import SCORES
from shift_ser.evaluation.predictions import Predictions
from shift_ser.evaluation.run_folder import write_json


def run(name, right, *, seeds=(0,), num=200, speakers=10, plan="p"):
    """Five folds of two speakers each, if there are ten."""
    plans, rows = {}, []
    for seed in seeds:
        made = predicted(num, speakers=speakers, right=right, seed=hash((seed, right)) % 1000)
        for row in made:
            fold = int(row["speaker"][1:]) // 2 + 1
            plans[fold, seed] = f"{plan}{fold}"
            rows.append({**row, "fold": fold, "seed": seed})
    return FinishedRun(name, Predictions.from_rows(rows), plans)


def pooled(run):
    return run.predictions.rows


def exact_p(one, other, score):
    """All ways to swap the runs speaker by speaker, scored by scikit-learn."""
    one, other = pooled(one), pooled(other)
    speakers = sorted({row["speaker"] for row in one})
    differences = []
    for swap in itertools.product((False, True), repeat=len(speakers)):
        swapped = {speaker for speaker, way in zip(speakers, swap, strict=True) if way}
        pairs = [(b, a) if a["speaker"] in swapped else (a, b) for a, b in zip(one, other, strict=True)]
        differences.append(by_sklearn([a for a, _ in pairs])[score] - by_sklearn([b for _, b in pairs])[score])
    return np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)


def test_p_is_that_of_all_sign_flips():
    one, other = (run(name, right, num=60, speakers=6) for name, right in (("A", 0.7), ("B", 0.5)))
    comparison = compare(one, other)
    for index, name in enumerate(SCORES):
        assert comparison[name]["p"] == pytest.approx(exact_p(one, other, index))
    assert comparison["smallest_p"] == 2 / 2**6


def test_difference_and_effect_size_are_those_of_plain_scores():
    one, other = run("A", 0.7, seeds=(0, 1)), run("B", 0.55, seeds=(0, 1))
    comparison = compare(one, other)
    assert (comparison["num_folds"], comparison["num_seeds"], comparison["num_speakers"]) == (5, 2, 10)
    by_speaker = [
        [row["label"] == row["prediction"] for row in pooled(each) if row["speaker"] == f"s{number}"]
        for each in (one, other)
        for number in range(10)
    ]
    shares = np.mean(by_speaker, axis=1).reshape(2, 10)
    wa = comparison["wa"]
    assert wa["difference"] == pytest.approx(shares[0].mean() - shares[1].mean())
    t = stats.ttest_rel(*shares)
    assert wa["effect_size"] == pytest.approx(t.statistic / np.sqrt(10))
    assert wa["interval"] == pytest.approx(tuple(t.confidence_interval()), abs=0.02)
    assert wa["p"] == pytest.approx(t.pvalue, abs=0.02)
    f1 = [by_sklearn([row for row in pooled(each) if (row["fold"], row["seed"]) == (fold, seed)])[2]
          for each in (one, other) for fold in range(1, 6) for seed in (0, 1)]  # fmt: skip
    f1 = np.reshape(f1, (2, 10))
    assert comparison["f1"]["difference"] == pytest.approx(np.mean(f1[0]) - np.mean(f1[1]), abs=0.02)


def test_the_other_way_round_everything_is_mirrored():
    one, other = run("A", 0.7), run("B", 0.55)
    there, back = compare(one, other), compare(other, one)
    for name in SCORES:
        assert back[name]["difference"] == pytest.approx(-there[name]["difference"])
        assert back[name]["interval"] == pytest.approx([-end for end in there[name]["interval"][::-1]])
        assert back[name]["p"] == pytest.approx(there[name]["p"])
    assert back["runs"] == ["B", "A"]


def test_many_speakers_are_flipped_at_random():
    one, other = (
        FinishedRun(f"{right}", Predictions.from_rows(predicted(300, speakers=30, right=right)))
        for right in (0.6, 0.55)
    )
    p = compare(one, other)["wa"]["p"]
    assert p == compare(one, other)["wa"]["p"]
    assert 0 < p < 1 and p == pytest.approx(compare(one, other, seed=1)["wa"]["p"], abs=0.02)


def test_without_a_difference_p_is_small_no_more_often_than_it_may_be():
    small = [compare(run("A", 0.6, seeds=(i,)), run("B", 0.6000001, seeds=(i,)), num_resamples=20)["wa"]["p"] <= 0.1
             for i in range(150)]  # fmt: skip
    assert np.mean(small) <= 0.16  # 0.1 and two and a half standard errors


def found(difference, interval, p, **more):
    scores = {"difference": difference, "interval": interval, "p": p, "effect_size": 1.1}
    return {"runs": ["Shiftformer", "LSTM"], "level": 0.95, "num_speakers": 10, "smallest_p": 2 / 1024} | {
        "wa": {**scores, **more}
    }


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (found(0.0479, (0.012, 0.084), 0.004),
         "Shiftformer is 4.8 points WA above LSTM (95% interval +1.2 to +8.4 points over 10 speakers; p = 0.004,"
         " d_z = 1.10): the data tell them apart."),
        (found(-0.01, (-0.03, 0.012), 0.4, effect_size=None),
         "Shiftformer is 1.0 points WA below LSTM (95% interval -3.0 to +1.2 points over 10 speakers; p = 0.400):"
         " the data do not tell them apart."),
        (found(0.0001, (-0.03, 0.03), 1.0),
         "Shiftformer is within 0.1 points WA of LSTM (95% interval -3.0 to +3.0 points over 10 speakers; p = 1.000,"
         " d_z = 1.10): the data do not tell them apart."),
        (found(0.2, (0.1, 0.3), 0.125) | {"num_speakers": 4, "smallest_p": 0.125},
         "Shiftformer is 20.0 points WA above LSTM (95% interval +10.0 to +30.0 points over 4 speakers; p = 0.125,"
         " d_z = 1.10): test and interval disagree, so the data do not safely tell them apart (with 4 speakers p"
         " cannot be below 0.125)."),
        (found(0.2, (0.1, 0.3), 0.0004) | {"num_speakers": 14},
         "Shiftformer is 20.0 points WA above LSTM (95% interval +10.0 to +30.0 points over 14 speakers; p < 0.001,"
         " d_z = 1.10): the data tell them apart."),
    ],
)  # fmt: skip
def test_sentence(comparison, expected):
    assert sentence(comparison) == expected


def test_a_run_is_as_good_as_itself():
    comparison = compare(run("A", 0.7), run("A", 0.7))
    assert comparison["f1"] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0, "effect_size": None}
    assert sentence(comparison, score="f1").startswith("A is within 0.1 points macro F1 of A")


def changed(**cell):
    other = run("B", 0.5)
    rows = [row | (cell if row["utterance"] == "u4" else {}) for row in pooled(other)]
    return FinishedRun("B", Predictions.from_rows(rows), other.plans)


def without(*columns):
    other = run("B", 0.5)
    return FinishedRun("B", Predictions(other.predictions.table.drop(columns=[*columns])))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run("B", 0.5, seeds=(0, 1)), "same folds and seeds, only B has fold 1 with seed 1"),
        (run("B", 0.5, seeds=(7,)), "same folds and seeds, only A has fold 1 with seed 0"),
        (run("B", 0.5, plan="q"), "same plans, got p1 and q1 in fold 1 with seed 0"),
        (run("B", 0.5, num=199), "same utterances, only A has 'u199' in fold 5 with seed 0"),
        (without("seed"), "the same columns, only A has seed"),
        (without("speaker"), "a column speaker to be compared, B has none"),
        (changed(label="bored"), r"agree on the label of 'u4', got \('\w+', 'bored'\) in fold 3 with seed 0"),
        (changed(speaker="s5"), r"agree on the speaker of 'u4', got \('s4', 's5'\) in fold 3"),
        (changed(utterance="v"), "same utterances, only A has 'u4' in fold 3"),
    ],
)
def test_runs_that_cannot_be_compared(other, message):
    with pytest.raises(ValueError, match=message):
        compare(run("A", 0.7), other)


def test_too_little_to_compare():
    one = Predictions.from_rows(predicted(9, speakers=1))
    with pytest.raises(ValueError, match=r"at least two speakers to be compared, got \['s0'\]"):
        compare(one, one)


def write_run(folder, made, *, pooled=True, **settings):
    """A run's folder; without `pooled` as an older version left it, each fold's predictions in its own folder."""
    seeds = sorted({seed for _, seed in made.plans})
    settings = {"seeds": seeds if len(seeds) > 1 else None, "plans": made.name, **settings}
    results = [{"fold": fold, "seed": seed, "plan": plan} for (fold, seed), plan in made.plans.items()]
    folder.mkdir()
    for result in results:
        place = folder / (f"seed{result['seed']}" if len(seeds) > 1 else "") / f"fold{result['fold']}"
        place.mkdir(parents=True)
        table = made.predictions.table
        here = table[(table["fold"] == result["fold"]) & (table["seed"] == result["seed"])]
        Predictions(here.drop(columns=["fold", "seed"])).write(place / "predictions.csv")
    if pooled:
        made.predictions.write(folder / "predictions.csv")
    write_json(folder / "results.json", {"settings": settings, "folds": results})
    return folder


@pytest.mark.parametrize(("seeds", "pooled"), [((0,), True), ((0, 1), True), ((0,), False), ((0, 1), False)])
def test_runs_are_read_from_their_folders(tmp_path, seeds, pooled):
    made = [run(name, right, seeds=seeds) for name, right in (("one", 0.8), ("other", 0.4))]
    folders = [write_run(tmp_path / each.name, each, pooled=pooled, head_type=each.name) for each in made]
    comparison = compare(*folders)
    assert comparison == {**compare(*made), "settings": {"head_type": ["one", "other"]}}
    lines = command_line("compare", *folders).stdout.splitlines()
    assert lines == [*(sentence(comparison, score=name) for name in SCORES), settings_line(comparison)]
    assert lines[-1] == "Settings that differ (one, other): head_type (one, other)."


def test_files_of_predictions_are_compared_as_runs_are(tmp_path):
    made = [run(name, right) for name, right in (("one", 0.8), ("other", 0.4))]
    for each in made:
        each.predictions.write(tmp_path / f"{each.name}.csv")
    comparison = compare(*(tmp_path / f"{each.name}.csv" for each in made))
    assert comparison == compare(*made) and settings_line(comparison) == ""
    shuffled = Predictions(made[1].predictions.table.sample(frac=1, random_state=0))
    assert compare(made[0].predictions, shuffled)["ua"] == comparison["ua"]


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"or a file of predictions, there is no .*nowhere.results\.json"):
        compare(tmp_path / "nowhere", tmp_path)
