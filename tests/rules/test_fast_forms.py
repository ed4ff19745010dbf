"""The fast form of a rule computes what its plain form does: for every rule that has both, with no
edit here, in float64 over whole trainings, under every option of its config.

The plain form is the oracle: it is the rule's equations, which goldens of the published code and
closed forms hold to the papers.
"""

import copy
import typing

import pytest
import torch

from bioplaus import device, rules, weights
from bioplaus.errors import BioplausError

F64 = torch.float64
FAST = [name for name in rules.names() if rules.has_fast(name)]
RELAXING = [name for name in FAST if getattr(rules.get(name).Rule, "objective_name", "")]
TOLERANCE = 1e-12  # of the largest value, at least 1: some thousand roundings
ROWS = (5, 5, 3, 70)  # samples of the batches of an epoch: sizes may change
CHAINS = ([8, 7, 5], [6, 5, 7, 4], [5, 6, 4, 7, 3])  # widths for rules whose example is a chain
DRAWING = {"loss": "mse", "spars_int": 3, "n_truncation": 3}
RECURRENT = (
    {"n_truncation": 1},
    {"n_truncation": None, "clip": 0.0},
    DRAWING,
    DRAWING | {"n_truncation": 1, "clip": 0.01},
    DRAWING | {"cell": "tanh", "n_truncation": 8, "clip": 0.0},
)
NUMBERS = {  # settings of numbers that change what a rule does, by rule
    "bptt": RECURRENT,
    "dni": (
        *RECURRENT,
        {"n_synth_layers": 0},
        {"n_synth_layers": 3, "n_synth_hidden": 5},
        {"n_fibres": -1},
        {"bootstrap_scale": 0.0},
        DRAWING | {"bootstrap_scale": 0.7, "bootstrap_last": False},
        {"lesion_epoch": 1},
        {"lesion_epoch": 2},
        {"io_lesion_epoch": 2},
        {"io_lesion_epoch": 2, "keep_stale_grads": False},
        {"io_lesion_epoch": 2, "lesion_epoch": 3},
        {"fixed_synth": True, "synth_last": "random"},
    ),
    "competing_hidden": tuple(
        {"n_units": [12, n_hidden], "p": p, "k": k, "delta": delta, "snapshot_epochs": [0, 1]}
        for n_hidden in (7, 60)  # few and many beside the batches
        for p, k, delta in ((2.0, 2, 0.4), (3.0, 7, 0.2), (2.5, 3, 0.0), (1.0, 4, 1.0))
    ),
}


def options(name):
    """Every flag of a rule turned and every other choice of its fields, one at a time, by name."""
    config = rules.get(name).Config
    for field, kind in typing.get_type_hints(config).items():
        default = getattr(config(), field)
        values = (False, True) if kind is bool else typing.get_args(kind)
        if kind is bool or typing.get_origin(kind) is typing.Literal:
            yield from ((field, value) for value in values if value != default)


def fitted(name, n_units):
    """Values for a chain of these widths: lists by layer of the length that it needs."""
    n, fields = len(n_units) - 1, rules.get(name).Config.__dataclass_fields__
    lists = {
        "lr_ff": [0.3 / (k + 1) for k in range(n)],
        "lr_fb": [0.1 / (k + 1) for k in range(n - 1)],
        "lr_lateral": [-0.02 / (k + 1) for k in range(n - 1)],
        "lr_sparse": [0.1 / (k + 1) for k in range(n)],
        "sparse_layers": list(range(1, n + 1)),
    }
    return {"n_units": n_units} | {key: value for key, value in lists.items() if key in fields}


def is_chain(name):
    """Whether the number of its layers is free: whether the checks of its config take any."""
    try:
        return all(rules.config(name, fitted(name, n_units)) for n_units in CHAINS)
    except BioplausError:
        return False


