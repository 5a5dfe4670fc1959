import numpy as np
import pytest

from shift_ser.evaluation.metrics import SCORES
from shift_ser.evaluation.report import COLUMNS, fold_table, headline, intervals_text, summarise


def fold(number: int, wa: float, *, seed: int = 0, gap: float = 0.125, kind: str = "selected") -> dict:
    """A result whose UA and F1 are half and a quarter of its WA; the oracle is better by `gap`."""
    scores = {"wa": wa, "ua": wa / 2, "f1": wa / 4}
    columns = {"last": {name: value - 0.0625 for name, value in scores.items()}, "selected": None}
    columns |= {kind: scores, "oracle": {name: value + gap for name, value in scores.items()}}
    told = {"test_group": f"session {number}", "num_test": 80, "selected_epoch": 7, "last_epoch": 30}
    return {"fold": number, "seed": seed, "columns": columns, "test": scores, **told}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n\n")[0].splitlines()]


def notes(table: str) -> list[str]:
    return table.split("\n\n")[1].splitlines()


def test_summary_is_the_plain_mean_and_the_sample_deviation():
    wa = [0.5, 0.75, 0.625]
    summary = summarise([fold(i, score) for i, score in enumerate(wa, start=1)], num_folds=3)
    assert (summary["folds"], summary["num_folds"], summary["refit"]) == (3, 3, None)
    assert summary["test"] == summary["selected"] and "seeds" not in summary
    for name, share in (("wa", 1), ("ua", 1 / 2), ("f1", 1 / 4)):
        values = np.array(wa) * share
        assert summary["test"][name] == pytest.approx({"mean": np.mean(values), "std": np.std(values, ddof=1)})
        assert summary["oracle"][name]["mean"] == pytest.approx(np.mean(values) + 0.125)
        assert summary["optimism"][name] == pytest.approx(0.125)


def test_summary_of_one_fold_has_no_deviation_and_of_none_is_an_error():
    assert summarise([fold(1, 0.5)], num_folds=5)["test"]["wa"] == {"mean": 0.5, "std": None}
    with pytest.raises(ValueError, match="at least one fold, got none"):
        summarise([], num_folds=5)


@pytest.mark.parametrize("kind", ["last", "selected", "refit"])
def test_the_headline_is_never_the_oracle(kind):
    results = [fold(number, 0.5, kind=kind) for number in (1, 2)]
    assert headline(results[0]) == kind
    summary = summarise(results, num_folds=2)
    assert summary["test"] == summary[kind] != summary["oracle"]
    assert {name for name in COLUMNS if summary[name]} == {"last", "oracle", kind}


def test_seeds_are_averaged_before_the_spread_over_folds():
    wa = np.random.default_rng(0).uniform(size=(3, 5))  # (seeds, folds)
    results = [fold(f + 1, wa[s, f], seed=s) for s in range(3) for f in range(5)]
    summary = summarise(results, num_folds=15)
    expected = {
        "mean": wa.mean(),
        "std": wa.mean(axis=0).std(ddof=1),
        "std_seeds": wa.mean(axis=1).std(ddof=1),
    }
    assert summary["test"]["wa"] == pytest.approx(expected)
    assert {seed: scores["wa"] for seed, scores in summary["seeds"].items()} == pytest.approx(
        {str(seed): wa[seed].mean() for seed in range(3)}
    )
    assert list(summary["seeds"]["0"]) == list(SCORES)
    part = summarise(results[:-1], num_folds=15)
    assert part["test"]["wa"]["std_seeds"] is None
    assert part["test"]["wa"]["mean"] == pytest.approx(np.mean([*wa.mean(axis=0)[:4], wa[:2, 4].mean()]))


def test_table_of_the_blind_protocol():
    table = fold_table([fold(1, 0.5), fold(2, 0.75)], num_folds=2)
    assert cells(table) == [
        ["fold", "test", "n", "epoch", "WA", "UA", "F1", "last WA/UA", "oracle WA/UA"],
        [("-" * (width - 1)) + ":" for width in (4, 9, 2, 5, 13, 12, 12, 11, 12)],
        ["1", "session 1", "80", "7", "50.00", "25.00", "12.50", "43.75/18.75", "62.50/37.50"],
        ["2", "session 2", "80", "7", "75.00", "37.50", "18.75", "68.75/31.25", "87.50/50.00"],
        ["mean", "", "", "", "62.50 ± 17.68", "31.25 ± 8.84", "15.62 ± 4.42", "56.25/25.00", "75.00/43.75"],
    ]
    headline_, gap = notes(table)
    assert "of the epoch that the validation set chose" in headline_
    assert gap.endswith("minus these: WA +12.50, UA +12.50, F1 +12.50.") and "not a result" in gap
    lines = table.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 110


