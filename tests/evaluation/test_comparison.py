import numpy as np
import pytest
from conftest import command_line
from scipy import stats
from test_uncertainty import by_sklearn, predicted

from shift_ser.evaluation.comparison import FinishedRun, adjust, compare, sentence, settings_line
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


def by_fold(one, other):
    """WA of each fold of both, where folds have equally many utterances."""
    return [
        [np.mean([row["label"] == row["prediction"] for row in pooled(each) if row["fold"] == fold])
         for fold in range(1, 6)]
        for each in (one, other)
    ]  # fmt: skip


def test_difference_and_effect_size_are_those_of_plain_scores():
    one, other = run("A", 0.7, seeds=(0, 1)), run("B", 0.55, seeds=(0, 1))
    comparison = compare(one, other)
    assert (comparison["num_folds"], comparison["num_seeds"], comparison["num_speakers"]) == (5, 2, 10)
    assert (comparison["unit"], comparison["num_units"]) == ("fold", 5)
    shares = by_fold(one, other)
    wa, t = comparison["wa"], stats.ttest_rel(*shares)  # folds are equally large: the score is a mean
    assert wa["difference"] == pytest.approx(np.mean(shares[0]) - np.mean(shares[1]))
    assert wa["effect_size"] == pytest.approx(t.statistic / np.sqrt(5))
    assert wa["interval"] == pytest.approx(tuple(t.confidence_interval()))
    assert wa["p"] == pytest.approx(t.pvalue)
    error = wa["difference"] / t.statistic
    assert wa["detectable"] == pytest.approx((stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * error)
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


def test_predictions_without_folds_are_paired_by_speaker():
    one, other = (Predictions.from_rows(predicted(300, speakers=30, right=right)) for right in (0.6, 0.55))
    comparison = compare(one, other)
    shares = [
        [np.mean([row["label"] == row["prediction"] for row in each.rows if row["speaker"] == f"s{number}"])
         for number in range(30)]
        for each in (one, other)
    ]  # fmt: skip
    assert comparison["wa"]["p"] == pytest.approx(stats.ttest_rel(*shares).pvalue)
    assert (comparison["num_units"], comparison["num_seeds"], comparison["num_folds"]) == (30, 1, 1)


def found(difference, interval, p, **more):
    scores = {"difference": difference, "interval": interval, "p": p, "effect_size": 1.1, "detectable": 0.0512}
    told = {"runs": ["Shiftformer", "LSTM"], "level": 0.95, "num_speakers": 10, "num_seeds": 3}
    return told | {"unit": "fold", "num_units": 5, "wa": {**scores, **more}}


OVER = "points over 5 folds with 10 speakers"


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (found(0.0479, (0.012, 0.084), 0.004),
         f"Shiftformer is 4.8 points WA above LSTM (95% interval +1.2 to +8.4 {OVER}, 3 seeds; p = 0.004):"
         " the data tell them apart."),
        (found(0.0479, (0.012, 0.084), 0.004) | {"num_seeds": 1},
         f"Shiftformer is 4.8 points WA above LSTM (95% interval +1.2 to +8.4 {OVER}, 1 seed; p = 0.004):"
         " these two trainings differ, but one seed does not tell the methods apart."),
        (found(-0.01, (-0.03, 0.012), 0.4),
         f"Shiftformer is 1.0 points WA below LSTM (95% interval -3.0 to +1.2 {OVER}, 3 seeds; p = 0.400):"
         " the data do not tell them apart (a difference of 5.1 points would have been seen in 8 of 10 cases)."),
        (found(0.0001, (-0.03, 0.03), 1.0) | {"unit": "speaker", "num_units": 10},
         "Shiftformer is within 0.1 points WA of LSTM (95% interval -3.0 to +3.0 points over 10 speakers, 3 seeds;"
         " p = 1.000): the data do not tell them apart (a difference of 5.1 points would have been seen in 8 of 10"
         " cases)."),
        (found(0.2, (0.1, 0.3), 0.0004, p_adjusted=0.0502) | {"num_tests": 12},
         f"Shiftformer is 20.0 points WA above LSTM (95% interval +10.0 to +30.0 {OVER}, 3 seeds; p < 0.001,"
         " p = 0.050 by Holm over 12 sentences): the data do not tell them apart (a difference of 5.1 points would"
         " have been seen in 8 of 10 cases)."),
        (found(0.0, (-0.01, 0.01), 1.0),
         f"Shiftformer is within 0.1 points WA of LSTM (95% interval -1.0 to +1.0 {OVER}, 3 seeds; p = 1.000): the"
         " data do not tell them apart (a difference of 5.1 points would have been seen in 8 of 10 cases)."),
        (found(0.0004, (0.0, 0.001), 0.05) | {"num_seeds": 2},  # at its bound; shown are tenths of a point
         f"Shiftformer is within 0.1 points WA of LSTM (95% interval +0.0 to +0.1 {OVER}, 2 seeds; p = 0.050): the"
         " data tell them apart."),
        (found(0.0006, (0.0, 0.001), 0.001),
         f"Shiftformer is 0.1 points WA above LSTM (95% interval +0.0 to +0.1 {OVER}, 3 seeds; p = 0.001): the data"
         " tell them apart."),
    ],
)  # fmt: skip
def test_sentence(comparison, expected):
    assert sentence(comparison) == expected


