r"""Hold this package's PPO against a recording of TRL 1.12.0's (``make_fixture.py``).

The package's own functions run on the recorded weights and tokens, :func:`rlhf_utils.ppo.update_policy` included. Where
TRL's convention is another, a small function here says so in terms of ours, and :class:`Conventions` switches between
the two, one by one. ``python benchmarks/parity/compare.py FILE`` prints the differences and exits with 1 if one of them
exceeds its tolerance.

- **The window of the values.** TRL's responses end with the first PAD after EOS, if there is room for one: the score
  lands there, and the value there (of the state after EOS) takes part in the advantages and is trained. Ours end with
  their last token.
- **Whitening.** TRL divides by the deviation with Bessel's correction (divisor :math:`n - 1`), ours by that with
  divisor :math:`n`.
- **Temperature.** TRL divides the logits by :math:`T + 10^{-7}`.

Three more are settings here: TRL trains a value model of its own, whose head has no bias (``value_trunk``); it clips no
gradients (``max_grad_norm`` infinite); and its rate stays the same during an update (the schedule isn't stepped).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_utils import ppo
from rlhf_utils.generation import Samples
from rlhf_utils.models import PolicyWithValueHead, RewardModel
from rlhf_utils.ppo import PPOConfig
from rlhf_utils.rollout import Rollout, penalise_missing_eos, score_rollout
from rlhf_utils.runtime import evaluating
from rlhf_utils.tensors import masked_mean, whiten
from rlhf_utils.training import make_optimizer

NUMBERS = 1e-5  # the largest absolute difference of a number
VECTORS = 1e-4  # ‖ours − theirs‖ / ‖theirs‖ of a gradient or a change of the parameters
TOLERANCES = {
    "logprobs": NUMBERS,
    "ref_logprobs": NUMBERS,
    "values": NUMBERS,
    "scores": NUMBERS,
    "rewards": NUMBERS,
    "raw_advantages": NUMBERS,
    "advantages": NUMBERS,
    "returns": NUMBERS,
    "policy_loss": NUMBERS,
    "value_loss": NUMBERS,
    "policy_grad": VECTORS,
    "value_grad": VECTORS,
    "policy_change": VECTORS,
    "value_change": VECTORS,
}


# -- what differs, TRL's way second


def response_tokens(mask: Tensor) -> Tensor:
    """Ours: values and rewards stand at the response's tokens, the score at the last. (B, R) → (B, R)."""
    return mask


def with_first_pad(mask: Tensor) -> Tensor:
    """TRL's: the first PAD is one position more, if the response leaves room for it. (B, R) → (B, R)."""
    longer = mask.clone()
    longer[:, 1:] |= mask[:, :-1]
    return longer


