"""What the papers say exactly of cRNN and ccRNN, what is refused, and that a killed training goes
on bit for bit.
"""

import copy
import itertools

import pytest
import torch

from bioplaus import device, rules, train
from bioplaus.errors import BioplausError
from bioplaus.nets.synthesiser import Synthesiser
from bioplaus.tasks import Spec, linedraw

LINES = {"n_units": [1, 12, 2], "loss": "mse", "spars_int": 2, "lr": 0.01, "n_truncation": 2}
FORMS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
SPEC = Spec(name="lines", kind="drawing", n_in=1, n_out=2, n_steps=10)


def batches(n=3):
    stream = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(6, 10, 1, generator=stream).double(),
            torch.randn(6, 10, 2, generator=stream).double(),
        )
        for _ in range(n)
    ]


def learned(name, n_epochs=2, plain=False, **values):
    """Parameters of the cortex after some epochs, and what the last batch measured."""
    rule = rules.make(name, LINES | values, seed=3, dtype=torch.float64, plain=plain)
    data = batches()
    for epoch in range(n_epochs):
        rule.begin_epoch(epoch, len(data))
        for step, batch in enumerate(data):
            measured = rule.fit_batch(*batch, epoch=epoch, step=step)
    return [p.detach().clone() for p in rule.net.parameters()], measured


def assert_same(a, b, atol=0.0):
    for x, y in zip(a[0], b[0], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=atol)


def test_both_networks_of_one_seed_start_from_the_same_cortex():
    a, b = (rules.make(name, LINES, seed=5) for name in ("bptt", "dni"))
    assert all(
        torch.equal(x, y) for x, y in zip(a.net.parameters(), b.net.parameters(), strict=True)
    )


def seen_in_a_batch(rule, batch):
    """What `watch` sees while the rule learns from a batch: by phase and name, a list over t of
    lists of tensors.
    """
    seen = {}

    def watch(phase, t, state):
        for name, values in state.items():
            seen.setdefault(f"{phase}.{name}", []).append([value.clone() for value in values])
            assert len(seen[f"{phase}.{name}"]) == t + 1

    rule.watch = watch
    rule.fit_batch(*batch, epoch=0, step=0)
    rule.watch = None
    return seen


def test_at_the_first_batch_the_cortex_learns_as_alone_because_the_last_layer_is_zero():
    grads = {}
    for name in ("bptt", "dni"):
        rule = rules.make(name, LINES, seed=3, dtype=torch.float64)
        rule.begin_epoch(0, 1)
        (grads[name],) = seen_in_a_batch(rule, batches()[0])["gradient.theta"]
    for a, b in zip(grads["bptt"], grads["dni"], strict=True):
        assert torch.equal(a, b)


def test_a_lesion_from_the_first_epoch_is_a_cortex_alone_to_the_last_bit():
    assert_same(learned("dni", 20, lesion_epoch=1, clip=0.05), learned("bptt", 20, clip=0.05))


def test_a_fixed_synthesiser_that_starts_at_zero_is_a_cortex_alone_but_for_clipping():
    alone = learned("bptt", clip=0.0)
    assert_same(learned("dni", clip=0.0, fixed_synth=True), alone)
    clipped = learned("dni", clip=0.05, fixed_synth=True)
    assert not torch.equal(clipped[0][1], learned("bptt", clip=0.05)[0][1])
    mended = learned("dni", clip=0.05, fixed_synth=True, keep_stale_grads=False)
    assert_same(mended, learned("bptt", clip=0.05), atol=1e-15)


def test_a_fixed_synthesiser_with_a_random_last_layer_does_change_what_the_cortex_learns():
    random = learned("dni", clip=0.0, fixed_synth=True, synth_last="random")
    assert not torch.equal(random[0][0], learned("bptt", clip=0.0)[0][0])


def test_one_truncation_without_bootstrap_is_full_back_propagation():
    whole = learned("bptt", n_truncation=None, clip=0.0)
    assert_same(learned("dni", n_truncation=10, bootstrap_scale=0.0, clip=0.0), whole, atol=1e-15)
    assert_same(learned("dni", n_truncation=10, bootstrap_last=False, clip=0.0), whole)


