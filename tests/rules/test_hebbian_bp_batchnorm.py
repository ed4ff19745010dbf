"""Backpropagation with batch normalisation: the Keras conventions, written out in NumPy or taken
from torch.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bioplaus import rules, train
from bioplaus.errors import BioplausError
from bioplaus.tasks import Spec, features


def make(n_units, dtype=torch.float64, n_batches=100, **values):
    rule = rules.make("bp_batchnorm", {"n_units": list(n_units), **values}, dtype=dtype)
    rule.begin_epoch(0, n_batches)
    return rule


def batch(
    n: int = 8, n_in: int = 5, n_classes: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_in, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, n_classes, (n,), generator=generator)


def test_first_update_of_a_readout_is_adam_on_gradients_found_by_finite_differences():
    rule, (x, y) = make((5, 3), norm="output", lr=0.1), batch()
    w = rule.w_ff[0].numpy().copy()

    def loss(weight: np.ndarray) -> float:
        a = x.numpy() @ weight.T
        out = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-3)
        return -np.mean((out - np.log(np.exp(out).sum(1, keepdims=True)))[np.arange(8), y.numpy()])

    measured = rule.fit_batch(x, y, epoch=0, step=0)
    assert measured["train_loss"].item() == pytest.approx(loss(w), abs=1e-12)
    step = 1e-6
    gradient = np.zeros_like(w)
    for place in np.ndindex(*w.shape):
        shifted = np.zeros_like(w)
        shifted[place] = step
        gradient[place] = (loss(w + shifted) - loss(w - shifted)) / (2 * step)
    m, v = 0.1 * gradient, 0.001 * gradient**2
    expected = w - 0.1 * np.sqrt(1 - 0.999) / (1 - 0.9) * m / (np.sqrt(v) + 1e-7)
    # Adam's first step is lr sign(gradient) but for the 1e-7, so an error of 1e-9 in a gradient of
    # 1e-3 is 1e-8 of a
    # step
    assert np.allclose(rule.w_ff[0].numpy(), expected, rtol=0, atol=1e-7)


def test_training_follows_torch_layers_in_keras_order():
    """Dense, ReLU, batch norm, Dense; torch's own modules and optimiser, epsilon scaled to where
    Keras adds it.
    """
    rule = make((5, 7, 3), lr=0.01)
    hidden, norm, out = (
        nn.Linear(5, 7).double(),
        nn.BatchNorm1d(7, eps=1e-3).double(),
        nn.Linear(7, 3).double(),
    )
    with torch.no_grad():
        for layer, weight in ((hidden, rule.w_ff[0]), (out, rule.w_ff[1])):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    net = nn.Sequential(hidden, nn.ReLU(), norm, out)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    mean, var = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    for step in range(20):
        x, y = batch(seed=step)
        optimiser.param_groups[0]["eps"] = 1e-7 / (1 - 0.999 ** (step + 1)) ** 0.5
        optimiser.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        seen = hidden(x).relu().detach()
        mean, var = 0.99 * mean + 0.01 * seen.mean(0), 0.99 * var + 0.01 * seen.var(0, correction=0)
        loss.backward()
        optimiser.step()
        measured = rule.fit_batch(x, y, epoch=0, step=step)
        assert measured["train_loss"].item() == pytest.approx(loss.item(), abs=1e-10)
    theirs = (hidden.weight, out.weight, hidden.bias, out.bias, norm.weight, norm.bias, mean, var)
    ours = (
        *rule.w_ff,
        *rule.bias,
        *rule.gamma,
        *rule.beta,
        rule.running_mean[0],
        rule.running_var[0],
    )
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, its, rtol=0, atol=1e-10)


@pytest.mark.parametrize("widths", [(5, 3), (5, 7, 3)])
def test_without_a_norm_it_is_a_plain_chain_that_adam_trains(widths):
    rule = make(widths, norm="none", lr=0.01, start_step=4)
    layers = [nn.Linear(a, b).double() for a, b in zip(widths, widths[1:], strict=False)]
    with torch.no_grad():
        for layer, weight in zip(layers, rule.w_ff, strict=True):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    net = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for parameter in net.parameters():  # of an optimiser that has been used, its moments 0
        zeros = torch.zeros_like(parameter)
        optimiser.state[parameter] = {
            "step": torch.tensor(4.0),
            "exp_avg": zeros,
            "exp_avg_sq": zeros.clone(),
        }
    for step in range(20):
        x, y = batch(seed=step)
        optimiser.param_groups[0]["eps"] = 1e-7 / (1 - 0.999 ** (step + 5)) ** 0.5
        optimiser.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimiser.step()
        rule.fit_batch(x, y, epoch=0, step=step)
    for layer, weight, bias in zip(layers, rule.w_ff, rule.bias, strict=True):
        assert torch.allclose(weight, layer.weight, rtol=0, atol=1e-10)
        assert torch.allclose(bias, layer.bias, rtol=0, atol=1e-10)
    assert torch.allclose(rule.predict(x), net(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", ["output", "hidden"])
def test_prediction_uses_the_running_moments_and_no_other_row(norm):
    rule = make((5, 3) if norm == "output" else (5, 7, 3), norm=norm)
    for step in range(3):
        rule.fit_batch(*batch(seed=step), epoch=0, step=step)
    x, _ = batch(20, seed=9)
    one_by_one = torch.cat([rule.predict(row[None]) for row in x])
    assert torch.allclose(rule.predict(x), one_by_one, rtol=0, atol=1e-12)
    if norm == "output":
        a = x @ rule.w_ff[0].T + rule.bias[0]
        expected = (a - rule.running_mean[0]) / (rule.running_var[0] + 1e-3).sqrt() * rule.gamma[
            0
        ] + rule.beta[0]
        assert torch.allclose(rule.predict(x), expected, rtol=0, atol=1e-12)


def test_rate_falls_in_stairs_counted_over_all_epochs_from_the_first_step():
    rule = make(
        (5, 3), norm="output", lr=0.4, lr_decay=0.7, n_decay_steps=3, n_batches=2, start_step=1
    )
    rates = []
    for epoch in range(3):
        rule.begin_epoch(epoch, 2)
        for step in range(2):
            rule.fit_batch(*batch(), epoch=epoch, step=step)
            rates.append(rule.lr_now[0].item())
    # batches 1, 2, 3, ... as the optimiser counts them
    assert rates == pytest.approx([0.4, 0.4, 0.28, 0.28, 0.28, 0.196], rel=1e-12)


def test_first_steps_of_a_reused_optimiser_are_up_to_three_times_as_long():
    """Moments 0 but corrections 1: the first step is lr 0.1 g / (sqrt(0.001) |g|) = 3.16 lr
    (specification, section 5)."""
    steps = []
    for start in (0, 225000):
        rule = make((5, 3), norm="output", lr=0.01, start_step=start)
        before = rule.w_ff[0].clone()
        rule.fit_batch(*batch(), epoch=0, step=0)
        steps.append((rule.w_ff[0] - before).abs().max().item())
    assert steps[0] == pytest.approx(0.01, rel=1e-3)
    assert steps[1] == pytest.approx(0.01 * 0.1 / 0.001**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "still"),
    [
        ({"n_units": (5, 3), "norm": "output"}, [True]),
        ({"n_units": (5, 7, 3), "activation": "linear"}, [True, False]),
        ({"n_units": (5, 7, 3), "activation": "relu"}, [False, False]),
    ],
)
def test_bias_stays_where_a_batch_norm_takes_it_away_again(values, still):
    rule = make(**values, lr=0.4, dtype=torch.float32)
    for step in range(5):
        x, y = batch(seed=step)
        rule.fit_batch(x.float(), y, epoch=0, step=step)
    assert [not bias.any().item() for bias in rule.bias] == still


def test_numbers_of_parameters_are_the_published_ones():
    readout = rules.make("bp_batchnorm", {"n_units": [2000, 10], "norm": "output"})
    control = rules.make("bp_batchnorm")
    learned = [sum(value.numel() for value in rule._learned()) for rule in (readout, control)]
    moments = [
        sum(value.numel() for value in (*r.running_mean, *r.running_var))
        for r in (readout, control)
    ]
    assert (learned[0], learned[0] + moments[0]) == (20030, 20050)
    assert (learned[1], learned[1] + moments[1]) == (6170010, 6174010)


def test_separable_classes_are_learned():
    x, _ = batch(200, 4, seed=1)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    spec = Spec(name="quadrants", kind="classification", n_in=4, n_out=4)
    inputs = features.Inputs(
        spec=spec, x={"train": x, "test": x}, y={"train": y, "test": y}, fingerprint="x"
    )
    rule = rules.make(
        "bp_batchnorm", {"n_units": [4, 32, 4], "lr": 0.01}, spec, dtype=torch.float64
    )
    history = train.fit(
        rule, features.ReadoutTask(inputs), n_epochs=60, batch_size=20, progress=False
    )
    assert history.epochs[-1]["test_accuracy"] > 0.97  # chance is 0.25


def test_interrupted_training_ends_with_the_same_bits(tmp_path):
    x, y = batch(50, seed=2)
    spec = Spec(name="noise", kind="classification", n_in=5, n_out=3)
    inputs = features.Inputs(spec=spec, x={"train": x.float()}, y={"train": y}, fingerprint="x")
    values = {"n_units": [5, 7, 3], "lr": 0.1, "lr_decay": 0.7, "n_decay_steps": 4}

    def fit(folder, n_stop=None):
        rule = rules.make("bp_batchnorm", values, spec)

        def stop(epoch, metrics):
            if epoch == n_stop:
                raise KeyboardInterrupt

        task = features.ReadoutTask(inputs)
        train.fit(
            rule, task, n_epochs=5, batch_size=8, folder=folder, progress=False, on_epoch=stop
        )
        return rule

    whole = fit(tmp_path / "whole")
    train.CHECKPOINT_SECONDS, before = 0.0, train.CHECKPOINT_SECONDS
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", n_stop=2)
    finally:
        train.CHECKPOINT_SECONDS = before
    resumed = fit(tmp_path / "cut")
    for (name, mine), its in zip(
        resumed.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert name == "_extra_state" or torch.equal(mine, its), name


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_units": [10], "norm": "output"}, "at least 2 layers"),
        ({"n_units": [10, 10], "norm": "hidden"}, "at least 3 layers"),
        ({"norm": "both"}, "unknown"),
        ({"activation": "tanh"}, "unknown"),
        ({"lr_decay": 1.5}, "lr_decay is 1.5"),
        ({"n_decay_steps": 0}, "n_decay_steps is 0"),
        ({"start_step": -1}, "start_step is -1"),
    ],
)
def test_value_that_cannot_work_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(BioplausError) as refused:
        rules.config("bp_batchnorm", values)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
