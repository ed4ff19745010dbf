"""Every rule at one architecture and budget: settings chosen on validation images, accuracy against
what it costs.

The grid points of an entry are the settings of its rule. Of every run the epoch of best validation
accuracy is kept (the first of equals); of every rule the setting is chosen whose kept validation
accuracies have the largest mean over seeds (the first of equals; a run that ended before its first
evaluation counts as 0). Test accuracy chooses nothing: it is read once, at the kept epochs of the
chosen setting. Collapsed and diverged seeds (as `analysis` defines them) are in no mean of test
accuracies; they are counted and drawn.

Costs are those of training steps; evaluation is left out. Arithmetic is what a rule's equations
need (`LearningRule.useful_flops`), so it does not depend on machine or program.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bioplaus.analysis import plots, tables
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bioplaus.analysis.experiment import Analysis
    from bioplaus.experiments.manifest import Run
    from bioplaus.results import Outcome

COSTS = {"epoch": "Epoch", "seconds": "Training time (s)", "gflop": "Useful arithmetic (GFLOP)"}
BUSY = 0.9  # of a core: with less, wall times say more of the machine than of the rules
_ENDS = {"collapsed": "v", "diverged": "x"}  # markers, as in `plots.curves`


def runs(found: "Analysis") -> "pandas.DataFrame":
    """One row a planned run.

    Columns: key (entry in the manifest), label, rule, entry (key and number of the grid point),
    setting (in words), factor (of the setting, relative to the middle of its grid; empty where that
    has no meaning), seed, status, n_epochs (learned), kept_epoch (1-based), validation_accuracy and
    test_accuracy (at the kept epoch), seconds, cpu_seconds and gflop (of all epochs learned).

    Raises
    ------
    BioplausError
        For a complete run without validation images.
    """
    import pandas

    described = manifest.load(found.paper).experiments[found.experiment]
    keys, outcomes = described.keys, {outcome.run["id"]: outcome for outcome in found.outcomes}
    rows = []
    for run in found.runs:
        entry = described.entries[keys[run.entry]]
        label = entry.label if isinstance(entry.label, str) else keys[run.entry]
        about = {"key": keys[run.entry], "label": label, "rule": found.rule(run.entry)}
        about |= {
            "entry": run.entry,
            "setting": _in_words(run, entry.grid),
            "factor": _factor(run, entry.grid),
        }
        about |= {"seed": run.seed, "status": found.status[run.id]}
        rows.append(about | (_measured(outcomes[run.id]) if run.id in outcomes else {}))
    columns = ["key", "label", "rule", "entry", "setting", "factor", "seed", "status", *_MEASURED]
    return pandas.DataFrame(rows, columns=columns)


def choose(of_runs: "pandas.DataFrame") -> dict[str, str]:
    """Key -> entry of the chosen setting, by validation accuracy alone; a key without complete runs
    is left out.

    Parameters
    ----------
    of_runs : as `runs` gives them; only key, entry, status and validation_accuracy are looked at.
    """
    there = of_runs[of_runs.status != "missing"]
    means = there.groupby(["key", "entry"], sort=False).validation_accuracy.mean()
    return {key: score.idxmax()[1] for key, score in means.groupby(level="key", sort=False)}


def curves(
    found: "Analysis", of_runs: "pandas.DataFrame", chosen: Mapping[str, str]
) -> "pandas.DataFrame":
    """What `draw` draws, one epoch and run a row: all runs of the chosen settings, of others those
    that failed.

    Columns: key, label, rule, entry, setting, seed, status, is_chosen, is_kept (the kept epoch),
    epoch (1-based), seconds and gflop (from the beginning of training to the end of this epoch),
    validation_accuracy.
    """
    import pandas

    by_place = {(outcome.run["entry"], outcome.run["seed"]): outcome for outcome in found.outcomes}
    parts = []
    for row in of_runs.itertuples():
        is_chosen = chosen.get(row.key) == row.entry
        if row.status == "missing" or not (is_chosen or row.status in _ENDS):
            continue
        outcome = by_place[row.entry, row.seed]
        epoch = np.asarray(outcome.record["epochs"].get("epoch", []), int)
        about = {
            name: getattr(row, name)
            for name in ("key", "label", "rule", "entry", "setting", "seed", "status")
        }
        measured = {
            "is_chosen": is_chosen,
            "is_kept": epoch + 1 == row.kept_epoch,
            "epoch": epoch + 1,
            "seconds": np.cumsum(outcome.run["seconds"]["train"])[epoch],
            "gflop": (epoch + 1) * outcome.record["useful_flops_per_epoch"] / 1e9,
            "validation_accuracy": outcome.record["epochs"].get("validation_accuracy", []),
        }
        parts.append(pandas.DataFrame({**about, **measured}, index=range(len(epoch))))
    columns = [
        "key",
        "label",
        "rule",
        "entry",
        "setting",
        "seed",
        "status",
        "is_chosen",
        "is_kept",
        "epoch",
        "seconds",
    ]
    columns += ["gflop", "validation_accuracy"]
    return (pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()).reindex(
        columns=columns
    )


def draw(
    drawn: "pandas.DataFrame", of_runs: "pandas.DataFrame", *, title: str = ""
) -> "Figure | None":
    """Validation accuracy of the chosen settings against epoch, wall time and arithmetic; every
    seed is a line.

    A dot is the kept epoch. Runs that collapsed or diverged end in a marker; those of settings that
    were not chosen are thin. None where there is nothing to draw.
    """
    if drawn.empty:
        return None
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    figure, panels = plt.subplots(1, len(COSTS), figsize=(16, 6.4), sharey=True)
    style = plots.styles(dict(zip(of_runs.key, of_runs.rule, strict=True)))
    for axes, (cost, xlabel) in zip(panels, COSTS.items(), strict=True):
        for (key, *_), one in drawn.groupby(["key", "entry", "seed"], sort=False):
            _line(axes, one, cost, style[key])
        axes.set(xlabel=xlabel, xscale="linear" if cost == "epoch" else "log")
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_xlim(0, None)
    panels[0].set_ylabel("Validation accuracy")
    good = drawn[drawn.is_chosen & (drawn.status == "done")]
    if len(good):  # the first steps of the slowest would press all else together
        low, high = good.validation_accuracy.quantile(0.1), good.validation_accuracy.max()
        panels[0].set_ylim(low - 0.15 * (high - low), high + 0.08 * (high - low))
    handles = [Line2D([], [], linewidth=2.4, **style[key]) for key in style]
    labels = [
        _counted(of_runs[of_runs.key == key], set(drawn.entry[drawn.is_chosen])) for key in style
    ]
    handles.append(Line2D([], [], color="0.35", marker="o", linestyle="", markersize=7))
    labels.append("epoch kept")
    for status in _ENDS:
        if (drawn.status == status).any():
            handles.append(
                Line2D([], [], color="0.35", marker=_ENDS[status], linewidth=0.9, markersize=8)
            )
            labels.append(status)
    figure.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_choice(
    of_runs: "pandas.DataFrame", chosen: Mapping[str, str], *, title: str = ""
) -> "Figure | None":
    """Kept validation accuracy of every run against its setting, relative to the middle of the
    grid.

    Lines join the means over seeds, dots are seeds, a ring is the chosen setting. Rules stand side
    by side at each setting. None where there is nothing to draw.
    """
    there = of_runs[(of_runs.status != "missing") & of_runs.factor.notna()]
    if there.empty:
        return None
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 6.4))
    style = plots.styles(dict(zip(of_runs.key, of_runs.rule, strict=True)))
    shift = dict(zip(style, np.linspace(-0.16, 0.16, max(len(style), 2)), strict=False))
    for key, of_key in there.groupby("key", sort=False):
        x = np.log2(of_key.factor.astype(float)) + shift[key]
        means = of_key.validation_accuracy.groupby(x).mean()
        axes.plot(
            means.index, means, linewidth=1.4, alpha=0.8, label=of_key.label.iloc[0], **style[key]
        )
        for status, of_status in of_key.groupby("status"):
            look = {
                "marker": _ENDS.get(status, "o"),
                "linestyle": "",
                "color": style[key]["color"],
                "markersize": 6,
            }
            axes.plot(x[of_status.index], of_status.validation_accuracy, **look)
        at = x[of_key.entry == chosen[key]].iloc[:1]
        ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.8}
        axes.plot(at, means[at], linestyle="", markeredgecolor=style[key]["color"], **ring)
    factors = sorted(there.factor.astype(float).unique())
    axes.set_xticks(np.log2(factors), [f"× {factor:g}" for factor in factors])
    axes.set(
        xlabel="Size of the weight step",
        ylabel="Validation accuracy at the epoch kept",
        title=title,
    )
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def summary(of_runs: "pandas.DataFrame", chosen: Mapping[str, str]) -> "pandas.DataFrame":
    """One row a rule: the chosen setting, its accuracies at the kept epochs, and the mean cost of
    one run, as numbers.

    Columns: key, label, setting, n_settings (with a complete run), n (seeds in the means of
    accuracies), collapsed, diverged and missing (seeds of the chosen setting), validation_accuracy,
    test_accuracy, test_sd (sample form), epochs (learned), kept_epoch (mean), seconds, cpu_seconds,
    gflop (means over seeds).
    """
    import pandas

    rows = []
    for key, of_key in of_runs.groupby("key", sort=False):
        entry = chosen.get(key)
        of_entry = of_key[of_key.entry == entry]
        good, there = of_entry[of_entry.status == "done"], of_entry[of_entry.status != "missing"]
        rows.append(
            {
                "key": key,
                "label": of_key.label.iloc[0],
                "setting": of_entry.setting.iloc[0] if entry else "",
                "n_settings": of_key.entry[of_key.status != "missing"].nunique(),
                "n": len(good),
                **{state: int((of_entry.status == state).sum()) for state in (*_ENDS, "missing")},
                "validation_accuracy": good.validation_accuracy.mean(),
                "test_accuracy": good.test_accuracy.mean(),
                "test_sd": good.test_accuracy.std(ddof=1),
                "epochs": there.n_epochs.max(),
                **{
                    name: there[name].mean()
                    for name in ("kept_epoch", "seconds", "cpu_seconds", "gflop")
                },
            }
        )
    return pandas.DataFrame(rows)


def readable(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """What `summary` gives, as texts for readers."""
    import pandas

    rows = []
    for row in table.itertuples():
        lost = [
            f"{getattr(row, state)} {state}" for state in (*_ENDS, "missing") if getattr(row, state)
        ]
        rows.append(
            {
                "rule": row.label,
                "chosen setting": f"{row.setting} (of {row.n_settings})" if row.setting else "–",
                "seeds": ", ".join([str(row.n), *lost]),
                "validation accuracy": tables.number(row.validation_accuracy),
                "test accuracy": tables.number(row.test_accuracy, row.test_sd),
                "epochs": tables.number(row.epochs, digits=0),
                "epoch kept": tables.number(row.kept_epoch, digits=0),
                "wall time (s)": tables.number(row.seconds, digits=1),
                "CPU time (s)": tables.number(row.cpu_seconds, digits=1),
                "GFLOP": tables.number(row.gflop, digits=1),
            }
        )
    return pandas.DataFrame(rows)


def timing(of_runs: "pandas.DataFrame") -> str:
    """A sentence on how far wall times can be trusted: empty if the runs had their cores nearly to
    themselves.
    """
    timed = of_runs.dropna(subset=["cpu_seconds"])
    share = timed.cpu_seconds.sum() / timed.seconds.sum() if len(timed) else 1.0
    if share >= BUSY:
        return ""
    return (
        f"Others used the machine too: the runs had {100 * share:.0f} % of a core, and that varied,"
        " so compare CPU times or arithmetic rather than wall times."
    )


_MEASURED = (
    "n_epochs",
    "kept_epoch",
    "validation_accuracy",
    "test_accuracy",
    "seconds",
    "cpu_seconds",
    "gflop",
)


def _measured(outcome: "Outcome") -> dict[str, Any]:
    """The columns of `runs` that come from a result."""
    record, seconds = outcome.record, outcome.run["seconds"]
    if "selected" not in record:
        raise BioplausError(
            f"Run {outcome.run['id']} held out no validation images, so nothing can be chosen"
            " by it."
        )
    selected, n = record["selected"], len(seconds["train"])
    cpu = seconds.get("train_cpu", [])
    is_cpu = outcome.run.get("device", {}).get("device", "cpu") == "cpu"
    at = list(record["epochs"]["epoch"]).index(selected["epoch"]) if selected else None
    return {
        "n_epochs": n,
        "kept_epoch": selected["epoch"] + 1 if selected else None,
        "validation_accuracy": selected["value"] if selected else 0.0,
        "test_accuracy": float(record["epochs"]["test_accuracy"][at]) if selected else None,
        "seconds": sum(seconds["train"]),
        "cpu_seconds": sum(cpu) if is_cpu and len(cpu) == n else None,
        "gflop": n * record["useful_flops_per_epoch"] / 1e9,
    }


def _value(run: "Run", dotted: str) -> Any:
    value = run.parameters
    for name in dotted.split("."):
        value = value[name]
    return value


def _in_words(run: "Run", grid: Mapping[str, list[Any]]) -> str:
    """`lr_ff = 1, 0.7`: what the grid varies."""
    said = []
    names = [
        f"{name}.{part}" if part else name
        for name, values in grid.items()
        for part in _parts(values[0])
    ]
    for name in names:
        value = _value(run, name)
        text = ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
        said.append(f"{name.rpartition('.')[2]} = {text}")
    return "; ".join(said)


def _parts(value: Any) -> list[str]:
    """The names in a grid's value that is a table; one empty name for any other value."""
    return list(value) if isinstance(value, dict) else [""]


