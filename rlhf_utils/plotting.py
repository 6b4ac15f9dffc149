"""Figures of the book: one look, and one call that shows them wherever the code runs.

The lessons build a plotly figure and hand it to :func:`show` with a text for readers who cannot see it. In
the book the figure goes into the page as data and is drawn there; in Jupyter and Colab plotly's own renderer
draws it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

FIGURE_MIMETYPE = "application/vnd.plotly.v1+json"
DEFAULT_HEIGHT = 380

# Six colours that keep a contrast of at least 3:1 on the white page and on the dark one, and that stay apart
# (a CIELAB distance of at least 20) for normal sight and simulated protanopia, deuteranopia and tritanopia.
COLOURS = ("#0072b2", "#d55e00", "#05a771", "#aa15ff", "#70637a", "#d00038")
# Blue to vermilion through a grey that neither page swallows; for quantities with a sign.
DIVERGING = [[0.0, "#00568a"], [0.25, "#5b9ec9"], [0.5, "#c9c9c9"], [0.75, "#e59560"], [1.0, "#b04c00"]]
# A text colour for notebooks, where nobody tells the figure which theme the page has.
_NEUTRAL = "#757575"
_GRID = "rgba(128, 128, 128, 0.25)"


def _template() -> go.layout.Template:
    axis = {
        "automargin": True,
        "gridcolor": _GRID,
        "linecolor": _NEUTRAL,
        "zerolinecolor": "rgba(128, 128, 128, 0.6)",
        "zerolinewidth": 1,
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "colorway": list(COLOURS),
            "colorscale": {"sequential": "Viridis", "sequentialminus": "Viridis", "diverging": DIVERGING},
            "font": {"family": "system-ui, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": _NEUTRAL},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
            "xaxis": axis,
            "yaxis": axis,
            # Above the plot, so that a phone's narrow page goes to the curves and not to their names.
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "hovermode": "closest",
            "annotationdefaults": {"arrowcolor": _NEUTRAL, "arrowwidth": 1},
            "shapedefaults": {"line": {"color": _NEUTRAL, "width": 1}},
        },
        data={"heatmap": [{"colorscale": "Viridis"}], "scatter": [{"line": {"width": 2}}]},
    )


pio.templates["rlhf"] = _template()
pio.templates.default = "rlhf"


def _in_kernel() -> bool:
    """Whether a Jupyter kernel runs this code. IPython isn't imported to find out."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def show(fig: go.Figure, *, alt: str, caption: str) -> None:
    """Show a figure in the book, in Jupyter or in Colab; in plain Python nothing is shown.

    Args:
        fig: the figure. Its ``layout.meta`` gets both texts, and its height is fixed, so that nothing on the
            page moves when it is drawn.
        alt: what the figure shows, for a reader who cannot see it; different for each figure of the book.
        caption: the line under the figure: what to see in it.

    Raises:
        ValueError: ``alt`` or ``caption`` is empty.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows.")
    if not caption.strip():
        raise ValueError("caption is empty: say what the reader should see in the figure.")
    meta = fig.layout.meta if isinstance(fig.layout.meta, dict) else {}
    height = DEFAULT_HEIGHT if fig.layout.height is None else fig.layout.height
    fig.update_layout(meta={**meta, "alt": alt.strip(), "caption": caption.strip()}, height=height)
    if not _in_kernel():
        return
    from IPython.display import Markdown, display

    if os.environ.get("RLHF_UTILS_BOOK") == "1":
        display({FIGURE_MIMETYPE: json.loads(fig.to_json())}, raw=True)
    else:
        fig.show()
        display(Markdown(caption))


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_title: str, y_title: str, markers: bool = False
) -> go.Figure:
    """Curves over a common axis.

    Args:
        series: name → (x, y).
        x_title: with its unit.
        y_title: with its unit.
        markers: draw the points as well.
    """
    fig = go.Figure()
    for name, (x, y) in series.items():
        fig.add_scatter(x=list(x), y=list(y), name=name, mode="lines+markers" if markers else "lines")
    return fig.update_layout(xaxis_title=x_title, yaxis_title=y_title)


def panels(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_title: str, columns: int = 2) -> go.Figure:
    """One small plot a curve, side by side, each with an axis of its own: for metrics that share no unit.

    Args:
        series: title → (x, y).
        x_title: under the lowest plots.
        columns: plots in a row.
    """
    rows = -(-len(series) // columns)
    fig = make_subplots(rows, columns, subplot_titles=list(series), vertical_spacing=0.3 / rows)
    for i, (name, (x, y)) in enumerate(series.items()):
        row, column = divmod(i, columns)
        fig.add_scatter(x=list(x), y=list(y), name=name, showlegend=False, row=row + 1, col=column + 1)
        if i + columns >= len(series):
            fig.update_xaxes(title_text=x_title, row=row + 1, col=column + 1)
    return fig.update_layout(height=100 + 210 * rows)


def histograms(groups: Mapping[str, Sequence[float]], x_title: str, bins: int = 40) -> go.Figure:
    """Overlaid histograms with common bins, as shares of each group.

    The counting is done here, so that the page carries the bars and not every value.

    Args:
        groups: name → values.
        x_title: with its unit.
        bins: number of bins over the range of all groups.
    """
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v, float) for v in groups.values()]), bins)
    centres = ((edges[:-1] + edges[1:]) / 2).round(4)
    fig = go.Figure()
    for name, values in groups.items():
        counts = np.histogram(np.asarray(values, float), edges)[0]
        fig.add_bar(x=centres, y=(counts / counts.sum()).round(4), name=name, opacity=0.7)
    return fig.update_layout(barmode="overlay", bargap=0, xaxis_title=x_title, yaxis_title="share of the texts")


def token_heatmap(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], unit: str) -> go.Figure:
    """Numbers that belong to the tokens of a sentence, as coloured cells with the number in each.

    Args:
        tokens: the sentence; the same word may occur twice.
        rows: name → one number a token.
        unit: title of the colour scale, whose middle is 0.
    """
    z = np.array([list(values) for values in rows.values()], dtype=float)
    limit = float(np.abs(z).max()) or 1.0
    fig = go.Figure(
        go.Heatmap(
            z=z.round(3),
            x=list(range(len(tokens))),
            y=list(rows),
            zmin=-limit,
            zmax=limit,
            colorscale=DIVERGING,
            texttemplate="%{z:.2f}",
            textfont={"color": "#111111"},
            colorbar={"title": {"text": unit}},
        )
    )
    fig.update_xaxes(tickmode="array", tickvals=list(range(len(tokens))), ticktext=list(tokens), tickangle=-40)
    return fig.update_yaxes(autorange="reversed").update_layout(height=150 + 60 * len(rows))


def show_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show a table in the book or a notebook; numbers are rounded to three digits behind the point.

    Args:
        headers: of the columns.
        rows: of cells.
    """

    def cell(value: object) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("<", "&lt;")

    head = [list(headers), ["---"] * len(headers), *rows]
    text = "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in head)
    if _in_kernel():
        from IPython.display import Markdown, display

        display(Markdown(text))
    else:
        print(text)


def _number(value: float) -> str:
    """Three significant digits; whole numbers as they are."""
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def show_seeds(lesson: str, names: Mapping[str, str | tuple[str, str]]) -> None:
    """Show what a lesson's numbers are with other seeds, from the committed runs of ``experiments/lesson_seeds.py``.

    Args:
        lesson: its file's name without the ending.
        names: glued name → what it is, with its unit; or (what it is, format), such as ``("positive texts", ".0%")``.

    Raises:
        KeyError: the kept runs don't hold a name: ``make experiments`` makes them anew.
        UserError: the repository's results are not here.
    """
    from rlhf_utils.experiments import read, seeds_name

    _, runs = read(seeds_name(lesson))
    rows = []
    for name, told in names.items():
        what, form = (told, None) if isinstance(told, str) else told
        if missing := [run["seed"] for run in runs if name not in run]:
            raise KeyError(f"{name!r} isn't in the runs with seeds {missing} of {lesson}: run `make experiments`")
        values = [run[name] for run in runs]
        rows.append([what, *(format(v, form) if form else _number(v) for v in values)])
    show_table(["", *(f"seed {run['seed']}" for run in runs)], rows)
