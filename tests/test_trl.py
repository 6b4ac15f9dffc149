"""Our preference records feed TRL's trainer as they are."""

from __future__ import annotations

import math

import pytest
from datasets import Dataset
from transformers import GPT2ForSequenceClassification

from rlhf_utils.preferences import Preference, to_trl
from rlhf_utils.tasks import tiny


def test_trl_reward_trainer_reads_our_records(tmp_path):
    pytest.importorskip("trl", reason="trl needs Python 3.11")
    from trl import RewardConfig, RewardTrainer

    records = [
        Preference(str(i), "the plot is", " tender .", " dull .", choice, "me", 1.0, "2026-01-01T00:00:00Z", "test")
        for i, choice in enumerate(["a", "a", "tie", "b", "a"])
    ]
    rows = Dataset.from_list(to_trl(records))
    assert len(rows) == 4  # a tie has no winner
    model = GPT2ForSequenceClassification(
        tiny.base_config().__class__(**{**tiny.base_config().to_dict(), "num_labels": 1})
    )
    trainer = RewardTrainer(
        model=model,
        processing_class=tiny.tokenizer(),
        train_dataset=rows,
        args=RewardConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
    )
    assert math.isfinite(trainer.train().training_loss)
