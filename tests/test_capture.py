"""Several learners at once: each as alone, on a CPU and as branches of a CUDA graph."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bioplaus import capture, device, rules, tasks, train
from bioplaus.errors import BioplausError
from bioplaus.tasks import images

N_BATCHES, BATCH_SIZE = 5, 10
gpu = pytest.mark.gpu
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
NAMES = rules.names()
FORMS = NAMES + [f"{name} (plain)" for name in NAMES if rules.has_fast(name)]


def learner(form, seed=0, where="cpu"):
    name, _, plain = form.partition(" ")
    example = rules.example(name)
    return rules.make(name, *example, seed=seed, device=where, plain=bool(plain))


def batches(form, n=N_BATCHES, where="cpu", seed=1):
    name = form.partition(" ")[0]
    stream, (_, spec) = device.generator(seed, "data"), rules.example(name)
    return [
        tuple(
            part.to(where) for part in rules.get(name).Rule.example_batch(spec, BATCH_SIZE, stream)
        )
        for _ in range(n)
    ]


def state(rule):
    found = {}
    for name, value in rule.state_dict().items():
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}": torch.as_tensor(part).clone() for key, part in parts.items()}
    return found


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Examples(tasks.Task):
    """A rule's example batches as a task that a graph can hold: the draw is the batch."""

    recorded_names = {}

    def __init__(self, form, seed, where="cpu", n=12):
        name = form.partition(" ")[0]
        self.spec, self.config = rules.example(name)[1], None
        self.data = batches(form, n, where, seed)
        self.data[-1] = tuple(part[:4] for part in self.data[-1])
        self.splits, self.monitored = {"test": None}, ("test",)

    def _fingerprint(self):
        return "0" * 64

    @property
    def n_train(self):
        return sum(len(batch[0]) for batch in self.data)

    def n_batches(self, batch_size):
        return len(self.data)

    def draws(self, batch_size, generator):
        yield from (self.data[k] for k in torch.randperm(len(self.data) - 1, generator=generator))
        yield self.data[-1]

    def measure(self, rule, split):
        return {"size": sum(p.double().abs().sum() for p in rule.parameters())}


OPTIONS = {"n_epochs": 3, "batch_size": BATCH_SIZE, "diagnose_every": 4, "progress": False}


def alone(form, seed, where="cpu"):
    rule = learner(form, seed, where)
    return rule, train.fit(rule, Examples(form, seed, where), seed=seed, **OPTIONS)


@pytest.mark.parametrize("form", FORMS)
class TestContract:
    """What a CUDA graph needs of `fit_batch`, seen on a CPU."""

    def test_counts_may_be_tensors(self, form):
        data, one, other = batches(form), learner(form), learner(form)
        for rule in (one, other):
            rule.begin_epoch(1, len(data))
        for step, batch in enumerate(data):
            one.fit_batch(*batch, epoch=1, step=step)
            drawn, counts = other.draw(len(batch[0])), map(torch.tensor, (1, step))
            other.fit_batch(*batch, **dict(zip(("epoch", "step"), counts, strict=True)), **drawn)
        assert same(state(one), state(other))

    def test_nothing_is_asked_of_the_host_nor_drawn(self, form):
        rule, data = learner(form), batches(form)
        if rule.why_not_captured():
            return  # it says so
        rule.begin_epoch(0, len(data))
        rule.fit_batch(*data[0], epoch=0, step=torch.tensor(0))
        drawn = rule.draw(len(data[1][0]))
        with Watched() as watched:
            rule.fit_batch(*data[1], epoch=torch.tensor(0), step=torch.tensor(1), **drawn)
        assert watched.seen == []

    def test_what_is_learned_stays_where_it_is(self, form):
        """Tensors are written in place and plain attributes do not change, from batch to batch and
        from epoch to epoch."""
        rule, data = learner(form), batches(form)
        held = []
        for epoch in range(2):
            rule.begin_epoch(epoch, len(data))
            for step, batch in enumerate(data):
                rule.fit_batch(*batch, epoch=epoch, step=step)
                held.append(capture._held(rule))
        assert len(set(held[1:])) == 1


