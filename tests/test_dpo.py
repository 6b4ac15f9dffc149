import copy
import dataclasses
import itertools
import math
import random

import pytest
import torch
from torch import tensor

from rlhf_utils.dpo import DPOConfig, encode_pairs, pair_logprobs, train_dpo
from rlhf_utils.enumeration import all_responses, exact_optimum, response_log_probability
from rlhf_utils.errors import UserError
from rlhf_utils.preference_losses import dpo_loss
from rlhf_utils.preferences import Preference, to_trl
from rlhf_utils.training import TrainingError

SMALL = DPOConfig(epochs=2, batch_size=8, learning_rate=1e-2)
PAD, EOS = 0, 1


def separable_pairs(number=64, seed=0):
    """The chosen response holds the word a, the rejected one the word b in its place."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(number):
        prompt, before, after = (rng.choices("cdefg", k=rng.randint(low, 3)) for low in (1, 0, 0))
        chosen, rejected = ("".join(f" {w}" for w in [*before, word, *after]) for word in "ab")
        pairs.append({"prompt": " ".join(prompt), "chosen": chosen, "rejected": rejected})
    return pairs


def ranked_right(policy, reference, words, pairs):
    """Share of the pairs whose implicit reward ranks them as the record says."""
    rows = encode_pairs(words, pairs, 20)
    with torch.no_grad():
        good, bad = pair_logprobs(policy, rows, PAD) - pair_logprobs(reference, rows, PAD)
    return (good > bad).float().mean().item()


# -- the loss


def test_a_policy_like_the_reference_costs_log_2():
    assert dpo_loss(torch.zeros(3), torch.zeros(3), 0.1).item() == pytest.approx(math.log(2))


def test_the_loss_by_hand():
    # β = 1/2 makes the margins log 3 and −log 3: σ is 3/4 and 1/4
    chosen, rejected = tensor([math.log(9), 1.0]), tensor([0.0, 1.0 + math.log(9)])
    loss = dpo_loss(chosen, rejected, 0.5)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_the_gradient_is_weighted_by_how_wrong_the_implicit_reward_is():
    # The paper's section 4: −β σ(−margin) (∇ log π(y⁺) − ∇ log π(y⁻)), a mean over two pairs; σ(∓ log 3) is 1/4 and 3/4
    chosen = tensor([math.log(9), 1.0], requires_grad=True)
    rejected = tensor([0.0, 1.0 + math.log(9)], requires_grad=True)
    up, down = torch.autograd.grad(dpo_loss(chosen, rejected, 0.5), (chosen, rejected))
    torch.testing.assert_close(up, tensor([-0.5 * 0.25 / 2, -0.5 * 0.75 / 2]))
    torch.testing.assert_close(down, -up)


@pytest.mark.parametrize("gap", [-1e5, 1e5])
def test_the_loss_survives_extreme_ratios(gap):
    ratio = tensor([gap], requires_grad=True)
    loss = dpo_loss(ratio, tensor([0.0]), 0.1)
    assert loss.item() == pytest.approx(max(0.0, -0.1 * gap))
    assert torch.isfinite(torch.autograd.grad(loss, ratio)[0]).all()


# -- pairs as tokens


def test_responses_end_in_eos_unless_cut(words):
    pairs = [{"prompt": "a b", "chosen": " c", "rejected": " d e f g"}, {"prompt": "a", "chosen": "", "rejected": " b"}]
    assert encode_pairs(words, pairs, 5) == [([3, 4], [5, 1], [6, 7, 8]), ([3], [1], [4, 1])]


@pytest.mark.parametrize(("prompt", "problem"), [("", "prompt is empty"), ("a b c", "no room is left")])
def test_a_prompt_must_leave_room_and_not_be_empty(make_lm, words, prompt, problem):
    pairs = [{"prompt": prompt, "chosen": " a", "rejected": " b"}]
    with pytest.raises(UserError, match=problem):
        train_dpo(make_lm(), make_lm(), words, pairs, dataclasses.replace(SMALL, max_tokens=3), threads=1)


def test_only_the_response_counts_and_padding_changes_nothing(lm):
    rows = [([3, 4, 5], [6, 1], [7, 8, 9, 1]), ([9], [3, 4, 5, 6, 1], [1])]
    expected = []
    for prompt, response in ((p, r) for side in (1, 2) for p, r in ((row[0], row[side]) for row in rows)):
        logp = lm(input_ids=tensor([prompt + response])).logits[0].log_softmax(-1)  # a row of its own, without padding
        expected.append(sum(logp[len(prompt) - 1 + t, token] for t, token in enumerate(response)))
    for pad_id in (PAD, 7):
        found = pair_logprobs(lm, rows, pad_id)
        torch.testing.assert_close(found, torch.stack(expected).view(2, 2), atol=1e-5, rtol=0)


# -- training


def test_training_starts_at_log_2_even_with_dropout(make_lm, words):
    reference = make_lm(dropout=0.5)
    result = train_dpo(copy.deepcopy(reference), reference, words, separable_pairs(), SMALL, threads=1)
    assert result.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert result.margins[0] == pytest.approx(0, abs=1e-5)


def test_loss_margin_and_accuracy_speak_of_the_same_pair(make_lm, words):
    pairs = separable_pairs(8)
    pairs += [p | {"chosen": p["rejected"], "rejected": p["chosen"]} for p in pairs]
    config = DPOConfig(epochs=1, batch_size=1, learning_rate=0.0)
    result = train_dpo(make_lm(1), make_lm(0), words, pairs, config, threads=1)
    for loss, accuracy, margin in zip(result.losses, result.accuracies, result.margins, strict=True):
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-6)
        assert accuracy == (margin > 0)
    assert sum(result.accuracies) == 8


def test_preferences_are_learnt_and_carry_over_to_other_prompts(make_lm, words, weights_of):
    reference = make_lm(scale=0.1)
    before, policy = weights_of(reference), copy.deepcopy(reference)
    records = [
        Preference(str(i), p["prompt"], p["chosen"], p["rejected"], "a", "me", 1.0, "2026-01-01T00:00:00Z", "test")
        for i, p in enumerate(separable_pairs(128))
    ]
    config = DPOConfig(epochs=4, batch_size=16, learning_rate=1e-2)
    result = train_dpo(policy, reference, words, to_trl(records), config, threads=1)
    assert result.losses[-1] < 0.3
    assert result.margins[-1] > 1
    assert result.accuracies[-1] == 1
    assert ranked_right(policy, reference, words, separable_pairs(200, seed=1)) > 0.98
    assert all(torch.equal(before[n], p) for n, p in reference.named_parameters())
    assert not any(torch.equal(before[n], p) for n, p in policy.named_parameters())
    assert not policy.training


def test_the_reference_reads_each_pair_once_and_the_policy_both_responses_at_a_time(make_lm, words):
    policy, reference, calls = make_lm(), make_lm(), []
    for name, model in (("policy", policy), ("reference", reference)):
        model.base_model.register_forward_hook(lambda *_, name=name: calls.append(name))
    train_dpo(policy, reference, words, separable_pairs(20), dataclasses.replace(SMALL, epochs=3), threads=1)
    assert calls == ["reference"] * 3 + ["policy"] * 9


def test_the_same_seed_gives_the_same_bits(make_lm, words, weights_of):
    results = []
    for seed in (0, 0, 1):
        policy = make_lm()
        config = dataclasses.replace(SMALL, seed=seed)
        results.append((train_dpo(policy, make_lm(), words, separable_pairs(), config, threads=1), weights_of(policy)))
    (ours, first), (same, again), (_, other) = results
    assert ours == same
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_without_pairs_there_is_nothing_to_learn(make_lm, words):
    with pytest.raises(UserError, match="no pair"):
        train_dpo(make_lm(), make_lm(), words, [], SMALL, threads=1)


def test_a_nan_weight_stops_training(make_lm, words):
    policy = make_lm()
    with torch.no_grad():
        policy.transformer.wte.weight[3, 0] = math.nan
    with pytest.raises(TrainingError, match=r"DPO.*step 0"):
        train_dpo(policy, make_lm(), words, separable_pairs(), SMALL, threads=1)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(make_lm, words, weights_of):
    policy = make_lm()
    before = weights_of(policy)
    policy.transformer.wpe.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError):
        train_dpo(policy, make_lm(), words, separable_pairs(), SMALL, threads=1)
    assert all(torch.equal(before[n], p) for n, p in policy.named_parameters())


def test_loss_and_gradient_are_trls(make_lm, words, tmp_path):
    pytest.importorskip("trl", reason="trl needs Python 3.11")
    from datasets import Dataset
    from trl import DPOConfig as TRLConfig
    from trl import DPOTrainer

    policy, reference, pairs = make_lm(1), make_lm(0), separable_pairs(12)
    rows = encode_pairs(words, pairs, 20)
    good, bad = pair_logprobs(policy, rows, PAD) - pair_logprobs(reference, rows, PAD).detach()
    loss = dpo_loss(good, bad, 0.3)
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        processing_class=words,
        train_dataset=Dataset.from_list(pairs),
        args=TRLConfig(
            output_dir=str(tmp_path),
            beta=0.3,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        ),
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    theirs = trainer.compute_loss(policy, batch)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    for ours, other in zip(gradients, torch.autograd.grad(theirs, list(policy.parameters())), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


# -- what the loss leads to


def bradley_terry(preferred):
    """Ordered pairs (i, j), i chosen, in exact proportion: with rewards log k, i wins k_i times to j's k_j."""
    numbers = range(len(preferred))
    return [(i, j) for i, j in itertools.permutations(numbers, 2) for _ in range(preferred[i])]