def whiten_bessel(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    r"""TRL's ``masked_whiten``: :math:`(x - \mu) / \sqrt{\sigma^2 n/(n-1) + \epsilon}`, by way of ours."""
    shrink = 1 - 1 / mask.sum()
    return whiten(values, mask, eps * shrink.item()) * shrink.sqrt()


def whiten_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """TRL's ``whiten_rewards``: the deviation becomes 1, the mean stays. The package has no such thing, on purpose."""
    return whiten_bessel(rewards, mask) + masked_mean(rewards, mask) * mask


def plain_temperature(temperature: float) -> float:
    """Ours: what divides the logits is the temperature."""
    return temperature


def raised_temperature(temperature: float) -> float:
    """TRL's guard against a temperature of 0."""
    return temperature + 1e-7


@dataclass(frozen=True)
class Conventions:
    """What may be chosen either way in the comparison.

    Attributes:
        window: response mask → positions that have a value; the last of them carries the score.
        whiten: advantages and response mask → whitened advantages.
        temperature: temperature → divisor of the logits.
    """

    window: Callable[[Tensor], Tensor]
    whiten: Callable[[Tensor, Tensor], Tensor]
    temperature: Callable[[float], float]


OURS = Conventions(response_tokens, whiten, plain_temperature)
TRL = Conventions(with_first_pad, whiten_bessel, raised_temperature)
# TRL's conventions but for one
BUT_FOR = {
    "score on the last token": dataclasses.replace(TRL, window=response_tokens),
    "whitening with n": dataclasses.replace(TRL, whiten=whiten),
    "temperature T": dataclasses.replace(TRL, temperature=plain_temperature),
}


# -- the recording


@dataclass(frozen=True)
class Recording:
    """One update of TRL's PPO.

    Attributes:
        about: versions, seed, sizes, names of the parameters, settings of all variants.
        settings: TRL's hyper-parameters in this variant.
        weights: parameters of ``policy``, ``reference``, ``value`` and ``reward`` at the start, one row each.
        theirs: what TRL computed, by the names of its own variables. ``policy_change`` and ``value_change`` are the
            parameters after the update minus those before.
    """

    about: dict[str, Any]
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    theirs: dict[str, Tensor]


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors of a file that ``make_fixture.py`` wrote."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def load(path: Path) -> dict[str, Recording]:
    """All variants of a recording, by name."""
    about, tensors = read_tensors(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}

    weights, recordings = under("weights."), {}
    for name, settings in about["variants"].items():
        theirs = under(f"{name}.")
        for model in ("policy", "value"):
            theirs[f"{model}_change"] = theirs.pop(f"{model}_after") - weights[model]
        recordings[name] = Recording(about, settings, weights, theirs)
    return recordings


def parameters_of(policy: PolicyWithValueHead, recording: Recording) -> dict[str, list[nn.Parameter]]:
    """Our parameters in the order of TRL's two models."""
    names = recording.about["parameters"]
    values = {f"transformer.{name}": p for name, p in policy.value_trunk.named_parameters()}
    values["score.weight"] = policy.value_head.weight
    return {
        "policy": [policy.lm.get_parameter(name) for name in names["policy"]],
        "value": [values[name] for name in names["value"]],
    }


def fill(parameters: list[nn.Parameter], row: Tensor) -> None:
    """Write a row of numbers into parameters."""
    parts = row.split([p.numel() for p in parameters])
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def build(recording: Recording) -> tuple[PolicyWithValueHead, GPT2LMHeadModel, RewardModel]:
    """Our policy, the reference and our reward model, with TRL's weights."""
    sizes = recording.about["model"]
    # GPT-2's own dropout of 0.1 stays in the configuration: both must turn it off
    lm, reference, value = (GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=sizes["eos_token_id"])) for _ in range(3))
    policy = PolicyWithValueHead(lm, value.base_model)
    policy.value_head.bias.requires_grad_(False)  # it is 0, and TRL's head has none
    ours = parameters_of(policy, recording)
    fill(ours["policy"], recording.weights["policy"])
    fill(ours["value"], recording.weights["value"])
    fill(
        [reference.get_parameter(name) for name in recording.about["parameters"]["policy"]],
        recording.weights["reference"],
    )
    reward = RewardModel(reference)
    names = [name.removeprefix("transformer.") for name in recording.about["parameters"]["value"]]
    fill(
        [reward.head.weight if name == "score.weight" else reward.trunk.get_parameter(name) for name in names],
        recording.weights["reward"],
    )
    return policy, reference, reward


def samples_of(recording: Recording, conventions: Conventions) -> Samples:
    """TRL's tokens. The networks see the window: the value at the first PAD is that of the state after EOS."""
    ids = recording.theirs["query_responses"].long()
    length, sizes = recording.about["response_length"], recording.about["model"]
    real = (ids != sizes["pad_token_id"]).long()
    prompt, response = real[:, :-length], real[:, -length:]
    shown = torch.cat([prompt, conventions.window(response)], -1)
    return Samples(ids, shown, response, (ids[:, -length:] == sizes["eos_token_id"]).any(-1))


