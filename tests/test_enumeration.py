import copy

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils.enumeration import all_responses, exact_objective, exact_optimum, response_log_probability
from rlhf_utils.generation import sample
from rlhf_utils.models import response_logprobs
from rlhf_utils.optimum import estimate_optimum
from rlhf_utils.ppo import PPOConfig, gae, policy_loss, token_rewards, train_ppo
from rlhf_utils.tensors import kl_k1, kl_k3

pytestmark = pytest.mark.enumeration
PAD, EOS, V, R = 0, 1, 4, 4
PROMPT = tensor([2, 3])


def make_model(seed):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=V, n_positions=8, n_embd=8, n_layer=1, n_head=2, initializer_range=0.5,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tokenizer_of(words):
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=words[PAD], eos_token=words[EOS])


@pytest.fixture(scope="module")
def world():
    """Every response, a reference and another policy, and a score for each response."""
    samples = all_responses(PROMPT, V, R, EOS, PAD)
    scores = torch.randn(len(samples.ended), generator=torch.Generator().manual_seed(5))
    return samples, make_model(0), make_model(1), scores


def test_all_responses_of_two_tokens_by_hand():
    samples = all_responses(tensor([2]), 3, 2, EOS, PAD)
    assert samples.input_ids[:, 1:].tolist() == [[1, 0], [0, 1], [2, 1], [0, 0], [0, 2], [2, 0], [2, 2]]
    assert samples.response_mask.tolist() == [[1, 0], *[[1, 1]] * 6]
    assert samples.ended.tolist() == [True] * 3 + [False] * 4
    assert samples.attention_mask.tolist() == [[1, 1, 0], *[[1, 1, 1]] * 6]


def test_probabilities_sum_to_one(world):
    samples, reference, policy, _ = world
    assert len(samples.ended) == 3**R + sum(3**t for t in range(R))
    for model in (reference, policy):
        assert response_log_probability(model, samples).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_objective_of_two_responses_by_hand():
    p, ref, scores = tensor([0.8, 0.2]), tensor([0.5, 0.5]), tensor([1.0, 0.0])
    objective, kl = exact_objective(p.log(), ref.log(), scores, 0.5)
    assert kl.item() == pytest.approx(0.8 * 0.470004 - 0.2 * 0.916291, abs=1e-5)  # log 1.6 and log 0.4
    assert objective.item() == pytest.approx(0.8 - 0.5 * 0.192745, abs=1e-5)
    best, value = exact_optimum(ref.log(), scores, 0.5)
    assert best.exp().tolist() == pytest.approx([0.880797, 0.119203], abs=1e-6)  # σ(2)
    assert value.item() == pytest.approx(0.5 * 1.433781, abs=1e-5)  # log((e² + 1)/2) = 1.433781


def test_no_policy_beats_the_optimum_and_the_gap_is_a_divergence(world):
    samples, reference, policy, scores = world
    ref = response_log_probability(reference, samples).detach()
    for kl_coef in (0.1, 0.5, 2.0):
        best, value = exact_optimum(ref, scores, kl_coef)
        reached, _ = exact_objective(best, ref, scores, kl_coef)
        assert reached.item() == pytest.approx(value.item(), abs=1e-5)
        ours = response_log_probability(policy, samples).detach()
        objective, _ = exact_objective(ours, ref, scores, kl_coef)
        from_best = (ours.exp() * (ours - best)).sum()
        assert (value - objective).item() == pytest.approx(kl_coef * from_best.item(), abs=1e-5)
        assert objective < value


