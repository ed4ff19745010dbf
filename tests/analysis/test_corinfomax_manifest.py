"""The manifest of the CorInfoMax paper: is every published simulation there, with the published
number of settings.
"""

import math

import pandas
import pytest

from bioplaus.analysis import published
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

FIGURES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "three_layers")
# script (without .py) -> entry of the grid, settings, seeds: specification, section 11
SCRIPTS = {
    "MLP_CIFAR100_3Layers_Simulation_CrossEntropy_V1": ("grid_bp/cifar100_3layers_ce", 2, 10),
    "MLP_CIFAR100_3Layers_Simulation_V1": ("grid_bp/cifar100_3layers_mse", 8, 10),
    "MLP_CIFAR10_2Layers_Simulation_CrossEntropy_V1": ("grid_bp/cifar10_ce", 4, 10),
    "MLP_CIFAR10_2Layers_Simulation_V1": ("grid_bp/cifar10_mse", 4, 10),
    "MLP_CIFAR10_3Layers_Simulation_CrossEntropy_V1": ("grid_bp/cifar10_3layers_ce_v1", 4, 10),
    "MLP_CIFAR10_3Layers_Simulation_CrossEntropy_V2": ("grid_bp/cifar10_3layers_ce_v2", 4, 10),
    "MLP_CIFAR10_3Layers_Simulation_V1": ("grid_bp/cifar10_3layers_mse_v1", 4, 10),
    "MLP_CIFAR10_3Layers_Simulation_V2": ("grid_bp/cifar10_3layers_mse_v2", 4, 10),
    "MLP_FashionMNIST_2Layers_Simulation_CrossEntropy_V1": ("grid_bp/fashion_mnist_ce", 4, 10),
    "MLP_FashionMNIST_2Layers_Simulation_V1": ("grid_bp/fashion_mnist_mse", 6, 10),
    "MLP_MNIST_2Layers_Simulation_CrossEntropy_V1": ("grid_bp/mnist_ce", 4, 10),
    "MLP_MNIST_2Layers_Simulation_V1": ("grid_bp/mnist_mse", 6, 10),
    "MLP_MNIST_3Layers_Simulation_CrossEntropy_V1": ("grid_bp/mnist_3layers_ce", 4, 10),
    "MLP_MNIST_3Layers_Simulation_V1": ("grid_bp/mnist_3layers_mse_v1", 4, 10),
    "MLP_MNIST_3Layers_Simulation_V2": ("grid_bp/mnist_3layers_mse_v2", 4, 10),
    "CSM_CIFAR10_Simulation_V1": ("grid_ep_csm/csm_cifar10", 1, 10),
    "CSM_FashionMNIST_Simulation": ("grid_ep_csm/csm_fashion_mnist", 1, 10),
    "CSM_MNIST_Simulation_V3": ("grid_ep_csm/csm_mnist", 2, 10),
    "CorInfoMax_CIFAR100_Simulation_V2": ("grid_corinfomax/cifar100_v2", 4, 10),
    "CorInfoMax_CIFAR100_Simulation_V3": ("grid_corinfomax/cifar100_v3", 2, 10),
    "CorInfoMax_CIFAR10_3Layers_Simulation_V1": ("grid_corinfomax/cifar10_3layers", 2, 10),
    "CorInfoMax_CIFAR10_Simulation_V1": ("grid_corinfomax/cifar10", 4, 10),
    "CorInfoMax_FashionMNIST_Simulation_V1": ("grid_corinfomax/fashion_mnist", 4, 10),
    "CorInfoMax_MNIST_3Layers_Simulation_V1": ("grid_corinfomax/mnist_3layers", 4, 10),
    "CorInfoMax_MNIST_Simulation_V1": ("grid_corinfomax/mnist", 8, 10),
    "CorInfoMaxSparse_CIFAR10_Simulation_V1": ("grid_corinfomax_sparse/cifar10", 4, 10),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V1": (
        "grid_corinfomax_sparse/fashion_mnist_v1",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V1Copy": (
        "grid_corinfomax_sparse/fashion_mnist_v1copy",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V2": (
        "grid_corinfomax_sparse/fashion_mnist_v2",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V3": (
        "grid_corinfomax_sparse/fashion_mnist_v3",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V4": (
        "grid_corinfomax_sparse/fashion_mnist_v4",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V5": (
        "grid_corinfomax_sparse/fashion_mnist_v5",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V7": (
        "grid_corinfomax_sparse/fashion_mnist_v7",
        2,
        10,
    ),
    "CorInfoMaxSparse_FashionMNIST_Simulation_V8": (
        "grid_corinfomax_sparse/fashion_mnist_v8",
        2,
        10,
    ),
    "CorInfoMaxSparse_MNIST_Simulation_V1": ("grid_corinfomax_sparse/mnist_v1", 8, 10),
    "CorInfoMaxSparse_MNIST_Simulation_V2": ("grid_corinfomax_sparse/mnist_v2", 4, 10),
    "CorInfoMax_CIFAR100_4Layers_Simulation_V1": ("four_layers/cifar100", 48, 2),
    "CorInfoMax_CIFAR10_4Layers_Simulation_V1": ("four_layers/cifar10", 108, 2),
    "CorInfoMax_CIFAR10_HiddenLayerSize_Ablation": ("widths/cifar10", 8, 10),
    "CorInfoMax_MNIST_HiddenLayerSize_Ablation_V1": ("widths/mnist", 8, 2),
    "CorInfoMax_CIFAR10_muForward_Simulation_V2": ("cifar10_forward_rate/*", 5, 5),
    "CorInfoMax_CIFAR10_neural_lr_start_Simulation_V2": ("cifar10_neural_step/*", 6, 5),
    "CorInfoMax_MNIST_muForward_Simulation_V2": ("mnist_forward_rate/*", 5, 5),
    "CorInfoMax_MNIST_neural_lr_start_Simulation_V2": ("mnist_neural_step/*", 6, 5),
    "EP_CIFAR10_Simulation_V1": ("grid_ep_csm/ep_cifar10_v1", 6, 10),
    "EP_CIFAR10_Simulation_V2": ("grid_ep_csm/ep_cifar10_v2", 6, 10),
    "EP_FashionMNIST_Simulation_V2": ("grid_ep_csm/ep_fashion_mnist", 2, 10),
    "EP_MNIST_Simulation": ("grid_ep_csm/ep_mnist", 1, 10),
    "FAMLP_CIFAR10_2Layers_Simulation_CrossEntropy_v1": ("grid_fa/cifar10_ce", 4, 10),
    "FAMLP_CIFAR10_2Layers_Simulation_v1": ("grid_fa/cifar10_mse", 16, 10),
    "FAMLP_CIFAR10_3Layers_Simulation_CrossEntropy_v1": ("grid_fa/cifar10_3layers_ce", 4, 10),
    "FAMLP_CIFAR10_3Layers_Simulation_v1": ("grid_fa/cifar10_3layers_mse", 16, 10),
    "FAMLP_FashionMNIST_2Layers_Simulation_CrossEntropy_v1": ("grid_fa/fashion_mnist_ce", 4, 10),
    "FAMLP_FashionMNIST_2Layers_Simulation_v1": ("grid_fa/fashion_mnist_mse", 16, 10),
    "FAMLP_MNIST_2Layers_Simulation_CrossEntropy_v1": ("grid_fa/mnist_ce", 4, 10),
    "FAMLP_MNIST_2Layers_Simulation_v1": ("grid_fa/mnist_mse", 16, 10),
    "FAMLP_MNIST_3Layers_Simulation_CrossEntropy_v1": ("grid_fa/mnist_3layers_ce", 4, 10),
    "FAMLP_MNIST_3Layers_Simulation_v1": ("grid_fa/mnist_3layers_mse", 16, 10),
    "PC_FashionMNIST_Simulation": ("grid_pc/pc_fashion_mnist", 4, 10),
    "PC_FashionMNIST_Simulation_V1": ("grid_pc/pc_fashion_mnist_v1", 4, 10),
    "PC_MNIST_Simulation_V1": ("grid_pc/pc_mnist_v1", 4, 10),
    "PC_MNIST_Simulation_V2": ("grid_pc/pc_mnist_v2", 4, 10),
    "PCNudge_CIFAR10_Simulation": ("grid_pc/pc_nudge_cifar10", 2, 10),
    "PCNudge_CIFAR10_Simulation_V1": ("grid_pc/pc_nudge_cifar10_v1", 2, 10),
    "PCNudge_FashionMNIST_Simulation_V1": ("grid_pc/pc_nudge_fashion_mnist_v1", 2, 10),
    "PCNudge_FashionMNIST_Simulation_V2": ("grid_pc/pc_nudge_fashion_mnist_v2", 2, 10),
    "PCNudge_MNIST_Simulation": ("grid_pc/pc_nudge_mnist", 2, 10),
    "PCNudge_MNIST_Simulation_V1": ("grid_pc/pc_nudge_mnist_v1", 2, 10),
}
# Versions V1 of the four ablations: the same settings with three of the five seeds.
REPEATED = {
    "CorInfoMax_CIFAR10_muForward_Simulation_V1",
    "CorInfoMax_CIFAR10_neural_lr_start_Simulation_V1",
    "CorInfoMax_MNIST_muForward_Simulation_V1",
    "CorInfoMax_MNIST_neural_lr_start_Simulation_V1",
}