def test_an_olive_lesion_freezes_the_synthesiser_and_keeps_its_predictions():
    rule = rules.make(
        "dni", LINES | {"io_lesion_epoch": 2, "synth_last": "random"}, seed=1, dtype=torch.float64
    )
    data, weights = batches(), []
    for epoch in range(3):
        rule.begin_epoch(epoch, len(data))
        for step, batch in enumerate(data):
            measured = rule.fit_batch(*batch, epoch=epoch, step=step)
        weights.append([p.detach().clone() for p in rule.synthesiser.parameters()])
    assert not torch.equal(
        weights[0][0],
        rules.make("dni", LINES, seed=1, dtype=torch.float64).synthesiser.layers[0].weight,
    )
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert measured["synth_share"] > 0


def test_stale_gradients_weigh_in_clipping_only_where_they_are_kept():
    published, mended = (
        learned("dni", n_epochs=3, io_lesion_epoch=2, clip=0.1, keep_stale_grads=kept)[1]
        for kept in (True, False)
    )
    assert published["synth_share"] > 0 and mended["synth_share"] == 0


def test_clipping_bounds_the_joint_norm():
    rule = rules.make("dni", LINES | {"clip": 0.05}, seed=3, dtype=torch.float64)
    rule.begin_epoch(0, 1)
    seen = seen_in_a_batch(rule, batches()[0])
    before, after = (
        torch.cat([g.flatten() for g in (*seen[f"{phase}.theta"][0], *seen[f"{phase}.phi"][0])])
        for phase in ("gradient", "clipped")
    )
    norm = before.norm().item()
    assert norm > 0.05
    torch.testing.assert_close(after, before * 0.05 / (norm + 1e-6), rtol=1e-12, atol=0)


@FORMS
def test_fibres_cut_the_same_number_of_inputs_of_every_unit_and_stay_cut(plain):
    values = LINES | {"n_fibres": 5, "n_synth_hidden": 9}
    rule = rules.make("dni", values, seed=0, dtype=torch.float64, plain=plain)
    data = batches()
    rule.begin_epoch(0, len(data))
    for step, batch in enumerate(data):
        rule.fit_batch(*batch, epoch=0, step=step)
    first = rule.synthesiser.layers[0].weight
    assert ((first != 0).sum(1) == 5).all() and len(
        {tuple(row.nonzero().flatten().tolist()) for row in first}
    ) > 1


def test_both_forms_learn_the_same_with_cut_fibres():
    values = {"n_epochs": 3, "n_fibres": 5, "synth_last": "random"}
    assert_same(learned("dni", **values), learned("dni", plain=True, **values), atol=1e-14)


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("n_layers", [0, 2])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_both_forms_measure_the_same(k, n_layers, as_published):
    values = {"n_truncation": k, "n_synth_layers": n_layers, "synth_last": "random"}
    fast, plain = (
        rules.make("dni", LINES | values, seed=3, dtype=torch.float64, plain=plain).measure(
            *batches()[0], as_published=as_published
        )
        for plain in (False, True)
    )
    assert fast.keys() == plain.keys()
    for name, value in fast.items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-14)


def test_the_published_bug_of_minus_one_fibre_zeroes_the_first_layer_without_cutting_it():
    synthesiser = Synthesiser(4, 1, 6, device.generator(0, "test"), n_fibres=-1)
    assert not synthesiser.layers[0].weight.any() and synthesiser.mask is None


@pytest.mark.parametrize(
    ("last", "weight", "bias"),
    [("zero", False, False), ("zero_weight", False, True), ("random", True, True)],
)
def test_the_last_layer_starts_as_asked(last, weight, bias):
    layer = Synthesiser(4, 1, 6, device.generator(0, "test"), last=last).layers[-1]
    assert (layer.weight.any().item(), layer.bias.any().item()) == (weight, bias)


def test_a_linear_synthesiser_starts_with_zero_weight_and_random_bias_as_published():
    layer = Synthesiser(4, 0, 6, device.generator(0, "test")).layers[0]
    assert not layer.weight.any() and layer.bias.any()


