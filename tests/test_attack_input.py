from collections import Counter

import numpy as np

from benchmarks import attack_input
from benchmarks.attack_input import attack


def test_malformed_recordings_are_read_right_or_refused():
    answers = Counter(answer for _, answer, _ in attack(150, seed=1))
    assert answers["wrong"] == 0 and answers["right"] > 5 and answers["clear error"] > 75


def test_the_attack_tells_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(attack_input, "load_speech", lambda given: np.zeros(500, dtype=np.float32))
    assert Counter(answer for _, answer, _ in attack(40, seed=1))["wrong"] > 20
