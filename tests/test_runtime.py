import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rlhf_utils.errors import UserError
from rlhf_utils.runtime import autocast, evaluating, pick_device, seed_everything, use_threads


def run_python(code, **env):
    clean = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | env, check=True
    ).stdout.strip()


def test_a_device_can_be_named():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_the_users_to_mend(name):
    with pytest.raises(UserError, match=name):
        pick_device(name)


def test_threads_are_set():
    assert use_threads(2) == 2
    assert torch.get_num_threads() == 2
    assert 1 <= use_threads() <= 8


def test_threads_wait_passively_when_the_package_comes_first():
    code = "import rlhf_utils.runtime, os; print(os.environ['OMP_WAIT_POLICY'], rlhf_utils.THREADS_SPIN)"
    assert run_python(code) == "PASSIVE False"
    assert run_python(code, OMP_WAIT_POLICY="ACTIVE").startswith("ACTIVE")


def test_the_environment_may_ask_for_a_number_of_threads():
    code = "import rlhf_utils.runtime as r; print(r.use_threads(), r.use_threads(2))"
    assert run_python(code, OMP_NUM_THREADS="3") == "3 2"
    assert run_python(code, OMP_NUM_THREADS="many") == run_python(code, OMP_NUM_THREADS="")


def test_one_thread_is_taken_when_torch_came_first():
    code = "import torch, rlhf_utils.runtime as r; print(r.use_threads(), r.use_threads(2))"
    assert run_python(code, OMP_NUM_THREADS="") == "1 2"
    code = "import torch, rlhf_utils; print(rlhf_utils.THREADS_SPIN)"
    assert run_python(code, OMP_WAIT_POLICY="passive") == "False"


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, rlhf_utils; print([m for m in ('torch', 'transformers', 'numpy', 'plotly') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_a_seed_fixes_torch_numpy_and_the_generator():
    draws = []
    for seed in (3, 3, 4):
        generator = seed_everything(seed)
        draws.append((torch.rand(1).item(), np.random.rand(), torch.rand(1, generator=generator).item()))
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


def test_evaluating_restores_each_mode_even_after_an_error():
    on, off = nn.Dropout().train(), nn.Dropout().eval()

    def fail():
        with evaluating(on, off):
            assert not on.training
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert on.training
    assert not off.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("has_units", [True, False])
def test_a_gpu_that_imitates_bf16_computes_in_float32(has_units, monkeypatch):
    supported = lambda including_emulation=True: has_units or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    entered = []
    monkeypatch.setattr(torch, "autocast", lambda *arguments: entered.append(arguments))
    autocast(torch.device("cuda"))
    assert entered == ([("cuda", torch.bfloat16)] if has_units else [])


def test_the_cpu_computes_in_float32():
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