def _factor(run: "Run", grid: Mapping[str, list[Any]]) -> float | None:
    """Size of this run's value relative to the middle of the grid; None unless one list or number
    is scaled.
    """
    if len(grid) != 1:
        return None
    ((name, values),) = grid.items()
    if not isinstance(values[0], int | float | list):
        return None
    sizes = [
        np.atleast_1d(np.asarray(value, float))
        for value in (_value(run, name), values[len(values) // 2])
    ]
    ratio = sizes[0] / sizes[1] if sizes[0].shape == sizes[1].shape else np.full(2, np.nan)
    return float(ratio[0]) if np.allclose(ratio, ratio[0], rtol=1e-6) else None


def _line(axes: "Axes", one: "pandas.DataFrame", cost: str, style: Mapping[str, Any]) -> None:
    """One run."""
    is_chosen, status = bool(one.is_chosen.iloc[0]), one.status.iloc[0]
    width = 2.2 if is_chosen else 0.9
    axes.plot(
        one[cost],
        one.validation_accuracy,
        linewidth=width,
        alpha=1.0 if is_chosen else 0.7,
        **style,
    )
    if is_chosen:
        kept = one[one.is_kept]
        axes.plot(
            kept[cost], kept.validation_accuracy, "o", color=style["color"], markersize=7, zorder=4
        )
    if status in _ENDS:
        last = one.iloc[-1:]
        axes.plot(
            last[cost],
            last.validation_accuracy,
            _ENDS[status],
            color=style["color"],
            markersize=9,
            zorder=5,
        )


def _counted(of_key: "pandas.DataFrame", chosen: set[str]) -> str:
    """A rule's label with what became of its runs: of the chosen setting, then of the others."""
    parts = []
    for is_chosen, of_part in of_key.groupby(of_key.entry.isin(chosen), sort=True):
        counts = [f"{n} {state}" for state in _ENDS if (n := int((of_part.status == state).sum()))]
        if is_chosen:
            parts.insert(0, ", ".join([f"n = {int((of_part.status == 'done').sum())}", *counts]))
        elif counts:
            parts.append(f"other settings: {', '.join(counts)}")
    return f"{of_key.label.iloc[0]} ({'; '.join(parts) or 'not run'})"