@pytest.fixture(scope="module")
def runs():
    return manifest.runs("paper", ["corinfomax"])


@pytest.fixture(scope="module")
def entries(runs):
    return list({(run.experiment, run.entry): run for run in runs}.values())


def stem(run):
    """Experiment and entry, without the number of a grid point."""
    name, _, number = run.entry.rpartition("-")
    return f"{run.experiment}/{name if number.isdigit() else run.entry}"


def test_every_script_has_an_entry_with_as_many_settings_and_seeds(runs):
    counts = {}
    for run in runs:
        for name in (stem(run), f"{run.experiment}/*"):
            counts.setdefault(name, []).append(run)
    for script, (name, n_settings, n_seeds) in SCRIPTS.items():
        found = counts[name]
        assert len({run.entry for run in found}) == n_settings, script
        assert len({run.seed for run in found}) == n_seeds and len(found) == n_settings * n_seeds, (
            script
        )


def test_the_scripts_are_those_of_the_specification(shared):
    text = (shared / "specs" / "corinfomax.md").read_text(encoding="utf-8")
    table = text[text.index("## 11.") : text.index("### The configurations behind")]
    rows = [
        line.split("|") for line in table.splitlines() if line.startswith("|") and ".py |" in line
    ]
    said = {
        row[1].strip().rpartition("/")[2].removesuffix(".py"): row[5].strip()
        for row in rows
        if "EMPTY" not in row[2]
    }
    assert said.keys() == SCRIPTS.keys() | REPEATED
    assert {s: f"{n}×{k}" for s, (_, n, k) in SCRIPTS.items()} == {s: said[s] for s in SCRIPTS}