def test_samples_come_with_their_probabilities(world):
    samples, _, policy, _ = world
    number = 20_000
    prompts = PROMPT.expand(number, -1)
    uniform = torch.rand(number, R, generator=torch.Generator().manual_seed(0))
    drawn = sample(policy, prompts, torch.ones_like(prompts), R, EOS, PAD, uniform=uniform)
    place = {tuple(row): i for i, row in enumerate(samples.input_ids[:, 2:].tolist())}
    # A response that ended early and one that chose PAD after EOS look alike; only the first is a response.
    counts = torch.zeros(len(place), dtype=torch.float64)
    for row in drawn.input_ids[:, 2:].tolist():
        counts[place[tuple(row)]] += 1
    expected = response_log_probability(policy, samples).exp().detach() * number
    common = expected > 5
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum().item()
    freedom = int(common.sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_ppos_first_gradient_is_the_exact_one(world):
    samples, reference, policy, scores = world
    policy = copy.deepcopy(policy)
    args = (samples.input_ids, samples.attention_mask, samples.response_length)
    ours, mask = response_logprobs(policy, *args), samples.response_mask
    with torch.no_grad():
        theirs = response_logprobs(reference, *args)
    probability = (ours * mask).sum(-1).exp().detach()
    rewards = token_rewards(scores, ours.detach(), theirs, mask, kl_coef=0.3)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, gae_lambda=1.0)
    rows = range(len(scores))
    losses = [
        policy_loss(ours[i : i + 1], ours[i : i + 1].detach(), advantages[i : i + 1], mask[i : i + 1], 0.2)[0]
        * mask[i].sum()  # policy_loss is the mean over a row's tokens
        for i in rows
    ]
    parameters = list(policy.parameters())
    estimated = torch.autograd.grad(-(probability * torch.stack(losses)).sum(), parameters)
    exact, _ = exact_objective(
        response_log_probability(policy, samples), response_log_probability(reference, samples).detach(), scores, 0.3
    )
    for a, b in zip(estimated, torch.autograd.grad(exact, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kl_coef", [0.3, 1.0])
def test_the_estimated_optimum_is_within_its_error(world, kl_coef):
    samples, reference, policy, scores = world
    ref = response_log_probability(reference, samples).detach()
    ours = response_log_probability(policy, samples).detach()
    _, value = exact_optimum(ref, scores, kl_coef)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(ref.exp(), 50_000, replacement=True, generator=generator)
    plain = estimate_optimum(scores[drawn], kl_coef)
    assert plain.value == pytest.approx(value.item(), abs=4 * plain.standard_error)
    drawn = torch.multinomial(ours.exp(), 50_000, replacement=True, generator=generator)
    checked = estimate_optimum(scores[drawn], kl_coef, (ours - ref)[drawn])
    assert checked.value == pytest.approx(value.item(), abs=4 * checked.standard_error)


def test_sampled_kl_and_objective_are_the_exact_ones(world):
    samples, reference, policy, scores = world
    ref, ours = (response_log_probability(m, samples).detach() for m in (reference, policy))
    objective, kl = exact_objective(ours, ref, scores, 0.3)
    drawn = torch.multinomial(ours.exp(), 100_000, replacement=True, generator=torch.Generator().manual_seed(0))
    for estimate, exact in ((kl_k1(ours, ref)[drawn], kl), (kl_k3(ours, ref)[drawn], kl)):
        assert estimate.mean().item() == pytest.approx(exact.item(), abs=4 * estimate.std().item() / 100_000**0.5)
    reached = scores[drawn] - 0.3 * kl_k1(ours, ref)[drawn]
    assert reached.mean().item() == pytest.approx(objective.item(), abs=4 * reached.std().item() / 100_000**0.5)


@pytest.mark.parametrize("value_model", ["shared", "separate"])
def test_the_trainer_comes_near_the_exact_optimum(world, value_model):
    samples, reference, _, scores = world
    place = {tuple(row): i for i, row in enumerate(samples.input_ids.tolist())}
    words = tokenizer_of(["<pad>", "<eos>", "c", "d"])

    def reward(drawn):
        # Rows may be narrower than the longest response, and stand under PAD where their response has ended.
        rows = torch.nn.functional.pad(drawn.input_ids, (0, samples.input_ids.shape[1] - drawn.input_ids.shape[1]))
        return scores[[place[tuple(row)] for row in rows.tolist()]]

    config = PPOConfig(
        updates=150, batch_size=256, minibatch_size=64, epochs=1, learning_rate=2e-2, kl_coef=0.5, vf_coef=0.5,
        value_model=value_model, missing_eos_penalty=0.0, gae_lambda=1.0, max_grad_norm=10.0,
    )  # fmt: skip
    policy, result = train_ppo(reference, words, ["c d"], reward, R, config, threads=1)
    normal = (scores - result.scale.mean) / result.scale.std
    ref = response_log_probability(reference, samples).detach()
    _, value = exact_optimum(ref, normal, config.kl_coef)
    reached, kl = exact_objective(response_log_probability(policy.lm, samples).detach(), ref, normal, config.kl_coef)
    start = (ref.exp() * normal).sum()
    print(((reached - start) / (value - start)).item(), kl.item())
    assert (reached - start) / (value - start) > 0.97
    assert reached <= value + 1e-5
    assert result.history[-1]["kl"] == pytest.approx(kl.item(), abs=0.1)
