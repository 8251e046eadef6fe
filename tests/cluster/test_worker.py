"""What a process that computes starts with, and how it shows that it is alive. No Ray here."""

import time

import pytest
import torch

from bebert_ray.cluster.worker import _signs_of_life, allotted_device, worker_environment
from bebert_ray.errors import UserError


def test_the_device_comes_from_the_allotment(monkeypatch):
    for seen in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert allotted_device(0) == torch.device("cpu")
    assert allotted_device(0.5) == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"a GPU, but torch sees none there; .*member\.gpu=0"):
        allotted_device(0.5)


def test_only_a_process_without_a_gpu_is_kept_from_seeing_them():
    assert worker_environment(2)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(2, gpu=0.5)  # Ray sets it


def test_signs_of_life_come_while_a_step_runs_and_end_with_it():
    heard = []
    with pytest.raises(KeyError), _signs_of_life(heard.append, {"kind": "alive"}, 0.01):
        while len(heard) < 3:
            time.sleep(0.01)
        raise KeyError
    time.sleep(0.05)
    count = len(heard)
    time.sleep(0.1)
    assert len(heard) == count