class Watched(TorchDispatchMode):
    """Notes operations that a graph cannot hold."""

    ASKS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "unique", "masked_select")
    DRAWS = ("rand", "normal", "uniform", "bernoulli", "dropout", "multinomial", "exponential")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2].strip("_")
        if name in {ask.strip("_") for ask in self.ASKS} or name.startswith(self.DRAWS):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_a_graph_cannot_hold():
    with Watched() as watched:
        bool(torch.ones(1) > 0)
        torch.rand(2)
        torch.ones(3).nonzero()
    assert len(watched.seen) == 3


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=[gpu, no_gpu])])
@pytest.mark.parametrize("form", FORMS)
def test_learners_side_by_side_are_what_they_are_alone(form, where, monkeypatch):
    """Bit for bit, also the history; on a GPU alone is kernel by kernel, without a graph."""
    seeds = (0, 3, 5)
    with monkeypatch.context() as patched:
        patched.setenv(capture.SWITCH, "0")
        expected = [alone(form, seed, where) for seed in seeds]
    learners = [learner(form, seed, where) for seed in seeds]
    histories = train.fit_many(
        learners, [Examples(form, seed, where) for seed in seeds], seeds=seeds, **OPTIONS
    )
    for (rule, history), made, told in zip(expected, learners, histories, strict=True):
        assert same(state(rule), state(made))
        assert told.epochs == history.epochs and told.diagnostics == history.diagnostics
        assert len(told.seconds["train"]) == 3


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=[gpu, no_gpu])])
def test_one_that_diverges_leaves_the_others_alone(where):
    task = images.load("synthetic", device=where)
    values = {"n_units": [64, 20, 10]}
    options = {"n_epochs": 3, "batch_size": 20, "diagnose_every": 7, "progress": False}

    def made(seed, lr=0.001):
        return rules.make("bp", {**values, "lr": lr}, task.spec, seed=seed, device=where)

    good = [made(0), made(2)]
    expected = [train.fit(good[0], task, seed=0, **options)]
    expected += [train.fit(good[1], task, seed=2, **options)]
    again = [made(0), made(1), made(2)]
    with torch.no_grad():
        again[1].w_ff[0][0, 0] = torch.nan
    histories = train.fit_many(again, task, seeds=(0, 1, 2), **options)
    assert [history.status for history in histories] == ["done", "diverged", "done"]
    assert histories[1].divergence == {"epoch": 0, "batch": 0, "tensor": "w_ff.0"}
    assert [histories[0].epochs, histories[2].epochs] == [h.epochs for h in expected]
    assert same(state(good[0]), state(again[0])) and same(state(good[1]), state(again[2]))


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=[gpu, no_gpu])])
def test_one_that_is_ahead_waits_and_all_resume(where, tmp_path, monkeypatch):
    """Seed 1 was alone for two epochs, seed 0 has not begun; both end as if undisturbed."""
    form, seeds = "corinfomax", (0, 1)
    expected = [alone(form, seed, where) for seed in seeds]

    class Stop(Exception):
        pass

    def stop(epoch, _):
        if epoch == 1:
            raise Stop

    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    folders = [tmp_path / str(seed) for seed in seeds]
    with pytest.raises(Stop):
        train.fit(
            learner(form, 1, where),
            Examples(form, 1, where),
            seed=1,
            folder=folders[1],
            on_epoch=stop,
            **OPTIONS,
        )
    learners = [learner(form, seed, where) for seed in seeds]
    histories = train.fit_many(
        learners,
        [Examples(form, seed, where) for seed in seeds],
        seeds=seeds,
        folders=folders,
        **OPTIONS,
    )
    for (rule, history), made, told in zip(expected, learners, histories, strict=True):
        assert same(state(rule), state(made)) and told.epochs == history.epochs


def test_as_many_seeds_folders_and_tasks_as_learners_are_asked_for():
    task = images.load("synthetic")
    pair = [rules.make("bp", {"n_units": [64, 20, 10]}, task.spec, seed=k) for k in (0, 1)]
    options = {**OPTIONS, "batch_size": 20}
    with pytest.raises(BioplausError, match="1 seeds for 2 learners"):
        train.fit_many(pair, task, seeds=[0], **options)
    with pytest.raises(BioplausError, match="1 folders for 2 learners"):
        train.fit_many(pair, task, seeds=[0, 1], folders=["a"], **options)
    with pytest.raises(BioplausError, match="3 tasks for 2 learners"):
        train.fit_many(pair, [task] * 3, seeds=[0, 1], **options)


def test_an_epoch_is_cut_where_shapes_change_and_where_it_is_looked_at():
    sizes = [4, 4, 4, 2, 4]
    draws = [iter([(torch.zeros(n) + k,) for n in sizes]) for k in (0, 1)]
    found = [
        (start, [[len(draw[0]) for draw in window] for window in each])
        for start, each in capture.windows(draws, 5, lambda step: step == 1)
    ]
    assert found == [
        (0, [[4, 4], [4, 4]]),
        (2, [[4], [4]]),
        (3, [[2], [2]]),
        (4, [[4], [4]]),
    ]


def test_an_epoch_is_cut_before_its_table_is_full(monkeypatch):
    monkeypatch.setattr(capture, "N_ROWS", 3)
    draws = [iter([(torch.zeros(1),)] * 7)]
    assert [start for start, _ in capture.windows(draws, 7, lambda step: False)] == [0, 3, 6]


@pytest.mark.parametrize("value", ["yes", "2", ""])
def test_the_switch_takes_0_or_1(monkeypatch, value):
    monkeypatch.setenv(capture.SWITCH, value)
    with pytest.raises(BioplausError, match=f"{capture.SWITCH} is '{value}'"):
        capture.is_on()


@gpu
@no_gpu
def test_a_rule_that_asks_the_host_learns_batch_by_batch_and_it_is_said(monkeypatch, capsys):
    task = images.load("synthetic", device="cuda")
    values = {"n_units": [64, 20, 10]}
    options = {"n_epochs": 2, "batch_size": 20, "progress": False}
    expected = rules.make("bp", values, task.spec, seed=0, device="cuda")
    train.fit(expected, task, seed=0, **options)
    rule = rules.make("bp", values, task.spec, seed=0, device="cuda")
    fit_batch = rule.fit_batch

    def asks(x, y, *, epoch, step):
        assert float(x.sum()) >= 0
        return fit_batch(x, y, epoch=epoch, step=step)

    monkeypatch.setattr(rule, "fit_batch", asks)
    train.fit(rule, task, seed=0, **options)
    assert same(state(rule), state(expected))
    assert "bp learns batch by batch" in capsys.readouterr().out


@gpu
@no_gpu
def test_a_graph_is_captured_anew_where_what_it_holds_has_changed():
    """The cerebellum is taken away after one epoch: plain attributes tell."""
    name = "dni"
    values, spec = rules.example(name)
    for lesion in ("lesion_epoch", "io_lesion_epoch"):
        config = {**copy.deepcopy(values), lesion: 2}
        made = [rules.make(name, config, spec, seed=0, device="cuda") for _ in range(2)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(capture.SWITCH, "0")
            train.fit(made[0], Examples(name, 0, "cuda"), **OPTIONS)
        train.fit(made[1], Examples(name, 0, "cuda"), **OPTIONS)
        assert same(state(made[0]), state(made[1]))
