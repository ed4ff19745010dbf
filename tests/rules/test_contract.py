"""What every learning rule keeps, whatever it learns: a new file in bioplaus/rules is tested here
with no edit.
"""

import copy
import dataclasses
import json

import pytest
import torch

from bioplaus import device, rules
from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.rules import LearningRule
from bioplaus.tasks import Spec

N_BATCHES, BATCH_SIZE = 4, 10


NAMES = rules.names()
FORMS = NAMES + [f"{name} (plain)" for name in NAMES if rules.has_fast(name)]


def learner(form, seed=0, dtype=torch.float32, device="cpu"):
    """A rule from its key, in its plain form where that is said behind it."""
    name, _, plain = form.partition(" ")
    return rules.make(
        name, *rules.example(name), seed=seed, dtype=dtype, device=device, plain=bool(plain)
    )


def batches(form, n=N_BATCHES, dtype=torch.float32):
    """Random batches of a task the rule accepts."""
    name = form.partition(" ")[0]
    stream, rule, (_, spec) = device.generator(1, "data"), rules.get(name).Rule, rules.example(name)
    return [rule.example_batch(spec, BATCH_SIZE, stream, dtype) for _ in range(n)]


def train(rule, data, epochs=(0,)):
    for epoch in epochs:
        rule.begin_epoch(epoch, len(data))
        for step, batch in enumerate(data):
            rule.fit_batch(*batch, epoch=epoch, step=step)
    return rule


def state(rule):
    """Everything that `state_dict` holds, as a flat list of (name, tensor)."""
    found = {}
    for name, value in rule.state_dict().items():
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}": torch.as_tensor(part).clone() for key, part in parts.items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NAMES)
class TestDescription:
    def test_the_module_explains_itself_and_defines_a_config_and_a_rule(self, name):
        module = rules.get(name)
        assert module.__doc__ and module.Rule.__doc__
        assert issubclass(module.Config, Config) and issubclass(module.Rule, LearningRule)

    def test_the_default_config_survives_json(self, name):
        config = rules.get(name).Config()
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(config)[0].name, None)

    def test_an_unknown_parameter_is_refused_and_the_rule_named(self, name):
        with pytest.raises(BioplausError, match=f"rule {name}.*'no_such_thing'"):
            rules.config(name, {"no_such_thing": 1})

    def test_a_task_of_another_size_is_refused_and_the_data_set_named(self, name):
        values, fits = rules.example(name)
        with pytest.raises(BioplausError, match="'other'"):
            rules.config(
                name,
                values,
                dataclasses.replace(fits, name="other", n_out=fits.n_out + 1, n_in=fits.n_in + 1),
            )

    def test_a_task_of_another_kind_is_refused(self, name):
        spec = Spec(name="other", kind="no such kind", n_in=12, n_out=10)
        with pytest.raises(BioplausError, match="other"):
            rules.config(name, rules.example(name)[0], spec)


