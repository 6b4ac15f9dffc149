"""The chain from a base model to an aligned policy; each link is made once and kept as an artefact."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_utils import artifacts
from rlhf_utils.algorithms import MODULES, PolicyConfig, name_of
from rlhf_utils.artifacts import code_hash, get_or_make, is_kept, make_key, text_hash
from rlhf_utils.best_of_n import BestOfNConfig, best_of_n, kl_bound, train_rejection_sft
from rlhf_utils.critic_free import CriticFreeConfig, train_critic_free
from rlhf_utils.dpo import DPOConfig, train_dpo
from rlhf_utils.errors import UserError
from rlhf_utils.evaluation import Evaluation, evaluate
from rlhf_utils.generation import Samples
from rlhf_utils.models import RewardModel
from rlhf_utils.ppo import PPOConfig, PPOResult, ScoreScale, measure_scale, train_ppo
from rlhf_utils.preferences import (
    Preference,
    PreferenceConfig,
    annotate,
    chosen_rejected,
    from_labels,
    ranked_by_judge,
    sample_pairs,
    to_trl,
)
from rlhf_utils.processes import agree, world
from rlhf_utils.reward import (
    Reward,
    RewardConfig,
    RewardResult,
    best_threshold,
    model_reward,
    pair_accuracy,
    score_texts,
    text_reward,
    train_reward_model,
)
from rlhf_utils.runtime import pick_device, seed_everything
from rlhf_utils.sft import SFTConfig, SFTResult, train_sft
from rlhf_utils.tasks import Task, load_task
from rlhf_utils.training import TrainingError


@dataclass(frozen=True)
class Settings:
    """The settings of all stages."""

    sft: SFTConfig  #: of the first stage
    preferences: PreferenceConfig  #: how many pairs are judged, and how reliably
    reward: RewardConfig  #: of the reward model's training
    ppo: PPOConfig  #: of the policy's training

    def with_seed(self, seed: int) -> Settings:
        """The same with another seed in every stage."""
        return Settings(*(replace(stage, seed=seed) for stage in (self.sft, self.preferences, self.reward, self.ppo)))


def default_settings(task: Task) -> Settings:
    """Settings that suit a task and the size of its base model."""
    if task.name == "tiny":
        return Settings(SFTConfig(), PreferenceConfig(), RewardConfig(), PPOConfig())
    if task.name == "summaries":
        # The base model can copy, and a high rate spoils that before the reward model has learnt to compare: it does at
        # 5e-4 and doesn't at 2e-3. Texts are three times as long as the tiny task's, so there are fewer of everything.
        return Settings(
            SFTConfig(epochs=1.0, batch_size=16, learning_rate=5e-4, max_texts=3000),
            PreferenceConfig(pairs=5000),
            RewardConfig(epochs=2, batch_size=16, learning_rate=5e-4),
            PPOConfig(updates=16, batch_size=128, minibatch_size=32, learning_rate=5e-4, score_samples=256),
        )
    pairs = PreferenceConfig(pairs=20_000, held_out_pairs=1000)
    if sum(p.numel() for p in task.load_base_model().parameters()) < 20_000_000:
        # A small model from nothing, on a CPU: higher rates than for a pretrained one, and so little of everything
        # that it takes a quarter of an hour at most.
        sft = SFTConfig(epochs=1.0, batch_size=32, learning_rate=2e-3)
        reward = RewardConfig(epochs=2, batch_size=64, learning_rate=1e-3)
        ppo = PPOConfig(updates=48, batch_size=128, minibatch_size=32, learning_rate=8e-4, kl_coef=0.05)
        return Settings(sft, pairs, reward, ppo)
    sft = SFTConfig(epochs=0.0 if task.name == "imdb" else 1.0, batch_size=32, learning_rate=5e-5)
    reward = RewardConfig(epochs=1, batch_size=32, learning_rate=2e-5)
    return Settings(sft, pairs, reward, PPOConfig(learning_rate=1e-5))


class Chain:
    """A task's stages, each computed on first use and loaded afterwards.

    Args:
        task: from :func:`rlhf_utils.tasks.load_task`.
        settings: of the stages; :func:`default_settings` unless given.
        root: folder of the artefacts; the user's cache unless given.
        device: name of a torch device; a GPU if there is one unless given.
        threads: for torch; see :func:`rlhf_utils.runtime.use_threads`.
        preferences: records to learn the reward from in place of the task's own.
        sharded: whether PPO spreads the policy's weights over the processes.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings | None = None,
        root: Path | None = None,
        device: str | None = None,
        threads: int | None = None,
        preferences: list[Preference] | None = None,
        sharded: bool = False,
    ) -> None:
        self.task = task
        self.settings = settings or default_settings(task)
        self.root = root
        self.device = pick_device(device)
        self.threads = threads
        self._given_preferences = preferences
        self.sharded = sharded
        self._aligned: dict[str, tuple[PreTrainedModel, dict[str, Any]]] = {}

    # -- SFT

    @cached_property
    def sft_key(self) -> str:
        """Key of the SFT stage."""
        return make_key(task=self.task.key, config=self.settings.sft, code=code_hash("rlhf_utils.sft"))

    @cached_property
    def _sft(self) -> tuple[PreTrainedModel, SFTResult]:
        task = self.task

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            model = task.load_base_model().to(self.device)
            texts, held_out = ([r.text for r in rows] for rows in (task.train, task.validation))
            result = train_sft(model, task.tokenizer, texts, held_out, self.settings.sft, self.threads)
            return _weights(model), asdict(result)

        tensors, meta = get_or_make("sft", self.sft_key, make, self.root)
        return with_weights(task.load_base_model(), tensors).to(self.device), SFTResult(**meta)

    @property
    def sft_model(self) -> PreTrainedModel:
        """The fine-tuned language model: PPO's start and reference. Copy it before you train it."""
        return self._sft[0]

    @property
    def sft_result(self) -> SFTResult:
        """How SFT went."""
        return self._sft[1]

    # -- preferences

    @cached_property
    def preferences_key(self) -> str:
        """Key of the preferences."""
        if self._given_preferences is not None:
            return make_key(records=text_hash(json.dumps(asdict(r)) for r in self._given_preferences))
        code = code_hash("rlhf_utils.preferences")
        return make_key(sft=self.sft_key, config=self.settings.preferences, code=code)

    @cached_property
    def _preferences(self) -> dict[str, list[Any]]:
        task, config = self.task, self.settings.preferences

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            if task.feedback == "labels":
                # Held-out pairs come from the validation rows, which nothing is trained on.
                records = from_labels(task.train, config.pairs, f"{task.name} labels", config.seed)
                held_out = from_labels(task.validation, config.held_out_pairs, f"{task.name} labels", config.seed)
                return {}, {"records": [asdict(r) for r in records], "held_out": chosen_rejected(held_out)}
            generator = seed_everything(config.seed)
            pairs = sample_pairs(self.sft_model, task, task.train_prompts, config.pairs, generator, self.threads)
            fresh = sample_pairs(
                self.sft_model, task, task.eval_prompts, config.held_out_pairs, generator, self.threads
            )
            records = annotate(pairs, task, config, config.seed)
            return {}, {"records": [asdict(r) for r in records], "held_out": ranked_by_judge(fresh, task)}

        if self._given_preferences is not None:
            raise AssertionError("given preferences have no stage")
        return get_or_make("preferences", self.preferences_key, make, self.root)[1]

    @cached_property
    def preferences(self) -> list[Preference]:
        """The records that the reward model is fitted to."""
        if self._given_preferences is not None:
            return self._given_preferences
        return [Preference(**row) for row in self._preferences["records"]]

    @cached_property
    def held_out_pairs(self) -> list[tuple[str, str]]:
        """(better, worse) texts for other prompts, ranked by the judge without noise, or by the label."""
        if self._given_preferences is not None:
            return replace_preferences(self, None).held_out_pairs
        return [(better, worse) for better, worse in self._preferences["held_out"]]

    # -- reward model

    @cached_property
    def reward_key(self) -> str:
        """Key of the reward model."""
        code = code_hash("rlhf_utils.reward")
        return make_key(
            sft=self.sft_key, preferences=self.preferences_key, config=self.settings.reward, code=code
        )  # fmt: skip

    @cached_property
    def _reward_model(self) -> tuple[RewardModel, RewardResult]:
        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            seed_everything(self.settings.reward.seed)  # the head starts at random
            model = RewardModel(self.sft_model).to(self.device)
            pairs = chosen_rejected(self.preferences)
            result = train_reward_model(model, self.task.tokenizer, pairs, self.settings.reward, self.threads)
            return _weights(model), asdict(result)

        tensors, meta = get_or_make("reward", self.reward_key, make, self.root)
        model = with_weights(RewardModel(self.sft_model), tensors).to(self.device)
        return model, RewardResult(**meta)

    @property
    def reward_model(self) -> RewardModel:
        """The reward model, learnt from the preferences."""
        return self._reward_model[0]

    @property
    def reward_result(self) -> RewardResult:
        """How its training went."""
        return self._reward_model[1]

    @cached_property
    def reward(self) -> Reward:
        """What PPO maximises: the task's ready reward if it has one, else the reward model."""
        if self.task.load_reward:
            return text_reward(self.task.load_reward(), self.task.tokenizer)
        return model_reward(self.reward_model)

    def reward_accuracies(self) -> dict[str, float | None]:
        """``pair_accuracy`` on held-out pairs; ``label_accuracy`` on validation rows.

        The threshold behind the labels comes from training rows. Both are None where the reward is not a trained model.
        """
        if self.task.load_reward:
            return {"pair_accuracy": None, "label_accuracy": None}
        words, model, limit = self.task.tokenizer, self.reward_model, self.settings.reward.max_tokens
        fit, check = self.task.train[:2000], self.task.validation
        threshold = best_threshold(
            score_texts(model, words, [r.text for r in fit], limit), torch.tensor([r.label for r in fit])
        )
        called = score_texts(model, words, [r.text for r in check], limit) > threshold
        right = called == torch.tensor([r.label == 1 for r in check])
        return {
            "pair_accuracy": pair_accuracy(model, words, self.held_out_pairs, limit),
            "label_accuracy": right.float().mean().item(),
        }

    # -- policy

    def policy_key(self, config: PolicyConfig) -> str:
        """Key of the policy that these settings give."""
        reward = self.task.key if self.task.load_reward else self.reward_key
        source = self.preferences_key if isinstance(config, DPOConfig) else reward
        return make_key(sft=self.sft_key, reward=source, config=config, code=code_hash(MODULES[type(config)]))

    def aligned(self, config: PolicyConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The policy that an algorithm makes from the SFT model, and the fields of its result.

        Args:
            config: settings of any algorithm that trains.

        Raises:
            UserError: the settings are those of best-of-n, which trains nothing; see :meth:`best_of_n`.
        """
        if isinstance(config, BestOfNConfig):
            raise UserError("Best-of-n trains no model.", "Take rejection-sft, which trains one on the best of n.")
        name, key = name_of(config), self.policy_key(config)
        if key in self._aligned:
            return self._aligned[key]

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            try:
                model, result = self._train(config)
            except TrainingError as error:
                if error.state is None or not world().is_main:
                    raise
                folder = (self.root or artifacts.cache_folder()) / f"{name}-stopped-{key}"
                artifacts.save(folder, _weights(_language_model(error.state)), {"history": error.history})
                raise TrainingError(f"{error} The policy as it was before lies in {folder}.") from None
            return _weights(_language_model(model)), asdict(result)

        # All processes train together, so the others must not wait for the lock that the main process holds.
        finished = world().size == 1 or agree(is_kept(name, key, self.root))
        if finished or world().is_main:
            tensors, meta = get_or_make(name, key, make, self.root)
        else:
            tensors, meta = make()
        model = with_weights(self.task.load_base_model(), tensors).to(self.device)
        self._aligned[key] = model, meta
        return self._aligned[key]

    def _train(self, config: PolicyConfig) -> tuple[nn.Module, Any]:
        task = self.task
        if isinstance(config, DPOConfig):
            policy = copy.deepcopy(self.sft_model)
            result = train_dpo(policy, self.sft_model, task.tokenizer, to_trl(self.preferences), config, self.threads)
            return policy, result
        args = (self.sft_model, task.tokenizer, task.train_prompts, self.reward, task.max_new_tokens, config)
        if isinstance(config, PPOConfig):
            knows = None if task.load_reward else self.reward_model
            return train_ppo(*args, self.threads, knows, self.sharded)
        if isinstance(config, CriticFreeConfig):
            return train_critic_free(*args, self.threads)
        return train_rejection_sft(*args, self.threads, config.missing_eos_penalty * self.scale.std)

    @property
    def ppo_key(self) -> str:
        """Key of the policy that PPO trains with the chain's settings."""
        return self.policy_key(self.settings.ppo)

    @property
    def policy(self) -> PreTrainedModel:
        """The language model that PPO trained."""
        return self.aligned(self.settings.ppo)[0]

    @cached_property
    def ppo_result(self) -> PPOResult:
        """How PPO went."""
        meta = self.aligned(self.settings.ppo)[1]
        return PPOResult(ScoreScale(**meta["scale"]), meta["history"])

    @cached_property
    def scale(self) -> ScoreScale:
        """Mean and deviation of the raw reward on samples of the SFT model: PPO's, or measured as PPO does."""
        if is_kept("ppo", self.ppo_key, self.root):
            return self.ppo_result.scale
        task, config = self.task, self.settings.ppo
        generator = torch.Generator().manual_seed(config.seed)
        args = (self.sft_model, task.tokenizer, task.train_prompts, self.reward, task.max_new_tokens)
        return measure_scale(*args, config, generator)

    def best_of_n(self, prompts: Sequence[str], config: BestOfNConfig, generator: torch.Generator) -> Samples:
        """Answers of best-of-n: the SFT model writes and the reward chooses."""
        task, penalty = self.task, config.missing_eos_penalty * self.scale.std
        args = (self.sft_model, task.tokenizer, prompts, self.reward, task.max_new_tokens)
        return best_of_n(*args, config.n, generator, config.temperature, penalty)

    def evaluate(self, policy: PreTrainedModel) -> Evaluation:
        """Measure a policy of this chain on fresh samples for held-out prompts."""
        scale = self.scale
        return evaluate(policy, self.sft_model, self.task, self.reward, scale.mean, scale.std)

    def evaluate_best_of_n(self, config: BestOfNConfig) -> Evaluation:
        r"""The same for best-of-n; its ``kl`` is the upper limit :math:`\log n - (n-1)/n`."""
        scale = self.scale
        args = (self.sft_model, self.sft_model, self.task, self.reward, scale.mean, scale.std)
        return evaluate(*args, write=lambda p, g: self.best_of_n(p, config, g), kl=kl_bound(config.n))


def load_chain(task: str = "tiny", seed: int = 0, change: Callable[[Settings], Settings] | None = None) -> Chain:
    """The chain of a task as a lesson uses it, in the user's cache.

    Args:
        task: name of the task.
        seed: of every stage.
        change: makes other settings from the default ones.
    """
    loaded = load_task(task)
    settings = default_settings(loaded).with_seed(seed)
    return Chain(loaded, change(settings) if change else settings)


def replace_preferences(chain: Chain, preferences: list[Preference] | None) -> Chain:
    """The same chain with other preferences; None = the task's own."""
    return Chain(chain.task, chain.settings, chain.root, str(chain.device), chain.threads, preferences)


def _language_model(policy: nn.Module) -> nn.Module:
    """The language model of a policy, without a value head."""
    return getattr(policy, "lm", policy)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Named parameters; tied weights appear once."""
    return {name: p.detach() for name, p in model.named_parameters()}


def with_weights(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Put kept weights into a model of the same shape, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model.eval()
