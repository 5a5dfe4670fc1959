"""Dialogs against the truth: each number by a loop over moments, and the published form for one event."""

import numpy as np
import pytest

from shift_ser.evaluation.dialogs import ERRORS, FRAME, DialogTime, Span, dialogs_table

LABELS = ["angry", "happy", "neutral", "sad"]


def by_hand(truth, found, duration):
    """Scores by a loop over the middles of frames, with sets of labels."""
    errors, total, right, scored = dict.fromkeys(ERRORS, 0), dict.fromkeys(LABELS, 0), dict.fromkeys(LABELS, 0), 0
    for frame in range(round(duration / FRAME)):
        moment = (frame + 0.5) * FRAME
        said = [span.label for span in truth if span.start <= moment < span.end]
        heard = {span.label for span in found if span.start <= moment < span.end}
        if None in said:
            continue
        scored += 1
        said = set(said)
        if len(said) == 1:
            (label,) = said
            total[label] += 1
            right[label] += heard == said
        said, heard = said - {"neutral"}, heard - {"neutral"}
        errors["missed"] += max(0, len(said) - len(heard))
        errors["overlap" if said else "false_alarm"] += max(0, len(heard) - len(said))
        errors["confusion"] += min(len(said), len(heard)) - len(said & heard)
    return errors, total, right, scored


def spans(rng, count, labels, duration):
    starts = rng.uniform(-0.5, duration, count)
    return [Span(start, start + rng.uniform(0, 2), str(rng.choice(labels))) for start in starts]


def test_every_number_is_that_of_a_loop():
    rng, whole = np.random.default_rng(0), DialogTime(LABELS)
    summed = np.zeros(4, int)
    for _ in range(5):
        truth = [*spans(rng, 6, LABELS, 6.0), Span(1.0, 1.7, None)]
        found, time = spans(rng, 6, LABELS, 6.0), DialogTime(LABELS)
        time.add(truth, found, duration=6.0)
        errors, total, right, scored = by_hand(truth, found, 6.0)
        assert (time.errors, time.scored) == (errors, scored)
        assert time.total.tolist() == [*total.values()] and time.right.tolist() == [*right.values()]
        whole.merge(time)
        summed += time.total
    assert whole.total.tolist() == summed.tolist()
    scores, parts = whole.scores(), sum(whole.scores()[name] for name in ERRORS)
    assert scores["eder"] == pytest.approx(parts)
    assert scores["frame_accuracy"] == pytest.approx(whole.right.sum() / whole.total.sum())
    assert scores["ua"] == pytest.approx(np.mean(whole.right / whole.total))


def test_one_event_gives_the_published_rate():
    """Non-emotional, angry from 2 to 5 s, non-emotional; found: angry from 1 to 3, sad to 4."""
    time = DialogTime(LABELS)
    truth = [Span(0, 2, "neutral"), Span(2, 5, "angry"), Span(5, 8, "neutral")]
    time.add(truth, [Span(1, 3, "angry"), Span(3, 4, "sad"), Span(5, 8, "neutral")], duration=8)
    scores = time.scores()
    assert scores["eder"] == (1 + 1 + 1) / 8, "a second of false alarm, of confusion, of missed emotion"
    assert [scores[name] for name in ERRORS] == [1 / 8, 1 / 8, 1 / 8, 0]


def test_perfect_silent_and_wrong():
    truth, time = [Span(0, 1, "angry"), Span(2, 3, "sad")], DialogTime(LABELS)
    time.add(truth, truth, duration=4)
    assert time.scores()["eder"] == 0 and time.scores()["frame_accuracy"] == 1
    silent = DialogTime(LABELS)
    silent.add(truth, [], duration=4)
    assert silent.scores()["eder"] == 0.5 and silent.scores()["ua"] == 0
    with pytest.raises(ValueError, match="the dialogs must hold labelled speech, got none"):
        DialogTime(LABELS).scores()
    with pytest.raises(ValueError, match=r"labels must be among \['angry', .*, got 'bored'"):
        silent.add([Span(0, 1, "bored")], [], duration=4)


def test_the_table_is_in_percent():
    time = DialogTime(LABELS)
    time.add([Span(0, 60, "angry")], [Span(0, 45, "angry")], duration=120)
    text = dialogs_table([{"setting": "4 s every 1 s", "fold": "all", "scores": time.scores()}])
    assert "| 4 s every 1 s | all | 2.0 | 75.0 | 75.0 | 12.5 | 0.0 | 12.5 | 0.0 | 0.0 |" in text