def cases():
    """(rule, values): its example, each option, each depth, and what only one rule has."""
    for name in FAST:
        start = fitted(name, CHAINS[0]) if is_chain(name) else rules.example(name)[0]
        yield name, start
        yield from ((name, start | {field: value}) for field, value in options(name))
        yield from ((name, start | values) for values in NUMBERS.get(name, ()))
        if is_chain(name):
            yield from ((name, fitted(name, n_units)) for n_units in CHAINS[1:])
        if "sparse_layers" in start:
            for layers in ([], [1], [2], [3], [1, 3]):
                yield name, fitted(name, CHAINS[1]) | {"sparse_layers": layers}


def drawn(name, seed):
    """Values at random: every number of the config made smaller, every choice taken by chance."""
    stream = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return low + (high - low) * float(torch.rand((), generator=stream, dtype=F64))

    values = fitted(name, CHAINS[seed % 3]) if is_chain(name) else rules.example(name)[0]
    config = rules.config(name, values)
    for field, kind in typing.get_type_hints(type(config)).items():
        default, choices = getattr(config, field), typing.get_args(kind)
        if kind is bool or typing.get_origin(kind) is typing.Literal:
            choices = (False, True) if kind is bool else choices
            values = values | {field: choices[int(uniform(0, len(choices)))]}
        elif kind is float:
            values = values | {field: default * uniform(0.7, 1)}
        elif kind is int and field.endswith("_steps"):
            values = values | {field: int(uniform(1, default + 1))}
    return values


class Training:
    """A rule trained in one form; everything that it shows on the way, in order, by name."""

    def __init__(self, name, values, plain, n_epochs=2):
        spec = rules.get(name).Rule.example_spec(rules.config(name, values))
        self.rule = rules.make(name, values, spec, seed=3, dtype=F64, plain=plain)
        self.shown = []
        stream = device.generator(1, "weights")
        for key, weight in self.rule.named_parameters():
            if "averages" not in key:  # no matrix is symmetric, and no bias is 0
                noise = torch.randn(weight.shape, generator=stream, dtype=F64)
                weight.data.add_(noise, alpha=0.05)
        stream = device.generator(2, "data")
        self.batches = [self.rule.example_batch(spec, n, stream, F64) for n in ROWS]
        self.rule.watch = self.see
        self.n_epochs = n_epochs

    def see(self, phase, t, state):
        self.shown += [
            (f"{phase} {t} {name} {k}", part.clone())
            for name, parts in state.items()
            for k, part in enumerate(parts)
        ]

    def run(self):
        rule = self.rule
        for epoch in range(self.n_epochs):
            rule.begin_epoch(epoch, len(self.batches))
            for step, batch in enumerate(self.batches):
                measured = rule.fit_batch(*batch, epoch=epoch, step=step)
                self.shown += [(f"measured {key}", value) for key, value in measured.items()]
            rule.watch = None
            rule.eval()
            self.shown += [("predicted", rule.predict(batch[0])) for batch in self.batches]
            rule.train()
            rule.watch = self.see
            self.shown += [
                (f"diagnostics {key}", torch.tensor(value, dtype=F64))
                for key, value in rule.diagnostics().items()
            ]
            self.shown += [
                (f"state {key}", value.clone())
                for key, value in rule.state_dict().items()
                if isinstance(value, torch.Tensor)
            ]
        return self


def check_equal(plain, fast):
    """Raise `AssertionError` unless two trainings showed the same."""
    assert [key for key, _ in fast.shown] == [key for key, _ in plain.shown]
    for (key, a), (_, b) in zip(fast.shown, plain.shown, strict=True):
        size = max(1.0, float(b.abs().max())) if b.numel() and b.is_floating_point() else 1.0
        torch.testing.assert_close(
            a, b, rtol=0, atol=TOLERANCE * size, msg=lambda text, key=key: f"{key}: {text}"
        )


def both(name, values):
    return (Training(name, values, plain=plain) for plain in (True, False))


def label(case):
    name, values = case
    return f"{name}-" + "-".join(f"{key}={value}" for key, value in values.items())


@pytest.mark.parametrize("case", list(cases()), ids=label)
def test_a_fast_form_learns_shows_and_predicts_what_the_plain_form_does(case):
    plain, fast = both(*case)
    assert type(fast.rule) is not type(plain.rule)
    check_equal(plain.run(), fast.run())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FAST)
