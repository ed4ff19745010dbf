"""One style and one palette for every figure.

A rule, or a kind of network where one rule trains several, has the same colour in every figure,
whatever else is drawn. The palette is Okabe and Ito's, which colour-blind readers can tell apart,
assigned so that it is near the published colours; what is not in the table gets a colour from its
name. Entries of one colour differ by their dashes. Values of one parameter are a sequence from dark
to light (`ordered`).
"""

import hashlib
from collections.abc import Mapping
from typing import Any

DPI = 150
FACE = "white"  # of figures, axes and insets
INK = "#222222"
GREY = "#7F7F7F"
_COLOURS = {
    "corinfomax": "#0072B2",  # published #006BB2
    "corinfomax_sparse": "#CC79A7",
    "csm": "#D55E00",  # published red
    "ep": "#009E73",  # published green
    "pc": "#56B4E9",  # published blue
    "pc_nudge": "#E69F00",  # published orange
    "bp": INK,
    "bp_batchnorm": INK,
    "fa": "#8A8A8A",
    "competing_hidden": "#882255",
    "bptt": GREY,  # truncated: the cortex alone, published grey
    "caption_bptt": GREY,
    "full_bptt": "#D55E00",  # published red
    "dni": "#F9AA38",  # published
    "caption_dni": "#F9AA38",
    # networks of the bilateral paper: what is built alike is coloured alike
    "specialised": "#0072B2",
    "specialised-drift": "#56B4E9",
    "joined": "#0072B2",
    "fine": "#E69F00",
    "coarse": "#CC79A7",
    "two-fine": "#E69F00",
    "two-coarse": "#CC79A7",
    "specialists": "#F0E442",
    "both": "#8A8A8A",
    "both-long": "#444444",
    "joint": "#D55E00",
    "ensemble": "#009E73",
    # the same layer, data set or guess in every figure where colours do not mean rules
    "layer 2": "#0072B2",
    "layer 3": "#D55E00",
    "MNIST": "#0072B2",
    "Fashion-MNIST": "#D55E00",
    "CIFAR-10": "#009E73",
    "top 5": INK,
    "published": "#D55E00",
}
_NAMES = {
    "corinfomax": "CorInfoMax",
    "corinfomax_sparse": "CorInfoMax-Sparse",
    "csm": "CSM",
    "ep": "EP",
    "pc": "PC",
    "pc_nudge": "PC-Nudge",
    "bp": "BP",
    "fa": "FA",
}
# For rules without a colour of their own, chosen by name.
_SPARE = ("#44AA99", "#999933", "#332288", "#AA4499", "#117733", "#661100")
DASHES = (  # entries of one colour, in manifest order
    "-",
    (0, (8, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1.5, 1)),
)
_STYLE = {
    "figure.figsize": (10, 6),
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "figure.facecolor": FACE,
    "axes.facecolor": FACE,
    "savefig.facecolor": FACE,
    # a Times that comes with matplotlib: the same figure on every machine
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 16,
    "axes.labelsize": 20,
    "axes.titlesize": 17,
    "xtick.labelsize": 16,
    "ytick.labelsize": 16,
    "legend.fontsize": 15,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "0.85",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 1.0,
    "axes.edgecolor": "0.4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.solid_capstyle": "round",
    "axes.prop_cycle": (
        "cycler('color', ['0072B2', 'D55E00', '009E73', 'CC79A7', 'E69F00', '56B4E9', '222222'])"
    ),
    "pdf.fonttype": 42,  # text stays text
}


def use_style() -> None:
    """Set the package's matplotlib style for this process."""
    import matplotlib

    kept = {"backend": matplotlib.rcParams["backend"]}
    matplotlib.rcParams.update(matplotlib.rcParamsDefault | kept | _STYLE)


def colour(name: str) -> str:
    """The colour of a rule or kind of network, the same in every figure, as #rrggbb."""
    if name in _COLOURS:
        return _COLOURS[name]
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return _SPARE[digest % len(_SPARE)]


def name(rule: str) -> str:
    """What a rule is called in legends: the papers' name for it, or its key."""
    return _NAMES.get(rule, rule)


def ordered(n: int) -> list[str]:
    """n colours for the values of one parameter, in their order, from dark to light, as #rrggbb."""
    import matplotlib
    import numpy as np
    from matplotlib.colors import to_hex

    return [to_hex(shade) for shade in matplotlib.colormaps["viridis"](np.linspace(0, 0.85, n))]


def lines(entries: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Line style of each entry: its rule's colour, and dashes that tell entries of one colour
    apart.

    Parameters
    ----------
    entries : entry -> rule, in manifest order.
    """
    drawn: dict[str, int] = {}
    looks = {}
    for entry, rule in entries.items():
        shade = colour(rule)
        looks[entry] = {"color": shade, "linestyle": DASHES[drawn.get(shade, 0) % len(DASHES)]}
        drawn[shade] = drawn.get(shade, 0) + 1
    return looks


def shades(entries: Mapping[str, str]) -> dict[str, str]:
    """Colour of each entry where dashes mean something else: its rule's, lighter for every further
    one of that colour.

    Parameters
    ----------
    entries : entry -> rule, in manifest order.

    Returns
    -------
    entry -> #rrggbb.
    """
    from matplotlib.colors import to_hex, to_rgb

    drawn: dict[str, int] = {}
    colours = {}
    for entry, rule in entries.items():
        shade = colour(rule)
        kept = 0.55 ** drawn.get(shade, 0)  # the rest is white
        colours[entry] = to_hex([1 - kept * (1 - part) for part in to_rgb(shade)])
        drawn[shade] = drawn.get(shade, 0) + 1
    return colours