@pytest.mark.parametrize("form", FORMS)
class TestLearning:
    def test_one_seed_gives_one_learner_and_another_seed_another(self, form):
        data = batches(form)
        first, again, other = (train(learner(form, seed), data) for seed in (3, 3, 4))
        assert same(state(first), state(again))
        assert not same(state(first), state(other))

    def test_both_dtypes_start_from_the_same_weights(self, form):
        single, double = learner(form), learner(form, dtype=torch.float64)
        for (key, a), b in zip(single.named_parameters(), double.parameters(), strict=True):
            assert b.dtype == torch.float64, key
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-7)

    def test_learning_in_float64_stays_in_float64_and_agrees_with_float32(self, form):
        data = batches(form, n=2)
        single = train(learner(form), data)
        doubles = [
            tuple(v.double() if v.is_floating_point() else v for v in batch) for batch in data
        ]
        double = train(learner(form, dtype=torch.float64), doubles)
        for (key, a), b in zip(single.named_parameters(), double.parameters(), strict=True):
            assert b.dtype == torch.float64, key
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4, msg=key)
        double.eval()
        assert double.predict(doubles[0][0]).dtype in (
            torch.float64,
            torch.int64,
        )  # int64: predicted words

    def test_learning_changes_weights_and_keeps_them_finite(self, form):
        rule = learner(form)
        before, data = state(rule), batches(form)
        train(rule, data)
        after = state(rule)
        assert any(
            not torch.equal(before[key], after[key])
            for key, _ in rule.named_parameters()
            if key in before
        ) or any(
            not torch.equal(before[f"{key}."], after[f"{key}."])
            for key, _ in rule.named_parameters()
        )
        assert all(
            torch.isfinite(value).all() for value in after.values() if value.is_floating_point()
        )

    def test_the_smallest_batch_that_it_names_is_enough_to_learn_from(self, form):
        """A rule that normalises over a batch must say so: one sample has no spread."""
        name = form.partition(" ")[0]
        rule, (_, spec) = learner(form), rules.example(name)
        n = rule.least_batch(rule.config)
        stream = device.generator(1, "data")
        train(rule, [rule.example_batch(spec, n, stream) for _ in range(2)])
        for key, value in state(rule).items():
            assert not value.is_floating_point() or torch.isfinite(value).all(), key

    def test_a_saved_learner_goes_on_bit_for_bit(self, form):
        data = batches(form)
        undisturbed = train(learner(form), data, epochs=(0, 1, 2))
        saved = copy.deepcopy(train(learner(form), data, epochs=(0,)).state_dict())
        resumed = learner(form, seed=9)
        resumed.load_state_dict(saved)
        assert same(state(train(resumed, data, epochs=(1, 2))), state(undisturbed))

    def test_predicting_changes_nothing_and_draws_nothing(self, form):
        rule = learner(form)
        data = batches(form)
        train(rule, data)
        rule.eval()
        before, global_draws = state(rule), torch.get_rng_state()
        first = rule.predict(data[0][0])
        second = rule.predict(data[0][0])
        assert torch.equal(first, second) and not first.requires_grad
        assert same(before, state(rule)) and torch.equal(global_draws, torch.get_rng_state())

    def test_a_look_at_the_evaluation_and_the_diagnostics_does_not_change_what_is_learned(
        self, form
    ):
        data = batches(form)
        plain = train(learner(form), data, epochs=(0, 1))
        looked = train(learner(form), data).eval()
        looked.predict(data[0][0])
        looked.diagnostics()
        looked.train()
        assert same(state(train(looked, data, epochs=(1,))), state(plain))

    def test_rows_are_predicted_independently(self, form):
        rule = train(learner(form, dtype=torch.float64), batches(form, dtype=torch.float64))
        rule.eval()
        x = torch.cat([batch[0] for batch in batches(form, dtype=torch.float64)])
        torch.testing.assert_close(rule.predict(x)[:3], rule.predict(x[:3]), rtol=0, atol=1e-12)

    def test_a_prediction_is_an_ordinary_tensor(self, form):
        rule = learner(form)
        output = rule.predict(batches(form)[0][0])
        assert not output.is_inference()
        output += 1  # an inference tensor would refuse

    def test_only_the_stream_of_the_rule_is_drawn_from(self, form):
        data = batches(form)
        before = torch.get_rng_state()
        train(learner(form), data)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_batch_is_learned_without_asking_the_host(self, form, monkeypatch):
        rule = learner(form)
        data = batches(form)
        train(rule, data)  # first calls may allocate
        rule.begin_epoch(1, len(data))

        def refuse(*_):
            raise AssertionError("fit_batch read a number from the device")

        with monkeypatch.context() as patched:
            for method in (
                "item",
                "tolist",
                "cpu",
                "__bool__",
                "__float__",
                "__int__",
                "__index__",
                "nonzero",
            ):
                patched.setattr(torch.Tensor, method, refuse)
            for step, batch in enumerate(data):
                rule.fit_batch(*batch, epoch=1, step=step)

    def test_what_a_batch_measures_are_single_numbers(self, form):
        rule = learner(form)
        data = batches(form)
        rule.begin_epoch(0, len(data))
        for key, value in rule.fit_batch(*data[0], epoch=0, step=0).items():
            assert isinstance(key, str) and value.shape == () and torch.isfinite(value)

    def test_diagnostics_are_numbers(self, form):
        rule = train(learner(form), batches(form))
        assert all(
            isinstance(key, str) and type(value) is float
            for key, value in rule.diagnostics().items()
        )

    def test_batches_may_change_size(self, form):
        data = batches(form)
        short = tuple(part[:3] for part in data[1])
        alone = train(learner(form), [data[0], short, data[2]])
        again = train(learner(form), [data[0], short, data[2]])
        assert same(state(alone), state(again))

    def test_useful_operations_grow_in_proportion_to_the_batch(self, form):
        rule = train(learner(form), batches(form))
        one, ten = rule.useful_flops(1), rule.useful_flops(10)
        assert isinstance(one, int) and one >= 0 and ten == 10 * one

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_a_gpu_learns_the_same_in_float64(self, form):
        data = batches(form, dtype=torch.float64)
        host = train(learner(form, dtype=torch.float64), data)
        there = learner(form, dtype=torch.float64, device="cuda")
        train(there, [tuple(part.cuda() for part in batch) for batch in data])
        for a, b in zip(host.parameters(), there.parameters(), strict=True):
            torch.testing.assert_close(a, b.cpu(), rtol=1e-9, atol=1e-9)


def is_classifier(name):
    try:
        return rules.example(name)[1].kind == "classification"
    except BioplausError:
        return False  # it cannot be asked; the tests above fail for it


CLASSIFIERS = [name for name in NAMES if is_classifier(name)]
LOSSES = ("loss", "train_loss", "train_nll")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_learns_three_classes_that_can_be_told_apart(name):
    """The loss of a rule that reports one falls by 5 %, else 9 of 10 samples are classified, after
    300 batches.
    """
    widths = {"n_units": [*rules.example(name)[0]["n_units"][:-1], 3]}
    spec = rules.get(name).Rule.example_spec(rules.config(name, widths))
    rule, stream = rules.make(name, widths, spec), device.generator(2, "data")
    prototypes = torch.zeros(3, spec.n_in)
    for k in range(3):
        prototypes[k, k::3] = 1
    if spec.n_steps is not None:
        prototypes = prototypes[:, None].expand(3, spec.n_steps, spec.n_in)

    def draw(n):
        y = torch.randint(0, 3, (n,), generator=stream)
        return (
            prototypes[y] + 0.1 * torch.randn(n, *prototypes.shape[1:], generator=stream)
        ).clamp_(0, 1), y

    losses = []
    for epoch in range(5):
        rule.begin_epoch(epoch, 60)
        measured = [rule.fit_batch(*draw(20), epoch=epoch, step=step) for step in range(60)]
        losses.append(
            [sum(found[key] for found in measured) / 60 for key in LOSSES if key in measured[0]]
        )
    rule.eval()
    x, y = draw(300)
    if losses[0]:
        assert losses[-1][0] < 0.95 * losses[0][0]
    else:
        assert (rule.predict(x).argmax(1) == y).double().mean() > 0.9
