"""What is shown: published numbers, runs beside them, figures, tables and the report.

A notebook needs little more than

    from bioplaus import analysis

    out = analysis.Output("corinfomax_fig_curves", preset)
    mnist = analysis.load("corinfomax", "mnist", preset)
    out.figure(name, drawing, mnist, title=..., caption=...)
    out.table(name, analysis.compare_final(mnist), mnist, title=..., caption=...)
"""

from bioplaus.analysis.comparison import BATCHES, CHECKPOINTS, compare_curve, compare_final
from bioplaus.analysis.experiment import RunSet, load
from bioplaus.analysis.learning import Line, learning_curves
from bioplaus.analysis.plots import Drawing
from bioplaus.analysis.saving import Output

__all__ = [
    "BATCHES",
    "CHECKPOINTS",
    "Drawing",
    "Line",
    "Output",
    "RunSet",
    "compare_curve",
    "compare_final",
    "learning_curves",
    "load",
]