def test_reported_error_divides_the_squared_distance_of_supervised_steps_by_all_steps():
    rule = rules.make("bptt", LINES, seed=3, dtype=torch.float64)
    x, y = batches()[0]
    expected = (rule.predict(x) - y)[:, ::2].square().sum(-1).mean(0).sum() / 10
    rule.begin_epoch(0, 1)
    assert rule.fit_batch(x, y, epoch=0, step=0)["train_mse"].item() == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_recorded_gradients_become_diagnostics_and_training_does_not_notice():
    plain, recorded = learned("dni"), learned("dni", record_every=2)
    assert_same(plain, recorded)
    rule = rules.make("dni", LINES | {"record_every": 1}, seed=3, dtype=torch.float64)
    rule.begin_epoch(0, 1)
    assert rule.diagnostics() == {}
    rule.fit_batch(*batches()[0], epoch=0, step=0)
    found = rule.diagnostics()
    assert found["cos_synth_true"] == 0.0  # the first predictions are zero
    assert (
        0 < found["cos_target_true"] <= 1
        and "cerebellum_sparsity" in found
        and "cortex_coding_space" in found
    )
    rule.begin_epoch(1, 1)
    assert rule.diagnostics() == {}


def test_the_last_targets_are_the_true_gradients_where_nothing_is_bootstrapped_behind_them():
    rule = rules.make(
        "dni",
        LINES | {"bootstrap_last": False, "synth_last": "random"},
        seed=3,
        dtype=torch.float64,
    )
    record = rule.measure(*batches()[0])
    torch.testing.assert_close(record["target"][-1], record["true"][-1], rtol=0, atol=1e-14)
    assert not torch.allclose(record["target"][0], record["true"][0])


@pytest.mark.parametrize("values", [{}, {"io_lesion_epoch": 2}, {"lesion_epoch": 2}], ids=str)
def test_a_killed_training_goes_on_bit_for_bit(values, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    task = linedraw.load(n_train=50, n_test=20, seed=1)

    def fit(folder, stop=None):
        rule = rules.make("dni", LINES | {"n_synth_hidden": 8} | values, task.spec, seed=1)

        def kill(epoch, metrics):
            if epoch == stop:
                raise KeyboardInterrupt

        history = train.fit(
            rule,
            task,
            n_epochs=5,
            batch_size=20,
            seed=1,
            folder=folder,
            progress=False,
            on_epoch=kill,
            diagnose_every=1,
        )
        return rule, history

    undisturbed, history = fit(tmp_path / "a")
    for stop in (0, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "b", stop)
    resumed, again = fit(tmp_path / "b")
    assert again.epochs == history.epochs
    for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_copied_learner_learns_alike():
    rule = rules.make("dni", LINES, seed=3, dtype=torch.float64)
    data = batches()
    rule.begin_epoch(0, 3)
    rule.fit_batch(*data[0], epoch=0, step=0)
    twin = copy.deepcopy(rule)
    for one in (rule, twin):
        one.fit_batch(*data[1], epoch=0, step=1)
    assert all(torch.equal(a, b) for a, b in zip(rule.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["bptt", "dni"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_truncation": 0}, "n_truncation is 0, but must be"),
        ({"n_truncation": 11}, "n_truncation is 11, but a sequence has only 10 steps"),
        ({"spars_int": 0}, "spars_int is 0, but must be"),
        ({"spars_int": 10}, "nothing but its first step"),
        ({"loss": "xent", "spars_int": 2}, "the last step alone is supervised"),
        ({"loss": "xent", "spars_int": 1}, "belongs to a task of classification"),
        ({"n_units": [1, 2]}, "must be three"),
        ({"n_units": [3, 12, 2]}, "n_units must be [1, hidden units, 2]"),
        ({"cell": "lstmm"}, "did you mean 'lstm'"),
        ({"lr": -1.0}, "lr is -1.0"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(name, values, sentence):
    with pytest.raises(BioplausError) as error:
        rules.config(name, LINES | values, SPEC)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_fibres": 25}, "n_fibres is 25, but must be from -1 to 24"),
        ({"n_fibres": 0}, "n_fibres is 0"),
        ({"lesion_epoch": 0}, "lesion_epoch is 0"),
        ({"io_lesion_epoch": -1}, "io_lesion_epoch is -1"),
        ({"n_synth_layers": -1}, "n_synth_layers is -1"),
        ({"synth_last": "zeros"}, "did you mean 'zero'"),
    ],
)
def test_bad_cerebella_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(BioplausError) as error:
        rules.config("dni", LINES | values, SPEC)
    assert sentence in str(error.value)


def test_a_task_without_time_is_refused():
    with pytest.raises(BioplausError, match="learns sequences, but task 'still' has no time steps"):
        rules.config("bptt", LINES, Spec(name="still", kind="drawing", n_in=1, n_out=2))


CAPTIONS = {"n_units": [6, 5, 8, 11], "n_truncation": 3, "dropout": 0.0}
DESCRIBED = Spec(name="tiny", kind="captions", n_in=6, n_out=11, n_steps=9)


def described(n=3, length=8):
    stream = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, 11, (4, length), generator=stream) for _ in range(n)]
    return [(torch.randn(4, 6, generator=stream).double(), part) for part in tokens]


def test_captioning_with_a_silent_cerebellum_is_captioning_without():
    rules_made = [
        rules.make("caption_bptt", CAPTIONS, DESCRIBED, seed=1, dtype=torch.float64),
        rules.make(
            "caption_dni",
            CAPTIONS | {"bootstrap_scale": 0.0},
            DESCRIBED,
            seed=1,
            dtype=torch.float64,
        ),
    ]
    for (step, batch), rule in itertools.product(enumerate(described()), rules_made):
        rule.fit_batch(*batch, epoch=0, step=step)
    for a, b in zip(*(rule.net.parameters() for rule in rules_made), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["caption_bptt", "caption_dni"])
def test_what_is_watched_of_captions_are_the_losses_of_the_truncations_before_their_steps(name):
    rule = rules.make(name, CAPTIONS | {"lr": 0.0}, DESCRIBED, seed=1, dtype=torch.float64)
    x, y = described(1)[0]
    seen = seen_in_a_batch(rule, (x, y))
    (logits,) = zip(*seen["truncation.logits"], strict=True)
    with torch.no_grad():
        scores = rule.net.scores(x, y)
    torch.testing.assert_close(torch.cat(logits, dim=1), scores, rtol=0, atol=1e-13)
    (losses,) = zip(*seen["truncation.loss"], strict=True)
    for part, target, loss in zip(logits, y.split(3, dim=1), losses, strict=True):
        expected = torch.nn.functional.cross_entropy(part.flatten(0, 1), target.flatten())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["caption_bptt", "caption_dni"])
