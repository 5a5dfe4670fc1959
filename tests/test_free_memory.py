"""What a device has left."""

import pytest
import torch

from shift_ser import memory
from shift_ser.memory import free_memory


def test_the_machine_has_something_left():
    assert 0 < free_memory(torch.device("cpu")) < 2**50


def test_a_container_may_leave_less(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = free_memory(torch.device("cpu"))
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory(torch.device("cpu")) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) == pytest.approx(machine, rel=0.5)
