"""TRL 1.12.0's PPOTrainer, the last one, in its own environment."""

import time

from turns import Turns

turns = Turns()

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

transformers.utils.logging.disable_progress_bar()
work = turns.work
torch.set_num_threads(work["threads"])
on_gpu = work["device"] != "cpu"
folder = str(turns.folder / "model")
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
reward, value = (
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    for _ in range(2)
)
clock: dict[str, float] = {}
responses: dict[str, int] = {}


def timed(name: str, function):
    """The function, noting the time at its end."""

    def call(*args, **kwargs):
        out = function(*args, **kwargs)
        clock[name] = time.perf_counter()
        return out

    return call


# Sampling ends with batch_generation; scoring ends where the advantages are whitened, the last use of masked_whiten.
ppo_trainer.batch_generation = timed("sampled", ppo_trainer.batch_generation)
ppo_trainer.masked_whiten = timed("scored", ppo_trainer.masked_whiten)
truncate = ppo_trainer.truncate_response


def count(stop: int, pad: int, rows: torch.Tensor) -> torch.Tensor:
    """Truncate, and count the tokens that are left."""
    out = truncate(stop, pad, rows)
    responses["tokens"] = int((out != pad).sum())
    return out


ppo_trainer.truncate_response = count


class Stop(TrainerCallback):
    """Reports each update at its end, before the next may begin."""

    def on_train_begin(self, *args, **kwargs):
        turns.wait()
        clock["begin"] = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        end = time.perf_counter()
        turns.report(
            seconds=end - clock["begin"],
            tokens=responses["tokens"],
            sampling=clock["sampled"] - clock["begin"],
            scoring=clock["scored"] - clock["sampled"],
            update=end - clock["scored"],
            gpu_mib=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
        )
        turns.wait()
        clock["begin"] = time.perf_counter()  # the garbage collection at the end of an update counts for the next


config = PPOConfig(
    output_dir=str(turns.folder / "trl"),
    total_episodes=work["batch_size"] * (work["rounds"] + 1),
    per_device_train_batch_size=work["batch_size"],
    gradient_accumulation_steps=1,
    num_mini_batches=work["batch_size"] // work["minibatch_size"],
    num_ppo_epochs=work["epochs"],
    local_rollout_forward_batch_size=work["batch_size"],
    response_length=work["max_new_tokens"],
    learning_rate=work["learning_rate"],
    temperature=1.0,
    stop_token="eos",
    missing_eos_penalty=1.0,
    num_sample_generations=0,
    gradient_checkpointing=False,
    bf16=on_gpu,
    use_cpu=not on_gpu,
    report_to="none",
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
rows = [{"input_ids": tokenizer(p)["input_ids"]} for p in work["prompts"]]
trainer = PPOTrainer(
    args=config,
    processing_class=tokenizer,
    model=policy,
    ref_model=reference,
    reward_model=reward,
    value_model=value,
    train_dataset=Dataset.from_list(rows),
    callbacks=[Stop()],
)
trainer.train()