def config_of(recording: Recording, conventions: Conventions) -> PPOConfig:
    """TRL's settings as ours."""
    theirs, rows = recording.settings, len(recording.theirs["scores"])
    assert theirs["kl_estimator"] == "k1"
    assert theirs["cliprange"] == theirs["cliprange_value"], "ours has one range for both"
    return PPOConfig(
        updates=1,
        batch_size=rows,
        minibatch_size=rows // theirs["num_mini_batches"],
        epochs=theirs["num_ppo_epochs"],
        learning_rate=theirs["learning_rate"],
        kl_coef=theirs["kl_coef"],
        clip_range=theirs["cliprange"],
        vf_coef=theirs["vf_coef"],
        gamma=theirs["gamma"],
        gae_lambda=theirs["lam"],
        max_grad_norm=math.inf,
        missing_eos_penalty=theirs["missing_eos_penalty"],
        temperature=conventions.temperature(theirs["temperature"]),
    )


# -- ours


def batch(recording: Recording, conventions: Conventions, rollout: Rollout, config: PPOConfig) -> dict[str, Tensor]:
    """Rewards, advantages and returns: :func:`rlhf_utils.ppo.advantages_and_returns` under these conventions."""
    mask = rollout.response_mask
    window = conventions.window(mask)
    # The first PAD was not chosen by the policy, so there is no KL there.
    logprobs, ref_logprobs = rollout.old_logprobs * mask, rollout.ref_logprobs * mask
    rewards = ppo.token_rewards(rollout.scores, logprobs, ref_logprobs, window, config.kl_coef)
    if recording.settings["whiten_rewards"]:
        rewards = whiten_rewards(rewards, window)
    raw, returns = ppo.gae(rewards, rollout.values, window, config.gamma, config.gae_lambda)
    return {
        "logprobs": logprobs,
        "ref_logprobs": ref_logprobs,
        "values": rollout.values,
        "scores": rollout.scores,
        "rewards": rewards,
        "raw_advantages": raw,
        "advantages": conventions.whiten(raw, mask),
        "returns": returns,
    }


def update(
    recording: Recording,
    conventions: Conventions,
    policy: PolicyWithValueHead,
    rollout: Rollout,
    seen: dict[str, Tensor],
    config: PPOConfig,
) -> dict[str, Tensor]:
    """Losses and gradients at each step of :func:`rlhf_utils.ppo.update_policy` on TRL's minibatches; the change."""
    settings, parameters = recording.settings, parameters_of(policy, recording)
    optimizer, _ = make_optimizer(policy, config.learning_rate, total_steps=1)
    for group in optimizer.param_groups:
        group.update(betas=(settings["adam_beta1"], settings["adam_beta2"]), eps=settings["adam_epsilon"])
    steps: dict[str, list[Tensor]] = {name: [] for name in ("policy_loss", "value_loss", "policy_grad", "value_grad")}
    policy_loss, value_loss = ppo.policy_loss, ppo.value_loss

    def recorded_policy_loss(*args: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        loss, clipped = policy_loss(*args)
        steps["policy_loss"].append(loss.detach())
        return loss, clipped

    def recorded_value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip_range: float) -> Tensor:
        loss = value_loss(values, old, returns, conventions.window(mask), clip_range)
        steps["value_loss"].append(loss.detach())
        return loss

    def record_gradients(*_: object) -> None:
        for name, some in parameters.items():
            steps[f"{name}_grad"].append(torch.cat([p.grad.flatten() for p in some]))

    optimizer.register_step_pre_hook(record_gradients)
    with mock.patch.multiple(
        ppo,
        minibatches=lambda *_: iter(recording.theirs["rows"].long()),
        policy_loss=recorded_policy_loss,
        value_loss=recorded_value_loss,
    ):
        ppo.update_policy(policy, optimizer, rollout, seen["advantages"], seen["returns"], config, torch.Generator())
    changes = {
        f"{name}_change": nn.utils.parameters_to_vector(some).detach() - recording.weights[name]
        for name, some in parameters.items()
    }
    return {name: torch.stack(parts) for name, parts in steps.items()} | changes


