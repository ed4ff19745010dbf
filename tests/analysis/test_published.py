"""Published numbers: what the files say, which of them an entry answers, and the criterion."""

import csv
import math

import pandas
import pytest

from bioplaus.analysis import published
from bioplaus.errors import BioplausError
from bioplaus.experiments import manifest

PAPERS = ["bilateral", "ccdni", "corinfomax", "hebbian"]
RUN = manifest.Run(
    paper="corinfomax",
    experiment="mnist",
    entry="ep",
    label="EP",
    preset="desk",
    simulation="classify",
    seed=0,
    parameters={
        "dataset": "mnist",
        "n_epochs": 10,
        "batch_size": 20,
        "config": {"n_units": [784, 500, 10], "lr": 0.1},
    },
    published={"algorithm": "EP", "dataset": "MNIST", "architecture": "784-500-10"},
    seconds=None,
)


def changed(**parameters):
    return manifest.Run(**{**vars(RUN), "parameters": {**RUN.parameters, **parameters}})


@pytest.mark.parametrize("paper", PAPERS)
def test_the_committed_files_are_those_of_the_specification(paper, shared):
    for source in (shared / "specs").glob(f"{paper}_published*.csv"):
        ours = published._file(paper, source.stem.removeprefix(f"{paper}_"))
        # git may have changed the ends of lines
        assert ours.read_bytes().split() == source.read_bytes().split()


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_published_numbers(paper):
    table = published.values(paper)
    assert table.value.notna().any() and {"metric", "setting", "condition", "is_final"} <= set(
        table.columns
    )


def test_every_accuracy_curve_ends_at_the_table_entry_it_is_said_to_be():
    """Means agree to six digits; the band is the population form of the table's sample
    deviation.
    """
    curves, n_checked = published.curves("corinfomax"), 0
    keys = [
        "figure",
        "dataset",
        "algorithm",
        "architecture",
        "setting",
        "pickle",
        "condition",
        "metric",
    ]
    for names, rows in curves[curves.axis == "epoch"].groupby(keys, dropna=False):
        where = {
            key: None if pandas.isna(name) else name
            for key, name in zip(keys[1:-1], names[1:-1], strict=True)
        }
        final = published.value("corinfomax", where, names[-1])
        end = published.point(rows.assign(note=""), 50)
        assert end.value == pytest.approx(final.value, abs=2e-6)
        assert end.sd == pytest.approx(final.sd, abs=3e-6)
        assert end.n == final.n
        n_checked += 1
    assert n_checked == 57  # 35 of figures, 22 of ablations


def test_every_point_of_every_curve_is_there_once():
    curves = published.curves("corinfomax")
    keys = ["figure", "dataset", "algorithm", "architecture", "setting", "condition", "metric", "x"]
    assert len(curves) == 4500 and not curves.duplicated(keys).any()


def test_angle_log_i_is_at_batch_1000_i_minus_999():
    where = {
        "algorithm": "CorInfoMax",
        "dataset": "MNIST",
        "architecture": "784-500-10",
        "setting": 3,
    }
    found = published.curve("corinfomax", where, "angle_2_deg")
    assert list(found.x[:3]) == [1, 1001, 2001] and found.x.iloc[-1] == 149_001
    assert published.point(found, 2001).value == pytest.approx(67.30368)  # the file's third point
    assert published.point(found, 1500) is None


def test_the_check_points_of_the_specification_are_read():
    where = {"algorithm": "EP", "dataset": "MNIST", "architecture": "784-500-10"}
    found = published.curve("corinfomax", where, "test_accuracy")
    read = [round(published.point(found, epoch).value, 4) for epoch in (1, 2, 3, 5, 10)]
    assert read == [0.9521, 0.9637, 0.9681, 0.9719, 0.9752]


def test_a_band_is_converted_from_population_to_sample_form():
    where = {"algorithm": "EP", "dataset": "MNIST", "architecture": "784-500-10"}
    found = published.curve("corinfomax", where, "test_accuracy")
    assert published.point(found, 1).sd == pytest.approx(found.sd[0] * math.sqrt(10 / 9))


