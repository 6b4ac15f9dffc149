"""Our PPO against one update of TRL 1.12.0's, which ``benchmarks/parity/make_fixture.py`` recorded.

What differs by convention is named in ``parity.compare.Conventions`` and can be switched; without the switch the
difference must show. ``make parity`` records TRL anew and prints the differences.
"""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from parity.compare import (
    BUT_FOR,
    NUMBERS,
    OURS,
    TOLERANCES,
    TRL,
    VECTORS,
    build,
    config_of,
    difference,
    differences,
    load,
    main,
    ours,
    read_tensors,
    samples_of,
    whiten_bessel,
    with_first_pad,
)
from safetensors.torch import save_file

from rlhf_utils import ppo
from rlhf_utils.rollout import score_rollout

pytestmark = pytest.mark.parity

FIXTURE = Path(__file__).parent / "data" / "trl_ppo.safetensors"
RECORDINGS = load(FIXTURE)
VARIANTS = pytest.mark.parametrize("variant", RECORDINGS)
LAST = BUT_FOR["score on the last token"]


@cache
def run(variant, conventions=TRL):
    return ours(RECORDINGS[variant], conventions)


@cache
def sizes(variant, conventions=TRL):
    return differences(RECORDINGS[variant], run(variant, conventions))


def too_large(found):
    return {name for name, size in found.items() if not size <= TOLERANCES[name]}


# -- what was recorded


def test_the_recording_is_small_and_of_the_last_trl_with_a_ppo():
    assert FIXTURE.stat().st_size < 300_000
    assert RECORDINGS["plain"].about["versions"]["trl"] == "1.12.0"


@VARIANTS
def test_the_batch_holds_the_hard_cases(variant):
    recording = RECORDINGS[variant]
    samples = samples_of(recording, OURS)
    prompts = samples.attention_mask[:, : -samples.response_length].sum(-1)
    lengths, ended = samples.response_mask.sum(-1), samples.ended
    assert len(set(prompts.tolist())) > 2
    assert len(set(lengths.tolist())) > 2
    assert (~ended).any()
    assert (ended & (lengths == 8)).any()  # EOS on the last position: no room for a PAD
    assert (ended & (lengths == 7)).any()
    assert recording.settings["learning_rate"] >= 1e-3
    assert len(recording.theirs["rows"]) >= 2
    # what TRL takes for the response is what we do, and its values reach one position further
    assert torch.equal(samples.response_mask.bool(), recording.theirs["response_mask"])
    assert torch.equal(with_first_pad(samples.response_mask).bool(), recording.theirs["value_mask"])


def test_the_parameters_moved():
    for recording in RECORDINGS.values():
        for model in ("policy", "value"):
            moved = recording.theirs[f"{model}_change"].norm() / recording.weights[model].norm()
            assert moved > 1e-3


# -- parity


@VARIANTS
def test_with_trls_conventions_an_update_is_trls(variant):
    assert too_large(sizes(variant)) == set()


@VARIANTS
def test_what_no_convention_touches_agrees_without_a_switch(variant):
    theirs, mine = RECORDINGS[variant].theirs, run(variant, OURS)
    assert difference("scores", mine["scores"], theirs["scores"]) <= NUMBERS
    for name in ("logprobs", "ref_logprobs", "values"):
        mask = theirs["response_mask"]
        assert difference(name, mine[name] * mask, theirs[name] * mask) <= NUMBERS


@pytest.mark.parametrize("variant", ["plain", "temperature", "lambda_1"])
def test_without_a_switch_the_comparison_runs_what_training_runs(variant):
    recording = RECORDINGS[variant]
    policy, reference, _ = build(recording)
    config, mine = config_of(recording, OURS), run(variant, OURS)
    samples = samples_of(recording, OURS)
    rollout = score_rollout(policy, reference, samples, mine["scores"], config.minibatch_size, config.temperature)
    advantages, returns = ppo.advantages_and_returns(rollout, config.kl_coef, config)
    assert torch.equal(mine["advantages"], advantages)
    assert torch.equal(mine["returns"], returns)


# -- the conventions


def test_with_first_pad_adds_one_position_where_there_is_room():
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert with_first_pad(mask).tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_bessels_whitening_has_the_unbiased_variance():
    values, mask = torch.randn(4, 5), torch.ones(4, 5)
    assert whiten_bessel(values, mask).var().item() == pytest.approx(1)
    assert whiten_bessel(values, mask).mean().item() == pytest.approx(0, abs=1e-6)


