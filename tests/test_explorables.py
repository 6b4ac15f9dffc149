"""What the page of explorable figures is given, held against the sums that it claims to be."""

import json
from statistics import fmean

import numpy as np
import pytest
import torch

from rlhf_utils import experiments
from rlhf_utils.book import explorables
from rlhf_utils.ppo import PPOConfig, gae, token_rewards

HEADER, ROWS = experiments.read(explorables.RESULTS)
FOUND = {part: explorables.facts(part) for part in explorables.PARTS}
UPDATE = FOUND["update"]
TRAINING = next(row for row in ROWS if row["kind"] == "training")


def test_the_policies_have_written_for_the_same_openings():
    found = FOUND["prices"]
    betas = [policy["beta"] for policy in found["policies"]]
    assert betas[0] is None
    assert betas[1:] == sorted(betas[1:], reverse=True)
    assert PPOConfig.kl_coef in betas
    assert betas[-1] == 0
    for policy in found["policies"]:
        assert {len(policy[name]) for name in ("responses", "reward", "gold", "kl")} == {len(found["openings"])}
    assert set(found["policies"][0]["kl"]) == {0.0}
    # What is sent to the page is what was kept, to three digits behind the point.
    kept = [row for row in ROWS if row["kind"] == "price"]
    for policy, row in zip(found["policies"], kept, strict=True):
        np.testing.assert_allclose(policy["kl"], row["kl"], atol=0.0005 + 1e-9)


def test_other_openings_are_refused():
    rows = [{**row, "prompts": row["prompts"][::-1]} if i else row for i, row in enumerate(ROWS[:2])]
    with pytest.raises(ValueError, match="different openings"):
        explorables.prices(rows)


def test_the_training_leads_from_the_sft_model_to_the_policy_at_the_default_price():
    """The same texts by the same dice, in rows that were computed apart."""
    looks, kept = TRAINING["looks"], {row["kl_coef"]: row for row in ROWS if row["kind"] == "price"}
    for look, row in ((looks[0], kept[None]), (looks[-1], kept[PPOConfig.kl_coef])):
        assert look["responses"] == row["responses"][: len(look["responses"])]
        for name in ("reward", "gold", "kl"):
            assert look[name] == pytest.approx(fmean(row[name]), abs=1e-4)
    assert looks[-1]["updates"] == len(TRAINING["batches"]["score"]) == PPOConfig.updates
    assert FOUND["training"]["openings"] == kept[None]["prompts"][: len(looks[0]["responses"])]


def test_the_update_is_one_of_that_training():
    batch = next(row["batch"] for row in ROWS if row["kind"] == "update")
    for name, value in batch.items():
        assert TRAINING["batches"][name][UPDATE["update"] - 1] == value


@pytest.mark.parametrize("response", UPDATE["responses"], ids=lambda response: f"score {response['score']}")
def test_the_numbers_of_a_token_are_the_packages(response):
    config = UPDATE["config"]
    column = {name: torch.tensor([x]) for name, x in response.items() if isinstance(x, list) and name != "tokens"}
    mask = torch.ones_like(column["values"], dtype=torch.long)
    score = torch.tensor([response["score"]])
    rewards = token_rewards(score, column["logprobs"], column["ref_logprobs"], mask, config["kl_coef"])
    torch.testing.assert_close(rewards, column["rewards"], atol=2e-4, rtol=0)
    advantages, returns = gae(column["rewards"], column["values"], mask, config["gamma"], config["gae_lambda"])
    torch.testing.assert_close(advantages, column["raw_advantages"], atol=5e-4, rtol=0)
    torch.testing.assert_close(returns, column["returns"], atol=5e-4, rtol=0)
    whitening = UPDATE["whitening"]
    whitened = (column["raw_advantages"] - whitening["mean"]) / whitening["deviation"]
    torch.testing.assert_close(whitened, column["advantages"], atol=1e-3, rtol=0)
    ratio = (column["new_logprobs"] - column["logprobs"]).exp()
    torch.testing.assert_close(ratio, column["ratio"], atol=1e-3, rtol=1e-3)
    up, high, low = column["advantages"] > 0, 1 + config["clip_range"], 1 - config["clip_range"]
    wanted = torch.where(up, column["ratio"] > high, column["ratio"] < low)
    assert wanted.tolist() == column["clipped"].tolist()
    assert response["tokens"].count("<eos>") <= 1