def ours(recording: Recording, conventions: Conventions = TRL) -> dict[str, Tensor]:
    """One update by this package, on TRL's weights and tokens, by the names of :attr:`Recording.theirs`."""
    policy, reference, reward = build(recording)
    config, samples = config_of(recording, conventions), samples_of(recording, conventions)
    plain = samples_of(recording, OURS)  # TRL's reward model too reads the last token
    with evaluating(reward):
        raw = reward(plain.input_ids, plain.attention_mask)
    scores = penalise_missing_eos(raw, samples.ended, config.missing_eos_penalty)
    rollout = score_rollout(policy, reference, samples, scores, config.minibatch_size, config.temperature)
    seen = batch(recording, conventions, rollout, config)
    return seen | update(recording, conventions, policy, rollout, seen, config)


# -- the comparison


def difference(name: str, ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; of gradients and changes the largest relative one of a vector, over the steps."""
    if TOLERANCES[name] == VECTORS:
        return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()
    return (ours - theirs).abs().max().item()


def differences(recording: Recording, ours: dict[str, Tensor]) -> dict[str, float]:
    """Of each quantity in :data:`TOLERANCES`. Where the policy chose nothing, TRL's log-probabilities are fillers."""
    theirs = dict(recording.theirs)
    for name in ("logprobs", "ref_logprobs"):
        theirs[name] = theirs[name] * theirs["response_mask"]
    return {name: difference(name, ours[name], theirs[name]) for name in TOLERANCES}


def table(columns: dict[str, dict[str, float]]) -> str:
    """Differences as Markdown: a row for each quantity, a column for each comparison; what is too large is bold."""
    lines = [
        f"| quantity | measure | tolerance | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for name, tolerance in TOLERANCES.items():
        measure = "relative norm" if tolerance == VECTORS else "absolute"
        sizes = [column[name] for column in columns.values()]
        cells = [f"{size:.1e}" if size <= tolerance else f"**{size:.1e}**" for size in sizes]
        lines.append(f"| {name.replace('_', ' ')} | {measure} | {tolerance:.0e} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stale(fresh: Path, committed: Path) -> list[str]:
    """In what a fresh recording is not the committed one, to 1e-5 (another processor rounds in another way)."""
    (about, new), (old_about, old) = read_tensors(fresh), read_tensors(committed)
    found = [key for key in ("seed", "model", "parameters", "variants") if about[key] != old_about[key]]
    for key in sorted(new.keys() | old.keys()):
        if key not in new or key not in old or new[key].shape != old[key].shape:
            found.append(key)
        elif (largest := (new[key].double() - old[key].double()).abs().max().item()) > (
            NUMBERS if new[key].is_floating_point() else 0
        ):
            found.append(f"{key} ({largest:.1e})")
    return found


def main() -> int:
    """Print the differences; 1 if one is too large or the committed recording is stale."""
    parser = argparse.ArgumentParser(description="Compare this package's PPO with a recording of TRL's.")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--committed", type=Path, help="the recording that this one should equal")
    parser.add_argument("--keep", type=Path, help="file for the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recordings = load(options.recording)
    versions = next(iter(recordings.values())).about["versions"]
    report = ["Recorded with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    failures = []
    if options.committed and (found := stale(options.recording, options.committed)):
        failures.append(f"{options.committed.name} is not what TRL gives here: {', '.join(found[:8])}")
    elif options.committed:
        report[0] += f" {options.committed.name} holds the same, to {NUMBERS:.0e}."
    switched = {name: differences(recording, ours(recording)) for name, recording in recordings.items()}
    report.append(f"Largest differences, with TRL's conventions:\n\n{table(switched)}")
    first = recordings["plain"]
    unswitched = {name: differences(first, ours(first, conventions)) for name, conventions in BUT_FOR.items()}
    report.append(
        f"The same for the variant plain, with one of our conventions in place of TRL's:\n\n{table(unswitched)}"
    )
    text = "\n\n".join(report)
    print(text)
    if options.keep:
        options.keep.write_text(text + "\n")
    for variant, column in switched.items():
        failures += [
            f"{variant}: {name} differs by {size:.1e}" for name, size in column.items() if size > TOLERANCES[name]
        ]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
