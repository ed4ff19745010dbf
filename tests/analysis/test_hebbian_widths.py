"""Accuracy against width: ours by what the published notebook measures, the published tables beside
it, and the shares of weights by sign.
"""

import numpy as np
import pytest
import torch

from bioplaus import analysis, results
from bioplaus.experiments import manifest
from bioplaus.papers.hebbian import synapses, widths


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_RESULTS", str(tmp_path))


def write(entry, seed, *, weight=None, **epochs):
    """A complete run of preset desk with these columns."""
    (run,) = manifest.runs("desk", ["hebbian"], only=f"widths/{entry}", seeds=[seed])
    names = ("id", "paper", "experiment", "entry", "label", "preset", "seed", "parameters")
    folder = results.begin(run.folder, {name: getattr(run, name) for name in names})
    n = len(next(iter(epochs.values())))
    record = {
        "status": "done",
        "config": run.parameters["config"],
        "task": {"n_out": 10},
        "epochs": {"epoch": np.arange(n), **{k: np.array(v) for k, v in epochs.items()}},
        "diagnostics": {},
    }
    if weight is not None:
        record["weights"] = synapses.pack(torch.as_tensor(weight))
    results.finish(folder, record)


def load():
    return analysis.load("hebbian", "widths", "desk")


def test_every_published_number_by_width_is_drawn_and_ours_beside_it():
    for seed, best in ((0, 0.96), (1, 0.98)):
        write("bio-1", seed, test_accuracy=[0.9, best, 0.95], validation_accuracy=[1.0, 1.0, 1.0])
    write("bp-3", 0, test_accuracy=[1.0, 1.0], validation_accuracy=[0.97, 0.96])
    drawn = widths.table(load())
    known = drawn[drawn.source == "published"]
    assert known.groupby(["dataset", "network"]).width.apply(sorted).to_dict() == {
        (dataset, network): sizes
        for dataset, sizes in (
            ("CIFAR-10", [1000, 2000, 4000, 8000]),
            ("MNIST", [200, 500, 1000, 2000, 4000, 8000]),
        )
        for network in ("BIO", "BP")
    }
    ours = drawn[drawn.source == "ours"].set_index("network")
    assert ours.loc["BIO", ["dataset", "width", "n"]].tolist() == ["MNIST", 200, 2]
    assert ours.loc["BIO", "value"] == pytest.approx(0.97)
    assert ours.loc["BIO", "sd"] == pytest.approx(0.02 / np.sqrt(2))
    assert ours.loc["BP", "value"] == pytest.approx(0.97) and ours.loc["BP", "width"] == 1000
    figure = widths.draw(drawn).figure
    assert [axes.get_title() for axes in figure.axes] == ["MNIST", "CIFAR-10"]


def test_the_published_numbers_are_drawn_where_nothing_of_ours_is():
    drawn = widths.table(load())
    assert set(drawn.source) == {"published"} and len(drawn) == 20
    assert widths.provenance(load()).has_content
    assert widths.weights(load()).figure is None


def test_shares_of_weights_by_sign_are_counted_to_the_precision_they_are_kept_with():
    weight = np.zeros((4, 100), dtype=np.float32)
    weight[:, :30], weight[:, 30:90] = 0.5, -1.0
    write("bio-2", 0, test_accuracy=[0.9], weight=weight)
    first = widths.weights(load()).data.iloc[0]
    assert (first.width, first.n_units) == (500, 4)
    assert [first.negative, first.zero, first.positive] == pytest.approx([0.6, 0.1, 0.3])