def test_the_responses_are_best_median_worst_and_most_clipped():
    best, median, worst, _ = (response["score"] for response in UPDATE["responses"])
    assert best > median > worst
    share = [np.mean(response["clipped"]) for response in UPDATE["responses"]]
    assert max(share) > 0


# ---- what the page tells the reader to look for


def test_texts_that_pan_their_film_become_rare_and_the_reward_dear():
    policies = {policy["beta"]: policy for policy in FOUND["prices"]["policies"]}
    mean = {beta: {name: fmean(p[name]) for name in ("reward", "gold", "kl")} for beta, p in policies.items()}
    assert len(policies) - 1 == 7
    assert len(FOUND["prices"]["openings"]) == 256
    panned = [np.mean(np.array(policies[beta]["reward"]) < 0) for beta in (None, 1.0, 0.4)]
    assert panned[0] > 0.5 > 0.2 > panned[1] > 0.05 > panned[2]
    rising = [None, 1.0, 0.4, 0.15]
    for name in ("reward", "gold"):
        assert mean[None][name] < mean[1.0][name] < mean[0.4][name] < mean[0.15][name]
    assert 1 < mean[rising[-1]]["kl"] < 1.5
    # A nat's worth: of the first steps, and of those at low prices.
    worth = [
        (mean[b]["reward"] - mean[a]["reward"]) / (mean[b]["kl"] - mean[a]["kl"])
        for a, b in ((None, 0.15), (0.15, 0.02), (0.02, 0.0))
    ]
    assert worth[0] > 0.5 > 0.1 > worth[1] > worth[2] > 0
    assert mean[0.0]["reward"] == max(m["reward"] for m in mean.values())
    assert mean[0.0]["gold"] < mean[1.0]["gold"]


def test_texts_end_alike_at_low_prices():
    policies = {policy["beta"]: policy["responses"] for policy in FOUND["prices"]["policies"]}

    def share(beta, end):
        return np.mean([end in text for text in policies[beta]])

    credits = [share(beta, "so we stayed for the credits") for beta in (None, 0.15, 0.05, 0.02, 0.01)]
    assert credits == sorted(credits)
    assert credits[0] < 0.05 < 0.5 < credits[-1]
    assert share(None, "so we stayed again") == 0
    assert share(0.0, "so we stayed again") > 0.5


def test_the_worst_response_blames_its_first_token_and_clips_it():
    worst = UPDATE["responses"][2]
    assert worst["score"] == min(response["score"] for response in UPDATE["responses"])
    assert all(advantage < 0 for advantage in worst["raw_advantages"] + worst["advantages"])
    assert worst["raw_advantages"] == sorted(worst["raw_advantages"], reverse=True)
    assert 0.5 < worst["ratio"][0] < 0.6
    assert worst["clipped"][0]
    assert worst["tokens"][-2:] == [".", "<eos>"]
    assert worst["ratio"][-2] > 1.1
    assert not worst["clipped"][-2]
    assert (UPDATE["update"], UPDATE["config"]["gae_lambda"], UPDATE["config"]["clip_range"]) == (4, 0.95, 0.2)


def test_most_of_the_reward_comes_in_six_updates_and_the_kl_comes_back():
    looks = {look["updates"]: look for look in FOUND["training"]["looks"]}
    last = max(looks)
    gain = looks[last]["reward"] - looks[0]["reward"]
    assert set(range(7)) < set(looks)
    assert (looks[6]["reward"] - looks[0]["reward"]) / gain == pytest.approx(0.8, abs=0.05)
    late = [look for updates, look in looks.items() if updates >= 40]
    assert np.ptp([look["reward"] for look in late]) < 0.01
    assert len({tuple(look["responses"]) for look in late}) == len(late)
    assert max(look["kl"] for look in looks.values()) > looks[last]["kl"] + 0.2
    assert (last, len(FOUND["training"]["openings"])) == (64, 8)


def test_the_data_are_small():
    size = (experiments.folder() / f"{explorables.RESULTS}.jsonl").stat().st_size
    assert size < 300_000
    assert sum(len(json.dumps(found, ensure_ascii=False).encode()) for found in FOUND.values()) < size