def test_captions_are_learned_by_heart(name):
    torch.manual_seed(0)
    rule = rules.make(name, CAPTIONS | {"lr": 0.02}, DESCRIBED, seed=1, dtype=torch.float64)
    x, y = described(1)[0]
    before = rule.nll(x, y)
    for step in range(150):
        rule.fit_batch(x, y, epoch=0, step=step)
    assert rule.nll(x, y) < 0.35 * before


def test_images_are_normalised_by_running_statistics_in_learning_and_after_it():
    rule = rules.make(
        "caption_bptt", CAPTIONS | {"lr": 0.0}, DESCRIBED, seed=1, dtype=torch.float64
    )
    x, y = described(1)[0]
    image = rule.net.image(x)
    for step in range(1500):
        rule.fit_batch(x, y, epoch=0, step=step)
    torch.testing.assert_close(rule.net.norm.running_mean, image.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(rule.net.norm.running_var, image.var(0), rtol=0, atol=1e-5)
    one, all_ = (rule.net.inputs(part, y[: len(part), :0], is_learning=True) for part in (x[:2], x))
    # by a batch's own statistics two images would be +-1
    torch.testing.assert_close(one, all_[:2], rtol=0, atol=0.1)
    expected = (image - image.mean(0)) / (image.var(0) + rule.net.norm.eps).sqrt()
    torch.testing.assert_close(rule.net.inputs(x, y[:, :0])[:, 0], expected, rtol=0, atol=0.1)


def test_dropout_silences_inputs_in_training_only_and_draws_from_the_rules_stream():
    rule = rules.make(
        "caption_bptt", CAPTIONS | {"dropout": 0.5}, DESCRIBED, seed=1, dtype=torch.float64
    )
    inputs = torch.ones(200, 3, 5, dtype=torch.float64)
    dropped = rule._drop(inputs)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and dropped.mean().item() == pytest.approx(
        1, abs=0.1
    )
    x, y = described(1)[0]
    assert rule.nll(x, y) == rule.nll(x, y)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_truncation": 10}, "the longest caption of 'tiny' has 9 words"),
        ({"n_truncation": 0}, "n_truncation is 0"),
        ({"n_units": [6, 5, 8]}, "must be four"),
        ({"n_units": [6, 5, 8, 12]}, "end with 11"),
        ({"has_image_layer": False}, "must have one width"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_captioning_parameters_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(BioplausError) as error:
        rules.config("caption_dni", CAPTIONS | values, DESCRIBED)
    assert sentence in str(error.value)
