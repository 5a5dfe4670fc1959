import pytest
import torch

from shift_ser.training.threads import SMALL_WIDTH, on_threads, threads_of_head


def test_a_small_head_is_trained_on_one_thread_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with on_threads(2):
        assert threads_of_head(SMALL_WIDTH) == 1
        assert threads_of_head(SMALL_WIDTH + 1) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert threads_of_head(SMALL_WIDTH) == 2


def test_threads_are_as_before_whatever_happens_inside():
    before = torch.get_num_threads()
    with pytest.raises(ArithmeticError), on_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ArithmeticError
    assert torch.get_num_threads() == before