def test_table_of_the_authors_protocol_tells_the_last_epoch():
    result = fold(1, 0.5, kind="last")
    table = fold_table([result], num_folds=5)
    assert cells(table)[2][3] == "30" and "of the last epoch" in notes(table)[0]
    assert cells(table)[3][:2] == ["mean of", "1 of 5 folds"]


def test_table_of_several_seeds_has_a_row_for_each_fold():
    results = [fold(number, 0.5 + seed / 8, seed=seed) for seed in (0, 1) for number in (1, 2)]
    table = fold_table(results, num_folds=4)
    assert [row[0] for row in cells(table)[2:]] == ["1", "2", "mean"]
    assert cells(table)[2][3:5] == ["7, 7", "56.25"]
    assert "- Mean over seeds 0, 1; deviation over seeds: WA 8.84, UA 4.42, F1 2.21." in notes(table)
    missing = [{"fold": 2, "seed": 1, "reason": "OSError: the disk is full"}]
    part = fold_table(results[:-1], num_folds=4, missing=missing)
    assert "- Missing: fold 2 of seed 1: OSError: the disk is full" in notes(part)
    assert "deviation over seeds: some missing." in part and cells(part)[-1][1] == "3 of 4 folds"


def test_table_says_what_is_missing_and_why():
    missing = [{"fold": 2, "seed": 0, "reason": "not run"}]
    table = fold_table([fold(1, 0.5)], num_folds=2, missing=missing)
    assert notes(table)[-1] == "- Missing: fold 2: not run"


def test_intervals_name_what_was_drawn_anew_and_leave_out_what_cannot_be():
    said = {"level": 0.95, "num_utterances": 80, "num_speakers": 1, "unit": None, "num_units": None}
    said |= {name: {"estimate": 0.7, "utterances": [0.61, 0.795], "speakers": None} for name in SCORES}
    said["no_interval"] = "1 speakers are too few"
    calibration = {"ece_before": 0.123, "ece_after": None, "accuracy_at": {"50%": 0.9, "100%": 0.7}}
    calibration |= {"ece_calibrated": {"mean": 0.056, "quantile": 0.083}, "nll_before": 0.9, "brier_before": 0.4}
    calibration |= {"nll_after": 0.8, "brier_after": 0.3, "intervals": {"nll": [0.7, 1], "brier": None}}
    assert intervals_text({"uncertainty": said, "calibration": calibration}).splitlines() == [
        "- No interval over speakers: 1 speakers are too few.",
        "- 95% confidence interval over 80 utterances of the same speakers and models: "
        "WA 61.0 to 79.5, UA 61.0 to 79.5, F1 61.0 to 79.5.",
        "- Negative log-likelihood 0.900 (0.700 to 1.000); Brier score 0.400.",
        "- Calibration error (ECE) 12.3 (perfect calibration would show 5.6, below 8.3 in 95%);"
        " right among the most confident: 90.0 of 50%, 70.0 of 100%.",
    ]
    unknown = intervals_text({"uncertainty": said, "calibration": None})
    assert unknown.splitlines()[-1] == "- No probabilities: calibration is not known."
    lines = intervals_text({"uncertainty": said, "calibration": calibration | {"ece_after": 0.05}}).splitlines()
    assert lines[-1].startswith("- Calibration error (ECE) 12.3, with the temperature of the validation set 5.0 (per")
    folds = said | {"unit": "fold", "num_units": 5, "wa": said["wa"] | {"speakers": [0.5, 0.9]}}
    line = intervals_text({"uncertainty": folds, "calibration": None}).splitlines()[0]
    assert line == "- 95% confidence interval over 5 folds with 1 speakers: WA 50.0 to 90.0."


def test_with_a_refit_the_optimism_gap_is_that_of_the_training_the_epoch_was_chosen_in():
    results = [fold(number, 0.5, kind="refit") for number in (1, 2)]
    for result in results:
        result["columns"]["selected"] = {"wa": 0.375, "ua": 0.125, "f1": 0.0625}
    summary = summarise(results, num_folds=2)
    assert summary["optimism"]["wa"] == pytest.approx(0.625 - 0.375)
    assert "minus the selected epoch of the same training: WA +25.00" in fold_table(results, num_folds=2)
