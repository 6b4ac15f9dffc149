"""How to read a run of the laboratory: the healthy band, each version's sign, and the table from symptom to cause.

Each of the chains 0 to 5 (an SFT model and its reward model) has two healthy runs. The one whose seed is its chain's is
a version like any other, with the same prompts as the faulty ones; the other, with a seed of its own, is in the band.

A *sign* is a metric, a window of updates and a direction. It counts if it separates: each of the runs for testing
lies further from the healthy runs' mean, in that direction, than five of their standard deviations.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rlhf_utils.lab.loop import METRICS, Run

CHAINS = (0, 1, 2, 3, 4, 5)
TESTING = CHAINS[3:]  #: the signs were chosen on the others
DEVIATIONS = 5
LATE = slice(20, 30)
TITLES = {
    "score": "score",
    "kl": "KL (nats)",
    "entropy": "entropy (nats)",
    "surprise_gap": "surprise gap",
    "first_log_ratio": "first log-ratio",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained var.",
    "value_loss": "value loss",
    "length": "length (tokens)",
    "ended": "ended (share)",
    "grad_norm": "gradient norm",
}
JUDGED = {"positive_rate": "positive, by the judge", "distinct": "distinct responses", "kl": "KL, measured afresh"}
LOGARITHMIC = {"first_log_ratio": 1e-7, "value_loss": 1e-4, "grad_norm": 1e-4}  #: what is less is drawn here


@dataclass(frozen=True)
class Sign:
    """Where to look for a mistake.

    Attributes:
        metric: one of ``METRICS``.
        start: first update of the window, from 0.
        stop: the update after its last one.
        above: whether the mean over the window lies above that of healthy runs, or below.
    """

    metric: str
    start: int
    stop: int
    above: bool

    def level(self, row: dict[str, Any]) -> float:
        """The metric's mean over the window."""
        return statistics.fmean(row["curves"][self.metric][self.start : self.stop])

    def told(self) -> str:
        """In words, such as ``KL (nats), updates 21–30, above``."""
        when = f"{self.start + 1}–{self.stop}" if self.stop > self.start + 1 else f"{self.stop}"
        return f"{TITLES[self.metric]}, update {when}, {'above' if self.above else 'below'}"


# Fixed on the runs with seeds 0 to 2, before those with seeds 3 to 5 were looked at.
SIGNS: dict[str, Sign] = {
    "aliased-reference": Sign("kl", 5, 30, above=False),
    "kl-without-gradient": Sign("kl", 20, 30, above=True),
    "kl-swapped": Sign("kl", 5, 30, above=False),
    "old-recomputed": Sign("clip_fraction", 0, 5, above=False),
    "off-by-one": Sign("surprise_gap", 0, 5, above=True),
    "sharp-sampling": Sign("surprise_gap", 0, 10, above=False),
    "dropout-in-update": Sign("first_log_ratio", 0, 5, above=True),
    "returns-after-whitening": Sign("value_loss", 20, 30, above=True),
    "score-on-pad": Sign("score", 20, 30, above=False),
    "sign-flipped": Sign("score", 5, 30, above=False),
    "padding-counts": Sign("surprise_gap", 0, 1, above=True),
    "not-cut-at-eos": Sign("length", 0, 1, above=True),
    "scores-not-normalised": Sign("value_loss", 0, 1, above=True),
    "rows-mixed-up": Sign("score", 20, 30, above=False),
}


def healthy_runs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The six healthy runs of the band, none of which has a seed of the versions' runs."""
    return [r for r in rows if r["version"] == "healthy" and r["seed"] != r["chain"]]


def runs_of(rows: Sequence[dict[str, Any]], version: str, seeds: Sequence[int] = TESTING) -> list[dict[str, Any]]:
    """A version's runs with these seeds."""
    return [r for r in rows if r["version"] == version and r["seed"] == r["chain"] and r["seed"] in seeds]


def distance(sign: Sign, row: dict[str, Any], healthy: Sequence[dict[str, Any]]) -> float:
    """How many healthy deviations a run lies from the healthy mean, positive in the sign's direction."""
    levels = [sign.level(r) for r in healthy]
    gap = sign.level(row) - statistics.fmean(levels)
    # Rounding is no deviation: a ratio's logarithm that is 0 up to 1e-6 must not make 1e-5 look like a bug.
    return (gap if sign.above else -gap) / max(statistics.stdev(levels), 1e-6)


def separation(rows: Sequence[dict[str, Any]], seeds: Sequence[int] = TESTING) -> dict[str, list[float]]:
    """Each version's distances along its own sign, one a run."""
    healthy = healthy_runs(rows)
    return {name: [distance(sign, r, healthy) for r in runs_of(rows, name, seeds)] for name, sign in SIGNS.items()}


def all_signs() -> list[Sign]:
    """Every metric in four windows and both directions: what one might look at afterwards."""
    windows = ((0, 1), (0, 5), (10, 20), (20, 30))
    return [Sign(metric, *window, above) for metric in METRICS for window in windows for above in (True, False)]


def best_sign(rows: Sequence[dict[str, Any]], version: str) -> tuple[float, Sign]:
    """Of all signs the one along which a version's nearest run for testing lies furthest out, and how far.

    Measured against all twelve healthy runs, since among so many signs some deviation of six is far too small.
    """
    found, healthy = runs_of(rows, version), healthy_runs(rows) + runs_of(rows, "healthy", CHAINS)
    scored = [(min(distance(sign, r, healthy) for r in found), sign) for sign in all_signs()]
    return max(scored, key=lambda pair: pair[0])