def test_another_settings_curve_is_used_only_if_asked_for_and_says_so():
    where = {
        "algorithm": "CorInfoMax",
        "dataset": "MNIST",
        "architecture": "784-500-10",
        "setting": 3,
    }
    assert published.curve("corinfomax", where, "test_accuracy") is None
    near = published.curve("corinfomax", {**where, "nearest": {"setting": 1}}, "test_accuracy")
    assert set(near.note) == {"published setting: 1, ours: 3"}
    exact = published.curve("corinfomax", {**where, "nearest": {"setting": 1}}, "angle_2_deg")
    assert set(exact.note) == {""}


def test_rows_that_fit_two_published_values_are_refused_and_what_tells_them_apart_is_named():
    where = {"algorithm": "BP-MLP (MSE)", "dataset": "MNIST", "architecture": "784-500-10"}
    with pytest.raises(
        BioplausError,
        match=r"6 published values of test_accuracy .*; add pickle or setting|add setting",
    ):
        published.value("corinfomax", where, "test_accuracy")
    assert published.value("corinfomax", {**where, "setting": 5}, "test_accuracy").value == 0.97582


def test_rows_that_were_never_published_are_refused():
    with pytest.raises(BioplausError, match="Nothing published by corinfomax has .*BP-MLP-MSE"):
        published.check("corinfomax", {"algorithm": "BP-MLP-MSE", "dataset": "MNIST"})


def test_a_misspelt_column_is_refused_with_the_nearest_one():
    with pytest.raises(BioplausError, match="did you mean 'algorithm'"):
        published.check("corinfomax", {"algoritm": "EP"})


def test_every_entry_of_every_manifest_names_published_rows():
    for paper in manifest.papers():
        entries = {(run.experiment, run.entry): run for run in manifest.runs("paper", [paper])}
        for run in entries.values():
            if run.published:
                published.check(paper, run.published)
                # raises where more than one row fits
                published.value(paper, run.published, "test_accuracy")


@pytest.mark.parametrize("dataset", ["digits", "cifar10-jpeg", "mnist-subset.npz", "fashion-mnist"])
def test_no_other_data_set_is_held_against_mnist(dataset):
    assert (
        published.difference(changed(dataset=dataset), RUN)
        == f"the data set is {dataset}, published is MNIST"
    )


def test_the_jpeg_copy_of_cifar10_is_not_cifar10():
    run = manifest.Run(
        **{**vars(changed(dataset="cifar10-jpeg")), "published": {"dataset": "CIFAR10"}}
    )
    assert "cifar10-jpeg" in published.difference(run, None)
    assert not published.difference(
        manifest.Run(**{**vars(run), "parameters": {"dataset": "cifar10"}}), None
    )


def test_another_network_or_parameter_is_not_compared_and_is_named():
    narrow = changed(config={"n_units": [784, 100, 10], "lr": 0.1})
    assert published.difference(narrow, RUN) == "the network is 784-100-10, published is 784-500-10"
    assert (
        published.difference(changed(batch_size=64), RUN)
        == "batch_size is 64, at preset paper it is 20"
    )
    faster = changed(config={"n_units": [784, 500, 10], "lr": 0.2})
    assert published.difference(faster, RUN) == "config.lr is 0.2, at preset paper it is 0.1"
    assert (
        published.difference(changed(n_train=1000), RUN)
        == "n_train is 1000, at preset paper it is None"
    )


def test_fewer_epochs_another_seed_and_precision_are_the_same_experiment():
    assert published.difference(changed(n_epochs=3, seed=7, dtype="float64"), RUN) == ""


def test_each_curve_has_one_line_in_the_file_of_settings():
    with open(published._file("corinfomax", "published_curve_settings"), newline="") as file:
        rows = [
            (row["figure"], row["dataset"], row["curve"], row["architecture"])
            for row in csv.DictReader(file)
        ]
    assert len(rows) == len(set(rows)) == 64
