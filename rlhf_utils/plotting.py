"""Figures of the book: one look, and one call that shows them wherever the code runs.

The lessons build a plotly figure and hand it to :func:`show` with a text for readers who cannot see it. In
the book the figure goes into the page as data and is drawn there; in Jupyter and Colab plotly's own renderer
draws it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

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