@pytest.mark.enumeration
@pytest.mark.parametrize("kl_coef", [0.3, 1.0])
def test_the_minimiser_is_the_best_policy(make_lm, kl_coef):
    # 3 tokens of the 16-word model make 7 responses of at most 2 tokens; the reference is renormalised over them
    samples = all_responses(tensor([3, 4]), 3, 2, EOS, PAD)
    with torch.no_grad():
        ref = response_log_probability(make_lm(), samples).double().log_softmax(-1)
    preferred = [1, 2, 3, 1, 4, 2, 6]
    best, _ = exact_optimum(ref, tensor(preferred).double().log(), kl_coef)
    chosen, rejected = tensor(bradley_terry(preferred)).T
    table = torch.zeros_like(ref, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def population_loss():
        optimizer.zero_grad()
        logratios = table.log_softmax(-1) - ref
        loss = dpo_loss(logratios[chosen], logratios[rejected], kl_coef)
        loss.backward()
        return loss

    optimizer.step(population_loss)
    torch.testing.assert_close(table.detach().log_softmax(-1), best, atol=1e-4, rtol=0)
    assert (best - ref).abs().max() > 0.5  # it had a way to go


@pytest.mark.enumeration
def test_the_trained_policys_implicit_reward_is_the_reward(make_lm, words):
    reference, preferred = make_lm(scale=0.1), [1, 2, 4, 1, 2]
    responses = [" a", " b c", " d", " c c e", " a b"]
    pairs = [{"prompt": "f g", "chosen": responses[i], "rejected": responses[j]} for i, j in bradley_terry(preferred)]
    policy = copy.deepcopy(reference)
    config = DPOConfig(epochs=150, batch_size=len(pairs), learning_rate=1e-2, kl_coef=0.5, weight_decay=0.0)
    train_dpo(policy, reference, words, pairs, config, threads=1)
    rows = encode_pairs(words, [{"prompt": "f g", "chosen": r, "rejected": r} for r in responses], 20)
    with torch.no_grad():
        implicit = config.kl_coef * (pair_logprobs(policy, rows, PAD) - pair_logprobs(reference, rows, PAD))[0]
    reward = tensor(preferred).log()
    torch.testing.assert_close(implicit - implicit.mean(), reward - reward.mean(), atol=0.02, rtol=0)
