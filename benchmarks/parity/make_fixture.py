"""Record one PPO update of TRL 1.12.0, tensor by tensor, on models of two thousand parameters.

Runs in an environment with TRL 1.12.0 (``make parity`` makes it) and imports nothing of this project. Nothing of TRL is
typed again here: ``PPOTrainer.train`` runs as it is, and the recorder reads its local variables at the moments at which
it calls a function that can be wrapped.
"""

from __future__ import annotations

import os

# Read when the libraries are loaded: the same bits on every run, no network, no warning that PPO is experimental.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRL_EXPERIMENTAL_SILENCE="1")

import argparse
import contextlib
import io
import json
import platform
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import accelerate
import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

SEED = 18
PAD, EOS, VOCAB = 0, 1, 24
SHAPE = {"vocab_size": VOCAB, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
INITIALIZER_RANGE = 0.3  # distributions far from uniform, values of the order of the scores
PROMPT_LENGTHS = [2, 5, 3, 4] * 4
RESPONSE_LENGTH = 8

# Two of Adam's settings are not TRL's defaults. β₂ = 0.95 is the package's. ε = 1e-4 is far above the rounding noise of
# gradients: the bias of attention's keys has gradient 0 but for rounding (a constant in all scores changes no softmax),
# and with ε = 1e-8 Adam turned that noise into steps that made up to 1 % of the norm of the whole change.
BASE = {
    "learning_rate": 5e-3,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-4,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "temperature": 1.0,
    "kl_coef": 0.1,
    "kl_estimator": "k1",
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "vf_coef": 0.5,
    "gamma": 1.0,
    "lam": 0.95,
    "missing_eos_penalty": 1.0,
    "whiten_rewards": False,
}
VARIANTS = {
    "plain": BASE,
    "temperature": {**BASE, "temperature": 0.7, "num_ppo_epochs": 1},
    "whitened_rewards": {**BASE, "whiten_rewards": True, "num_ppo_epochs": 1},
    "lambda_1": {**BASE, "lam": 1.0, "num_ppo_epochs": 1},
}

BATCH = ["query_responses", "logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; PAD and EOS are distinct, prompts are padded on the left."""
    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(2, VOCAB)}}
    core = Tokenizer(models.WordLevel(words, unk_token="w2"))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="w2", padding_side="left"
    )


