"""Small labelled data sets in folders, as a reader without a network would give them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from rlhf_utils.tasks.base import Review

GOOD, BAD = ["good", "warm", "lovely", "bright", "funny"], ["bad", "cold", "awful", "dull", "boring"]


def make_rows(number: int, seed: int = 0) -> list[Review]:
    """Distinct texts of six to twelve words with a clear label."""
    rng, rows = random.Random(seed), []
    for i in range(number):
        label = i % 2
        words = rng.choices(
            ["the", "film", "a", "story", "we", "saw", "it", "was", "actor", "scene", "ending", "plot"],
            k=rng.randint(5, 9),
        )
        words += [f"n{rng.randrange(10**6)}", *rng.choices(GOOD if label else BAD, k=2)]
        rows.append(Review(" ".join(words), label))
    return rows


def write_rows(folder: Path, splits: dict[str, list[Review]], kind: str, column: str) -> Path:
    """A data set folder with one file a split."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        table = [{column: r.text, "label": r.label} for r in rows]
        path = folder / f"{split}.{kind}"
        if kind == "parquet":
            import datasets

            datasets.Dataset.from_list(table).to_parquet(path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        else:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, [column, "label"])
                writer.writeheader()
                writer.writerows(table)
    return folder