def test_an_entry_names_the_script_it_is_from(entries):
    sources = {name: one.source for name, one in every_entry()}
    for script, (name, *_) in SCRIPTS.items():
        experiment = name.split("/")[0]
        source = (
            manifest.load("corinfomax").experiments[experiment].source
            if name.endswith("*")
            else sources[name]
        )
        assert source.startswith(script + ".py"), name


def every_entry():
    for key, experiment in manifest.load("corinfomax").experiments.items():
        for name, entry in experiment.entries.items():
            yield f"{key}/{name}", entry


def test_every_published_curve_is_answered_by_an_entry(entries):
    curves = (
        published.curves("corinfomax")
        .drop(columns=["figure", "axis", "x", "mean", "sd", "n"])
        .drop_duplicates()
    )
    assert len(curves) >= 60
    left = set(curves.index)
    for run in entries:
        if run.published:
            rows = curves
            for column, wanted in run.published.items():
                if column != "nearest":
                    rows = rows[(rows[column] == wanted).fillna(False)]
            left -= set(rows.index)
    assert curves.loc[sorted(left)].empty


def test_every_row_of_the_published_tables_is_answered_by_one_entry_of_the_grids_or_ablations(
    entries,
):
    """All but the V1 ablations; values with a pickle are those of tables, the others speeds and
    points of curves.
    """
    table = published.values("corinfomax")
    table = table[
        table.is_final & table.pickle.notna() & ~table.pickle.str.endswith("_Ablation_V1")
    ]
    keys = ["pickle", "dataset", "algorithm", "architecture", "setting", "condition"]
    left = {tuple(map(str, row)) for row in table[keys].drop_duplicates().itertuples(index=False)}
    for run in entries:
        if run.published and run.experiment not in {*FIGURES, "baselines"}:
            rows = table
            for column, wanted in run.published.items():
                rows = rows[(rows[column] == wanted).fillna(False)]
            found = {
                tuple(map(str, row)) for row in rows[keys].drop_duplicates().itertuples(index=False)
            }
            assert len(found) == 1, run.key
            assert found <= left, f"{run.key} answers a row that another entry answers"
            left -= found
    assert not left


def test_a_setting_behind_a_figure_has_the_parameters_of_its_grid_point(entries):
    """The entry of its own and the grid point that name the same published rows are the same
    simulation.
    """
    by_row = {}
    for run in entries:
        if run.published and "setting" in run.published:
            rows = published._rows(published._values("corinfomax"), run.published, "corinfomax")
            for pickle in rows.pickle.unique():
                by_row.setdefault((pickle, run.published["setting"]), []).append(run)
    n_pairs = 0
    for (pickle, setting), same in by_row.items():
        first, *others = [resolved(run) for run in same]
        assert all(other == first for other in others), (pickle, setting)
        n_pairs += len(others)
    assert n_pairs >= 40


def resolved(run):
    """A run's parameters with the rule's defaults filled in."""
    from bioplaus import rules
    from bioplaus.tasks import images

    given = {
        name: value for name, value in run.parameters.items() if name not in ("config", "seed")
    }
    spec = images.spec(run.parameters["dataset"])
    return given, rules.config(run.parameters["rule"], run.parameters["config"], spec).to_dict()


def test_single_published_runs_of_one_setting_are_taken_together():
    where = {"algorithm": "CorInfoMax", "pickle": "CorInfoMax_CIFAR10_4Layers_V1", "setting": 2}
    found = published.value("corinfomax", where, "test_accuracy")
    assert (found.value, found.n) == (pytest.approx((0.4305 + 0.4586) / 2), 2)
    assert found.sd == pytest.approx(abs(0.4305 - 0.4586) / math.sqrt(2))
    alone = published.value("corinfomax", {**where, "setting": 6}, "test_accuracy")
    assert alone.value == 0.4861 and not pandas.notna(alone.sd)
    with pytest.raises(BioplausError, match="11 published values"):
        published.value(
            "corinfomax", {k: v for k, v in where.items() if k != "setting"}, "test_accuracy"
        )