def test_a_sentence_of_a_dimension_has_three_digits_and_no_points():
    comparison = found(0, [0, 0], 1) | {"ccc_valence": found(-0.0479, (-0.1, 0.0), 0.04)["wa"]}
    told = "Shiftformer is 0.048 CCC valence below LSTM (95% interval -0.100 to +0.000 over 5 folds with 10 speakers,"
    assert sentence(comparison, score="ccc_valence") == f"{told} 3 seeds; p = 0.040): the data tell them apart."
    assert sentence(found(0, [0, 0], 1)).endswith("both scores are equal.")


def test_sentences_that_are_read_together_are_adjusted_together():
    comparisons = adjust([found(0.1, (0, 1), p) for p in (0.01, 0.04, 0.03)], score="wa")
    assert [each["wa"]["p_adjusted"] for each in comparisons] == pytest.approx([0.03, 0.06, 0.06])
    assert {each["num_tests"] for each in comparisons} == {3} and comparisons[1]["wa"]["p"] == 0.04


def test_a_run_is_as_good_as_itself():
    comparison = compare(run("A", 0.7), run("A", 0.7))
    nothing = {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0, "effect_size": None, "detectable": 0.0}
    assert comparison["f1"] == nothing and sentence(comparison).endswith(": both scores are equal.")
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


def valued(values, targets):
    return Predictions.from_rows(
        {"utterance": f"u{row}", "speaker": f"s{row % 6}", "values": {"valence": said}, "targets": {"valence": true}}
        for row, (said, true) in enumerate(zip(values, targets, strict=True))
    )


def test_runs_of_dimensions_need_the_same_true_values_and_runs_of_labels_are_no_runs_of_dimensions():
    numbers = [1.0 * row * row for row in range(12)]
    one, other = valued(numbers, numbers), valued(numbers, [*numbers[:-1], 0.5])
    with pytest.raises(ValueError, match=r"agree on the target_valence of 'u11', got \(.*121.*, .*0\.5.*\)"):
        compare(one, other)
    labels = Predictions.from_rows(predicted(12, speakers=6))
    labels = Predictions(labels.table.assign(utterance=one.table["utterance"], speaker=one.table["speaker"]))
    with pytest.raises(ValueError, match=r"same scores, got \['wa', .*\] of the first and \['ccc', .* of the second"):
        compare(labels, one)


def test_labels_that_one_run_alone_predicts_are_counted():
    rows = predicted(60, speakers=6)
    other = [{**row, "prediction": "bored"} for row in rows]
    comparison = compare(Predictions.from_rows(rows), Predictions.from_rows(other))
    assert comparison["wa"]["difference"] == pytest.approx(by_sklearn(rows)[0])
    assert comparison["f1"]["difference"] == pytest.approx(by_sklearn(rows)[2])


def test_too_little_to_compare():
    one = Predictions.from_rows(predicted(9, speakers=1))
    with pytest.raises(ValueError, match="enough speakers to be compared, got 1 speakers"):
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