def test_a_fast_form_is_the_plain_form_at_settings_drawn_at_random(name, seed):
    plain, fast = both(name, drawn(name, seed))
    check_equal(plain.run(), fast.run())


@pytest.mark.parametrize("name", RELAXING)
@pytest.mark.parametrize("has_target", [True, False])
def test_both_forms_show_one_trajectory_and_its_objective(name, has_target):
    values = fitted(name, CHAINS[1])
    plain, fast = both(name, values)
    for training in (plain, fast):
        x, y = training.batches[-1]
        seen = training.rule.relax(x, y if has_target else None)
        training.shown += [(f"{phase}", seen.objective) for phase in seen.phases]
        for key, layers in seen.states.items():
            training.shown += [(f"{key} {k}", layer) for k, layer in enumerate(layers)]
    check_equal(plain, fast)


@pytest.mark.parametrize("name", FAST)
def test_a_form_goes_on_from_the_state_of_the_other(name):
    plain, fast = both(name, rules.example(name)[0])
    plain.run()
    fast.run()
    fast.rule.load_state_dict(plain.rule.state_dict())
    plain.rule.load_state_dict(fast.rule.state_dict())
    check_equal(plain.run(), fast.run())


@pytest.mark.parametrize("name", FAST)
def test_an_evaluation_of_more_rows_than_one_part_takes_is_the_same(name):
    plain, fast = both(name, rules.example(name)[0])
    spec = plain.rule.example_spec(plain.rule.config)
    x = plain.rule.example_batch(spec, 2300, device.generator(5, "data"), F64)[0]
    for training in (plain, fast):
        training.rule.eval()
        training.shown.append(("predicted", training.rule.predict(x)))
    check_equal(plain, fast)


@pytest.mark.parametrize("shown", ["nudged 1 s 0", "predicted", "state w_ff.0"])
def test_a_difference_of_1e_10_anywhere_is_found(shown):
    plain, fast = both("ep", fitted("ep", CHAINS[0]))
    plain.run()
    fast.run()
    check_equal(plain, fast)
    at = max(k for k, (key, _) in enumerate(fast.shown) if key == shown)
    value = fast.shown[at][1].clone()
    value[(0,) * value.dim()] += 1e-10
    fast.shown[at] = shown, value
    with pytest.raises(AssertionError, match=shown):
        check_equal(plain, fast)


def test_a_fast_form_that_learns_another_rule_is_found(monkeypatch):
    plain, fast = both("corinfomax", fitted("corinfomax", CHAINS[0]))
    monkeypatch.setattr(type(fast.rule), "_change_lateral", lambda *_: None)
    with pytest.raises(AssertionError, match="b_lateral|free|nudged"):
        check_equal(plain.run(), fast.run())


@pytest.mark.parametrize("name", FAST)
def test_a_network_saved_in_one_form_is_loaded_as_the_one_that_runs(name, tmp_path):
    plain, fast = both(name, rules.example(name)[0])
    plain.run()
    weights.save(name, plain.rule, tmp_path / "network.pt")
    loaded = weights.load(tmp_path / "network.pt", dtype=F64)
    assert type(loaded) is type(fast.rule)
    x = plain.batches[0][0]
    torch.testing.assert_close(
        loaded.predict(x), plain.rule.eval().predict(x), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", RELAXING)
def test_a_copy_of_either_form_goes_on_alone_and_unwatched(name, plain):
    training = Training(name, rules.example(name)[0], plain=plain).run()
    copied = copy.deepcopy(training.rule)
    assert type(copied) is type(training.rule) and copied.watch is None
    n_shown = len(training.shown)
    for rule in (copied, training.rule):
        rule.watch = None
        rule.begin_epoch(2, 1)
        rule.fit_batch(*training.batches[0], epoch=2, step=0)
    assert len(training.shown) == n_shown
    for a, b in zip(copied.parameters(), training.rule.parameters(), strict=True):
        assert a is not b and torch.equal(a, b)