def test_where_the_score_lands_shows():
    found = too_large(sizes("plain", LAST))
    assert found == set(TOLERANCES) - {"logprobs", "ref_logprobs", "scores"}


def test_the_divisor_of_whitening_shows():
    found = too_large(sizes("plain", BUT_FOR["whitening with n"]))
    assert {"advantages", "policy_loss", "policy_grad"} <= found
    assert not found & {"rewards", "raw_advantages", "returns", "value_loss", "value_grad", "value_change"}


@VARIANTS
def test_the_raised_temperature_is_below_what_can_be_seen(variant):
    assert too_large(sizes(variant, BUT_FOR["temperature T"])) == set()


def test_the_score_on_the_first_pad_shrinks_a_tokens_advantage_by_what_lambda_leaves():
    r"""One more position behind the last token T: A_TRL(t) − A_ours(t) = −(1 − λ) λ^(T−t) (r − V_PAD)."""
    recording = RECORDINGS["plain"]
    theirs, lam = recording.theirs, recording.settings["lam"]
    mask = theirs["response_mask"]
    last = mask.sum(-1, keepdim=True) - 1
    room = (theirs["value_mask"].sum(-1, keepdim=True) - 1) > last
    at_pad = theirs["values"].gather(1, (last + 1).clamp(max=mask.shape[1] - 1))
    steps = last - torch.arange(mask.shape[1])
    expected = -(1 - lam) * lam ** steps.clamp(min=0) * (theirs["scores"].unsqueeze(1) - at_pad) * mask * room
    found = (theirs["raw_advantages"] - run("plain", OURS)["raw_advantages"]) * mask
    torch.testing.assert_close(found, expected, atol=NUMBERS, rtol=0)
    assert found.abs().max() > 1e-2


def test_at_lambda_1_the_policy_learns_the_same_wherever_the_score_lands():
    theirs, mine, found = RECORDINGS["lambda_1"].theirs, run("lambda_1", LAST), sizes("lambda_1", LAST)
    mask = theirs["response_mask"]
    for name in ("raw_advantages", "returns"):
        assert difference(name, mine[name] * mask, theirs[name] * mask) <= NUMBERS
    assert not too_large(found) & {"advantages", "policy_loss", "policy_grad", "policy_change"}
    # the value model still has one more position to learn in TRL
    assert {"value_loss", "value_grad", "value_change"} <= too_large(found)


# -- the comparison can fail


@pytest.mark.parametrize("factor", [-1.0, 1.01])
@pytest.mark.parametrize("model", ["policy", "value"])
def test_a_wrong_gradient_shows(monkeypatch, model, factor):
    policy_loss, value_loss = ppo.policy_loss, ppo.value_loss
    if model == "policy":
        monkeypatch.setattr(ppo, "policy_loss", lambda *args: (factor * policy_loss(*args)[0], torch.zeros(())))
    else:
        monkeypatch.setattr(ppo, "value_loss", lambda *args: factor * value_loss(*args))
    found = differences(RECORDINGS["plain"], ours(RECORDINGS["plain"]))
    other = {"policy": "value", "value": "policy"}[model]
    assert too_large(found) == {f"{model}_loss", f"{model}_grad", f"{model}_change"}
    assert found[f"{other}_grad"] <= VECTORS
    if factor < 0:
        assert found[f"{model}_grad"] > 1
        assert found[f"{model}_change"] > 1


def test_the_command_fails_on_a_difference_and_on_a_stale_recording(monkeypatch, capsys, tmp_path):
    about, tensors = read_tensors(FIXTURE)
    tensors["plain.returns"] += 1e-3
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, metadata={"about": json.dumps(about)})
    monkeypatch.setattr(sys, "argv", ["compare.py", str(other), "--committed", str(FIXTURE)])
    assert main() == 1
    seen = capsys.readouterr()
    assert "plain: returns differs by 1.0e-03" in seen.err
    assert "is not what TRL gives here: plain.returns (1.0e-03)" in seen.err
    assert "**1.0e-03**" in seen.out


def test_the_command_passes_on_the_committed_recording(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare.py", str(FIXTURE), "--committed", str(FIXTURE)])
    assert main() == 0
    assert "holds the same" in capsys.readouterr().out
