"""Ours beside the published, at the last epoch and along the curves, as claims.

Of every entry and metric one value is primary: the last published epoch (or batch), or, of runs
that end before it, the last one that both have. Points on the way are read off the same runs; they
are listed, and counted in no headline.
"""

from collections.abc import Iterable, Sequence

from bioplaus.analysis import claims, published
from bioplaus.analysis.claims import Claim
from bioplaus.analysis.experiment import RunSet, published_runs_of

CHECKPOINTS = (1, 2, 3, 5, 10)  # epochs at which short runs are held against the published curves
# the same for angles: log points 3, 6, 15, 30, 60, 150
BATCHES = (2001, 5001, 14001, 29001, 59001, 149001)
ACCURACIES = ("test_accuracy", "train_accuracy")


def compare_final(
    run_set: RunSet, metrics: Iterable[str] = ACCURACIES, *, collapsed: bool = False
) -> list[Claim]:
    """Each entry's last epoch beside the published one, if it is the same epoch; then what is
    published alone.

    Parameters
    ----------
    collapsed : our means include collapsed seeds, as the published ones do.
    """
    metrics, rows = list(metrics), []
    reference = published_runs_of(run_set.paper, run_set.experiment)
    for entry in run_set.entries:
        run = run_set.first_run(entry)
        epochs = run.parameters.get("n_epochs")
        last = reference[entry].parameters.get("n_epochs") if entry in reference else epochs
        lost = run_set.count(entry, "diverged", *(() if collapsed else ("collapsed",)))
        for metric in metrics:
            number = None
            if run_set.is_beside(entry):
                number = published.value(run_set.paper, run.published or {}, metric)
            if number and epochs != last:
                note = f"{epochs} of {last} epochs"
                rows.append(
                    claims.value(run_set, entry, metric, "epoch", last, [], number, note=note)
                )
            else:
                ours = run_set.final(metric, entry, collapsed=collapsed)
                rows.append(
                    claims.value(
                        run_set, entry, metric, "epoch", epochs, ours, number, left_out=lost
                    )
                )
    for run in run_set.alone:
        for metric in metrics:
            number = published.value(run_set.paper, run.published or {}, metric)
            last = run.parameters.get("n_epochs")
            if number:  # no claim of this preset: the report leaves it out
                rows.append(
                    claims.value(
                        run_set, run.entry, metric, "epoch", last, [], number, is_planned=False
                    )
                )
    return rows


def compare_curve(run_set: RunSet, metric: str, at: Sequence[int] = CHECKPOINTS) -> list[Claim]:
    """Each entry beside its published curve at the epochs (or batches, for diagnostics) `at`, and
    at the last that both have, which is the primary value.

    Entries without a published curve of this metric are left out.
    """
    drawn, rows = run_set.curves(metric, seeds=True), []
    for entry in run_set.entries:
        curve = run_set.published_curve(entry, metric)
        if curve is None:
            continue
        all_ours = drawn[(drawn.entry == entry) & (drawn.source == "ours")]
        ours = all_ours[all_ours.part == "seed"]
        last = max(set(ours.x) & set(curve.x), default=None)
        for x in sorted(({*at, last} - {None}) & set(curve.x)):
            is_reached = len(all_ours) > 0 and x <= all_ours.x.max()
            rows.append(
                claims.value(
                    run_set,
                    entry,
                    metric,
                    curve.axis.iloc[0],
                    x,
                    list(ours.value[ours.x == x]),
                    published.point(curve, x),
                    left_out=run_set.count(entry, "collapsed", "diverged") if is_reached else 0,
                    is_primary=x == last,
                )
            )
    return rows