def false_alarms(rows: Sequence[dict[str, Any]]) -> tuple[list[tuple[Sign, float]], int]:
    """Signs that call a healthy run broken, each with its level; and how many looks.

    Each half of the twelve healthy runs is looked at against the other half.
    """
    halves = healthy_runs(rows), runs_of(rows, "healthy", CHAINS)
    looks = [(s, row, band) for band, others in (halves, halves[::-1]) for s in SIGNS.values() for row in others]
    return [(s, s.level(row)) for s, row, band in looks if distance(s, row, band) > DEVIATIONS], len(looks)


def _mean(row: dict[str, Any], metric: str, window: slice = LATE) -> float:
    return statistics.fmean(row["curves"][metric][window])


def _first(row: dict[str, Any], metric: str) -> float:
    return row["curves"][metric][0]


EARLY = slice(0, 5)
# From top to bottom; the first that holds names the cause. The numbers stand in the chapter's decision table.
RULES: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("padding-counts", lambda r: _first(r, "surprise_gap") > 1 and _first(r, "length") > 14),
    ("off-by-one", lambda r: _first(r, "surprise_gap") > 1),
    ("sharp-sampling", lambda r: _mean(r, "surprise_gap", EARLY) < -0.1),
    ("dropout-in-update", lambda r: _first(r, "first_log_ratio") > 0.01),
    ("not-cut-at-eos", lambda r: _first(r, "length") > 14),
    ("scores-not-normalised", lambda r: _first(r, "value_loss") > 1),
    ("old-recomputed", lambda r: _mean(r, "clip_fraction", EARLY) == 0),
    ("aliased-reference", lambda r: max(map(abs, r["curves"]["kl"])) < 0.001),
    ("kl-swapped", lambda r: _mean(r, "kl") < -1),
    ("sign-flipped", lambda r: _mean(r, "score") < -0.7),
    ("score-on-pad", lambda r: _mean(r, "score") < 0.4 and _first(r, "value_loss") < 0.02),
    ("rows-mixed-up", lambda r: _mean(r, "score") < 0.4),
    ("returns-after-whitening", lambda r: _mean(r, "value_loss") > 0.4),
    ("kl-without-gradient", lambda r: _mean(r, "kl") > 8),
]


def decide(row: dict[str, Any]) -> str:
    """What the decision table makes of a run; ``healthy`` if nothing in it holds."""
    return next((name for name, holds in RULES if holds(row)), "healthy")


def band(rows: Sequence[dict[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    """Lowest and highest value of the six healthy runs at each update."""
    columns = list(zip(*(r["curves"][metric] for r in healthy_runs(rows)), strict=True))
    return [min(c) for c in columns], [max(c) for c in columns]


def log_ticks(low: float, high: float) -> list[float]:
    """At most four round numbers for a logarithmic axis from ``low`` to ``high``, as fine as that allows."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ladder = [(digits, 1) for digits in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3))]
    for digits, step in [*ladder, *(((1,), step) for step in range(1, 9))]:
        ticks = [digit * 10.0**power for power in range(first, last + 1) if power % step == 0 for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 4:
            break
    return inside


def tick_text(tick: float) -> str:
    """A tick's number as it is read: 0.05, 20, and 10⁵ where zeros would have to be counted."""
    if 0.001 <= tick < 10_000:
        return f"{tick:g}"
    digit, power = f"{tick:.0e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == "1" else f"{digit}·10{raised}"


def panel(rows: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any] | Run], colour: str = "#d55e00") -> go.Figure:
    """All curves of some runs, each over the healthy band in grey.

    Args:
        rows: of the experiment.
        shown: rows of it, or runs made here.
        colour: of the runs' lines.
    """
    columns, height = 2, 118
    lines = -(-len(METRICS) // columns)
    titles = [TITLES[m] for m in METRICS]
    fig = make_subplots(lines, columns, subplot_titles=titles, vertical_spacing=0.3 / lines, horizontal_spacing=0.14)
    for i, metric in enumerate(METRICS):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        floor = LOGARITHMIC.get(metric)

        def drawn(values: Sequence[float], floor: float | None = floor) -> list[float]:
            return [max(v, floor) if floor else v for v in values]

        low, high = band(rows, metric)
        updates = list(range(1, len(low) + 1))
        grey = {"x": updates, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        fig.add_scatter(y=drawn(low), line={"width": 0.5, "color": "#808080"}, **grey, **place)
        fig.add_scatter(
            y=drawn(high),
            line={"width": 0.5, "color": "#808080"},
            fill="tonexty",
            fillcolor="rgba(128, 128, 128, 0.45)",
            **grey,
            **place,
        )
        for run in shown:
            curve = (run.curves if isinstance(run, Run) else run["curves"])[metric]
            line = {"width": 1.5, "color": colour}
            fig.add_scatter(
                x=updates[: len(curve)],
                y=drawn(curve),
                mode="lines" if len(curve) > 1 else "markers",
                name=TITLES[metric],
                line=line,
                showlegend=False,
                **place,
            )
        if metric == "first_log_ratio":  # one range for all, so that rounding looks like what it is
            ticks = {"tickvals": [1e-6, 1e-3, 1], "ticktext": ["10⁻⁶", "10⁻³", "1"]}
            fig.update_yaxes(type="log", range=[-7.3, 1.8], **ticks, **place)
        elif floor:
            seen = [v for trace in fig.data[-2 - len(shown) :] for v in trace.y]
            ticks = log_ticks(min(seen), max(seen))
            fig.update_yaxes(type="log", tickvals=ticks, ticktext=[tick_text(t) for t in ticks], **place)
        else:
            fig.update_yaxes(nticks=4, **place)
    fig.update_xaxes(range=[0.5, 30.5], tickvals=[1, 10, 20, 30])
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=60 + height * lines, margin={"t": 28, "b": 28, "l": 48, "r": 10})