def make_models(seed: int) -> dict[str, nn.Module]:
    """Policy, reference (the policy and some noise, so that the KL is neither 0 nor huge), value and reward model."""
    config = GPT2Config(
        **SHAPE,
        initializer_range=INITIALIZER_RANGE,
        num_labels=1,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    torch.manual_seed(seed)
    built = {
        "policy": GPT2LMHeadModel(config),
        "reference": GPT2LMHeadModel(config),
        "value": GPT2ForSequenceClassification(config),
        "reward": GPT2ForSequenceClassification(config),
    }
    with torch.no_grad():
        for model in built.values():  # biases and norms start at 0 and 1: in a test they should count
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        trunk = built["policy"].transformer
        trunk.ln_f.bias[0] += 2.0
        trunk.wte.weight[PAD, 0] = -4.0  # the policy all but never draws PAD,
        trunk.wte.weight[EOS, 0] = 0.7  # and EOS more often than one token in 24
        for ours, theirs in zip(built["policy"].parameters(), built["reference"].parameters(), strict=True):
            theirs.copy_(ours + 0.05 * torch.randn_like(ours))
    return built


def make_prompts(seed: int) -> Dataset:
    """Random prompts of unequal lengths, without PAD or EOS in them."""
    generator = torch.Generator().manual_seed(seed)
    return Dataset.from_dict(
        {"input_ids": [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]}
    )


def flat(tensors: list[Tensor]) -> Tensor:
    """All numbers of a model in one row, in the order of ``named_parameters``."""
    return torch.cat([x.detach().flatten() for x in tensors]).clone()


def weights(model: nn.Module) -> Tensor:
    """The parameters of a model in one row."""
    return flat(list(model.parameters()))


def gradients(model: nn.Module) -> Tensor:
    """The gradients of a model in one row."""
    return flat([p.grad for p in model.parameters()])


class Recorder:
    """Reads the local variables of ``PPOTrainer.train`` while it runs.

    Attributes:
        batch: the tensors of the batch, as they stand when the first epoch begins.
        steps: for each optimizer step the rows, both losses and both gradients.
    """

    def __init__(self, trainer: PPOTrainer) -> None:
        self.trainer = trainer
        self.batch: dict[str, Tensor] = {}
        self.steps: list[dict[str, Tensor]] = []
        self._whiten, self._permutation = ppo_trainer.masked_whiten, np.random.permutation
        self._backward = trainer.accelerator.backward

    @staticmethod
    def _train_frame() -> FrameType:
        frame = sys._getframe(2)
        assert frame.f_code.co_name == "train", f"called from {frame.f_code.co_name}"
        return frame

    def masked_whiten(self, values: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Advantages before whitening: the last thing that TRL whitens."""
        self._train_frame()
        self.batch["raw_advantages"] = values.clone()
        return self._whiten(values, *args, **kwargs)

    def permutation(self, size: int) -> np.ndarray:
        """The start of an epoch."""
        seen = self._train_frame().f_locals
        if not self.steps:
            self.batch |= {name: seen[name].detach().clone() for name in BATCH}
            self.batch["response_mask"] = ~seen["padding_mask"]
            self.batch["value_mask"] = ~seen["padding_mask_p1"]
        return self._permutation(size)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:  # noqa: ANN401
        """One optimizer step: its gradients exist when TRL's own backward has run."""
        seen = self._train_frame().f_locals
        self._backward(loss, **kwargs)
        self.steps.append(
            {
                "rows": torch.as_tensor(seen["micro_batch_inds"]).clone(),
                "policy_loss": seen["pg_loss"].detach().clone(),
                "value_loss": seen["vf_loss"].detach().clone(),
                "policy_clipped": (seen["pg_losses2"] > seen["pg_losses"]).any(),
                "value_clipped": (seen["vf_losses2"] > seen["vf_losses1"]).any(),
                "policy_grad": gradients(self.trainer.policy_model),
                "value_grad": gradients(self.trainer.value_model),
            }
        )

    def run(self) -> dict[str, Tensor]:
        """Train, and return all that was recorded."""
        with (
            mock.patch.object(ppo_trainer, "masked_whiten", self.masked_whiten),
            mock.patch.object(np.random, "permutation", self.permutation),
            mock.patch.object(self.trainer.accelerator, "backward", self.backward),
        ):
            self.trainer.train()
        return {
            **self.batch,
            **{name: torch.stack([step[name] for step in self.steps]) for name in self.steps[0]},
            "policy_after": weights(self.trainer.policy_model),
            "value_after": weights(self.trainer.value_model),
        }


def record(settings: dict[str, Any], seed: int, folder: str) -> dict[str, Tensor]:
    """One update of TRL's PPO with these settings."""
    built = make_models(seed)
    set_seed(seed)
    trainer = PPOTrainer(
        args=PPOConfig(
            **settings,
            output_dir=folder,
            seed=seed,
            per_device_train_batch_size=len(PROMPT_LENGTHS),
            gradient_accumulation_steps=1,
            total_episodes=len(PROMPT_LENGTHS),
            response_length=RESPONSE_LENGTH,
            stop_token="eos",
            num_sample_generations=0,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=make_tokenizer(),
        model=built["policy"],
        ref_model=built["reference"],
        reward_model=built["reward"],
        value_model=built["value"],
        train_dataset=make_prompts(seed),
    )
    with contextlib.redirect_stdout(io.StringIO()):  # TRL prints its metrics
        return Recorder(trainer).run()


def check_cases(name: str, recorded: dict[str, Tensor]) -> None:
    """The batch must hold every case that the comparison is about."""
    response = recorded["query_responses"][:, -RESPONSE_LENGTH:]
    lengths = recorded["response_mask"].sum(-1)
    ended = (response == EOS).any(-1)
    cases = {
        "a prompt with padding": (recorded["query_responses"][:, 0] == PAD).any(),
        "an EOS in the middle": (ended & (lengths < RESPONSE_LENGTH - 1)).any(),
        "an EOS one before the end": (ended & (lengths == RESPONSE_LENGTH - 1)).any(),
        "an EOS on the last position": (ended & (lengths == RESPONSE_LENGTH)).any(),
        "a response without EOS": (~ended).any(),
        # TRL takes the first PAD for the response's end even where the policy drew it; ours counts that one as a token
        "PAD behind EOS alone": (lengths == ((response == PAD).long().cumsum(-1) == 0).sum(-1)).all()
        and (lengths[~ended] == RESPONSE_LENGTH).all(),
        "a clipped value": recorded["value_clipped"].any(),
        "a clipped ratio": recorded["policy_clipped"].any(),
    }
    missing = [case for case, there in cases.items() if not there]
    if missing:
        raise SystemExit(f"{name}: the batch lacks {', '.join(missing)}; take another seed")


def main() -> None:
    """Record all variants into one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    if trl.__version__ != "1.12.0":
        raise SystemExit(f"This needs TRL 1.12.0, the last one with a PPO, and found {trl.__version__}.")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    built = make_models(options.seed)
    out = {f"weights.{name}": weights(model) for name, model in built.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in VARIANTS.items():
            recorded = record(settings, options.seed, folder)
            check_cases(name, recorded)
            out |= {f"{name}.{key}": x for key, x in recorded.items() if not key.endswith("_clipped")}
    about = {
        "versions": {
            "trl": trl.__version__,
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
        "seed": options.seed,
        "model": {**SHAPE, "pad_token_id": PAD, "eos_token_id": EOS},
        "response_length": RESPONSE_LENGTH,
        "parameters": {
            name: {key: list(p.shape) for key, p in built[name].named_parameters()} for name in ("policy", "value")
        },
        "variants": VARIANTS,
    }
    out = {key: (x.to(torch.int32) if x.dtype == torch.int64 else x).contiguous() for key, x in sorted(out.items())}
    options.path.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, options.path, metadata={"about": json.dumps(about)})
    print(f"{options.path.name}: {options.path.stat().st_size / 1024:.0f} KiB, {len(out)} tensors")


if __name__ == "__main__":
    main()
