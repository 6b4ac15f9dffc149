"""TRL's SFTTrainer, RewardTrainer or DPOTrainer; a round is one call of ``train()``.

The time leaves out what the trainer's constructor does, which is tokenising above all. Its DPO scores the reference at
each step, so that a pair is read by it once, as in ours.
"""

import gc
import resource
import time

from turns import Turns

turns = Turns()

import datasets
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

datasets.disable_progress_bars()
transformers.utils.logging.disable_progress_bar()
work, folder = turns.work, str(turns.folder / "model")
torch.set_num_threads(work["threads"])
tokenizer = AutoTokenizer.from_pretrained(folder)
# As in ours, so that both learn the same: a cosine without warm-up, β₂ = 0.95, weight decay, clipping at 1.
# `use_cpu` alone would mean bf16, and TRL recomputes activations unless told not to; both are slower here.
settings = {
    "output_dir": str(turns.folder / "trl"),
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "num_train_epochs": 1,
    "per_device_train_batch_size": work["batch_size"],
    "learning_rate": work["learning_rate"],
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "adam_beta2": 0.95,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "max_length": 48,
    "train_sampling_strategy": work["sampling"],
    "dataloader_pin_memory": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


class Begin(TrainerCallback):
    """Notes when the steps begin."""

    def on_train_begin(self, *args, **kwargs):
        self.time = time.perf_counter()


def language_model():
    model = AutoModelForCausalLM.from_pretrained(folder)
    # GPT-2's class isn't called …ForCausalLM, by which the Trainer tells that a row's first token is not predicted; it
    # would divide SFT's loss by one token too many a row.
    model.loss_type = "ForCausalLM"
    return model


def sft(seed):
    rows = datasets.Dataset.from_list([{"text": text} for text in work["texts"]])
    args = SFTConfig(seed=seed, packing=False, **settings)
    return SFTTrainer(language_model(), args, train_dataset=rows, processing_class=tokenizer)


def reward(seed):
    rows = datasets.Dataset.from_list(work["pairs"])
    torch.manual_seed(seed)  # the head starts at random
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    args = RewardConfig(seed=seed, **settings)
    return RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer)


def dpo(seed):
    rows = datasets.Dataset.from_list(work["pairs"])
    args = DPOConfig(beta=work["kl_coef"], seed=seed, **settings)
    return DPOTrainer(language_model(), language_model(), args, train_dataset=rows, processing_class=tokenizer)


prepare = {"sft": sft, "reward": reward, "dpo": dpo}[work["trainer"]]
language_model()  # GPT-2's code is imported on first use
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
turns.wait()
for number in range(work["rounds"] + 1):
    trainer, begin = prepare(seed=number), Begin()
    trainer.add_callback(begin)
    gc.collect()  # the last round's trainer, outside the time
    start = time.perf_counter()
    loss = trainer.train().training_loss
    end = time.perf_counter()
    turns.report(
        seconds=end - start,
        startup=begin.time - start,
        steps=trainer.state.global_step,
        loss=loss,
        loaded_mib=loaded,
    )
    turns.wait()
