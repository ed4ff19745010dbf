"""Goldens of the cerebro-cerebellar papers: training steps of cRNN and ccRNN, caption decoders,
tasks and metrics.

The published code puts an axis of RNN layers (always 1) before the batch, and counts batches from
1; both are undone here, at the boundary, and nowhere else.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bioplaus import metrics
from bioplaus.errors import unknown
from bioplaus.experiments.conformance import TOLERANCE, Golden, Make
from bioplaus.rules import LearningRule
from bioplaus.tasks import linedraw, seqmnist

_SYNTHESISER = "rnn.backward_interface.synthesizer."
Pairs = Iterator[tuple[str, Any]]


def rule_of(golden: Golden) -> str:
    """The rule of the golden's algorithm; "" for goldens of tasks and metrics, which no rule takes
    part in.
    """
    return _kind(golden)[0]


def tolerance(golden: Golden, key: str, dtype: torch.dtype) -> tuple[float, float]:
    """(relative, absolute): 1e-10 for training in float64; tasks are in float32, to the rounding of
    sine and cosine.
    """
    if dtype == torch.float64:
        return 0.0, 1e-10
    return (1e-6, 1e-6) if golden.meta["algorithm"].startswith("task:") else TOLERANCE[dtype]


def replay(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Compute everything that the golden expects."""
    return _kind(golden)[1](golden, make, dtype)


def _kind(golden: Golden) -> tuple[str, Callable[[Golden, Make, torch.dtype], Pairs]]:
    name = golden.meta["algorithm"]
    if name not in _KINDS:
        raise unknown("algorithm of a golden of paper ccdni", name, _KINDS)
    return _KINDS[name]


# --- training steps -------------------------------------------------------------------------------


def _config(golden: Golden) -> dict[str, Any]:
    """The rule's parameters from the golden's."""
    h = golden.hyperparameter
    if h("optimizer") != "adam":
        raise unknown("optimizer", h("optimizer"), ["adam"])
    if h("pred_last") != (h("loss") == "xent"):
        raise unknown(
            "pair of loss and pred_last", (h("loss"), h("pred_last")), ["mse, False", "xent, True"]
        )
    values = {
        "n_units": [h("input"), h("hidden"), h("output")],
        "cell": "tanh" if h("model").endswith("TANH") else "lstm",
        "loss": h("loss"),
        "n_truncation": h("bptt"),
        "spars_int": h("spars_int") or 1,
        "lr": h("lr"),
        "clip": h("clip") or 0.0,
    }
    if not h("model").startswith("DNI"):
        return values
    return values | {
        "n_synth_layers": h("synth_nlayers"),
        "n_synth_hidden": h("synth_nhid"),
        "n_fibres": h("nfibres"),
        "bootstrap_scale": h("sg_scale"),
        "lesion_epoch": _epoch(h("ablation_epoch")),
        "io_lesion_epoch": _epoch(h("synth_ablation_epoch")),
        "fixed_synth": h("fixed_synth"),
    }


def _epoch(published: int | None) -> int | None:
    return published if published is not None and published > 0 else None


def _own_name(published: str) -> str:
    """Our name of a parameter: the cerebrum's are torch's own, the synthesiser's layers are
    numbered through.
    """
    name = published.removeprefix(_SYNTHESISER)
    if name == published:
        return "net." + published.replace("rnn.rnn.", "rnn.")
    if name.startswith("input_trigger."):
        return name.replace("input_trigger.", "synthesiser.layers.0.")
    index, _, kind = name.removeprefix("layers.").partition(".")
    return f"synthesiser.layers.{int(index) + 1}.{kind}"


def _start(golden: Golden, learner: LearningRule, dtype: torch.dtype) -> dict[str, str]:
    """Set the golden's initial parameters; published name -> our name of each."""
    names = {
        key[5:]: _own_name(key[5:])
        for key in golden
        if key.startswith("init.") and not key.endswith("_mask")
    }
    parameters = dict(learner.named_parameters())
    for published, own in names.items():
        parameters[own].data.copy_(golden.tensor(f"init.{published}", dtype))
    if "init.fibre_zero_mask" in golden:
        learner.synthesiser.set_mask(torch.from_numpy(~golden["init.fibre_zero_mask"]))
    return names


def _steps(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Train on the golden's batches, epoch after epoch, and evaluate."""
    h = golden.hyperparameter
    learner = make(_config(golden), dtype=dtype)
    names = _start(golden, learner, dtype)
    x, y = golden.tensor("data.inputs", dtype), golden.tensor("data.targets", dtype)
    if h("record_grads", False):
        yield from _recorded(golden, learner, x[0], y[0])
    seen: dict[str, list[list[Tensor]]] = defaultdict(list)

    def watch(phase: str, t: int, state: Mapping[str, Sequence[Tensor]]) -> None:
        for name, values in state.items():
            seen[f"{phase}.{name}"].append([value.clone() for value in values])

    learner.watch = watch
    losses, norms, n_batches = [], [], 0
    for epoch in range(h("n_epochs")):
        learner.begin_epoch(epoch, len(x))
        for step in range(len(x)):
            n_batches += 1
            prefix = f"expect.batch{n_batches}."
            seen.clear()
            yield from _outputs(golden, learner, prefix, x[step])
            measured = learner.fit_batch(x[step], y[step], epoch=epoch, step=step)
            losses.append(measured["train_mse" if h("loss") == "mse" else "train_nll"])
            norms.append(measured["grad_norm"])
            yield from _batch(golden, learner, prefix, names, seen)
    yield "expect.train_loss", torch.stack(losses)
    if "expect.grad_norm_preclip" in golden:
        yield "expect.grad_norm_preclip", torch.stack(norms)
    outputs = learner.predict(x.flatten(0, 1))
    if h("loss") == "mse":
        yield "expect.eval_mse", metrics.squared_distance(outputs, y.flatten(0, 1))
    else:
        yield "expect.eval_xent", functional.cross_entropy(outputs, y.flatten())
        yield "expect.eval_acc", metrics.accuracy(outputs, y.flatten())


def _outputs(golden: Golden, learner: LearningRule, prefix: str, x: Tensor) -> Pairs:
    """What the network answers before it learns from the batch."""
    key = f"{prefix}{'pred' if golden.hyperparameter('loss') == 'mse' else 'logits'}"
    yield key, learner.predict(x)


def _batch(
    golden: Golden,
    learner: LearningRule,
    prefix: str,
    names: dict[str, str],
    seen: dict[str, list[list[Tensor]]],
) -> Pairs:
    """States, predicted gradients and their targets within a batch; gradients and parameters after
    it.
    """
    n_hidden = golden.hyperparameter("hidden")

    def of_truncations(name: str) -> Tensor:  # (n, 1, batch, n_state), as published
        return torch.stack([value for (value,) in seen[f"truncation.{name}"]])[:, None]

    for name, part in (("h_end", slice(n_hidden)), ("c_end", slice(n_hidden, None))):
        if f"{prefix}{name}" in golden:
            yield f"{prefix}{name}", of_truncations("end")[..., part]
    for name in ("synth_start", "synth_target", "synth_end"):
        if f"{prefix}{name}" in golden and f"truncation.{name}" in seen:
            yield f"{prefix}{name}", of_truncations(name)
    parameters, ours = dict(learner.named_parameters()), _learned(learner)
    for published, own in names.items():
        yield f"{prefix}param.{published}", parameters[own]
        for key, phase in (("grad_preclip", "gradient"), ("grad", "clipped")):
            if f"{prefix}{key}.{published}" in golden:
                gradients = [*seen[f"{phase}.theta"][0], *sum(seen[f"{phase}.phi"], [])]
                given = dict(zip(ours, gradients, strict=False))
                # a lesioned cerebellum has none
                gradient = given.get(own, torch.zeros_like(parameters[own]))
                yield f"{prefix}{key}.{published}", gradient


def _learned(learner: LearningRule) -> list[str]:
    """Names of theta, then of phi, in the order of the gradients."""
    return [
        name for name, _ in learner.named_parameters() if name.startswith(("net.", "synthesiser."))
    ]


def _recorded(golden: Golden, learner: LearningRule, x: Tensor, y: Tensor) -> Pairs:
    """The published recording of gradients, its two faults included."""
    record = learner.measure(x, y, as_published=True)
    n_hidden = golden.hyperparameter("hidden")
    layout = {
        "hidds": record["state"],
        "sgrads": record["synth"],
        "shidds": record.get("hidden"),
        "truegrads_output": record["true"][..., :n_hidden],
        "truegrads_cell": record["true"][..., n_hidden:],
        "tgrads_output": record["target"][..., :n_hidden],
        "tgrads_cell": record["target"][..., n_hidden:],
    }
    for name, value in layout.items():
        if value is not None and f"expect.record.{name}" in golden:
            yield f"expect.record.{name}", value[:, None]


# --- captions -------------------------------------------------------------------------------------


def _captions(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """Train the decoder batch by batch, truncation by truncation; then validate and generate with
    the first batch.
    """
    h = golden.hyperparameter
    values = {
        "n_units": [h("embed"), h("embed"), h("hidden"), h("vocab")],
        "n_truncation": h("T"),
        "dropout": h("dropout"),
        "lr": h("lr"),
        "weight_decay": h("l2", None) or 0.0,
        "has_image_layer": False,
    }
    fixed = {"adam_betas": [0.9, 0.999], "adam_eps": 1e-8, "clip": None, "max_len": 20}
    for name, only in fixed.items():
        if h(name, only) != only:
            raise unknown(name, h(name), [str(only)])
    if h("rnn_type").startswith("DNI"):
        values |= {"n_synth_layers": h("synth_nlayers"), "n_synth_hidden": h("synth_nhid")}
        values |= {"bootstrap_scale": h("sg_scale")}
    learner = make(values, dtype=dtype)
    names = _start(golden, learner, dtype)
    parameters = dict(learner.named_parameters())
    features, captions = (
        golden.tensor("data.features", dtype),
        golden.tensor("data.captions", dtype),
    )
    learner.begin_epoch(0, len(features))
    seen: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def watch(phase: str, k: int, state: Mapping[str, Sequence[Tensor]]) -> None:
        after = {name: parameter.clone() for name, parameter in parameters.items()}
        seen.append((state["loss"][0], state["logits"][0], after))

    learner.watch = watch
    for batch in range(len(features)):
        prefix = f"expect.batch{batch + 1}."
        seen.clear()
        learner.fit_batch(features[batch], captions[batch], epoch=0, step=batch)
        for k, (_, logits, after) in enumerate(seen, start=1):
            yield f"{prefix}trunc{k}.logits", logits
            for published, own in names.items():
                yield f"{prefix}trunc{k}.param.{published}", after[own]
        yield f"{prefix}trunc_losses", torch.stack([loss for loss, _, _ in seen])
    yield "expect.val_loss_batch1", learner.nll(features[0], captions[0])
    yield "expect.greedy_tokens_batch1", learner.predict(features[0]).argmax(2)


# --- tasks and metrics ----------------------------------------------------------------------------


def _linedraw(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    h = golden.hyperparameter
    n, n_steps, n_points, noise = h("batch"), h("seq_len"), h("npoints"), h("noise_scale")
    x, y = linedraw.draw(np.random.RandomState(h("rng_seed")), n, n_points, n_steps, noise)
    after = noise * golden["data.noise"] if noise else np.zeros((n, n_steps - 1, 1))
    if not np.array_equal(linedraw.inputs(golden["data.cue"], after), x):
        raise ValueError("the draws of the golden's seed do not give the golden's cues and noise")
    yield "expect.inputs", x
    yield "expect.targets", y.astype(np.float32)
    yield "expect.line_endpoints", linedraw.endpoints(n_points)
    yield "expect.lines_float32", linedraw.lines(n_points, n_steps).astype(np.float32)


def _streams(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    """The loaders' batches, epoch after epoch; keys say which stream, quantity and epoch."""
    h = golden.hyperparameter
    streams = dict(
        zip(("train", "val", "test"), linedraw.published_streams(h("seed")), strict=True)
    )
    noise = {"train": h("train_noise"), "val": h("train_noise"), "test": h("test_noise")}
    pattern = re.compile(r"expect\.(train|val|test)_(inputs|targets)(?:_epoch(\d+))?")
    wanted = {
        (m[1], m[2], int(m[3] or 1)): m[0] for m in map(pattern.fullmatch, golden.expected()) if m
    }
    for part, random in streams.items():
        of_part = {key: name for key, name in wanted.items() if key[0] == part}
        for epoch in range(1, max(key[2] for key in of_part) + 1):
            n_batches, n = next(golden[name].shape[:2] for name in of_part.values())
            batches = [
                linedraw.draw(random, n, h("npoints"), h("seq_len"), noise[part])
                for _ in range(n_batches)
            ]
            for index, quantity in enumerate(("inputs", "targets")):
                if (part, quantity, epoch) in of_part:
                    yield (
                        of_part[part, quantity, epoch],
                        np.stack([b[index] for b in batches]).astype(np.float32),
                    )


def _seqmnist(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    n_in, n_steps = golden.hyperparameter("input_size"), golden.hyperparameter("seq_len")
    classes = golden.hyperparameter("numbers") or list(range(10))
    lines = seqmnist.line_curves(len(classes), n_steps)
    digits = np.stack([seqmnist.digit_curve(c, n_steps) for c in classes])
    index = [classes.index(label) for label in golden["data.labels"]]
    pixels = torch.from_numpy(seqmnist.sequences(golden["data.images_uint8"][:, None], n_in))
    yield "expect.inputs", pixels.to(dtype).div_(255)
    yield "expect.line_endpoints", lines[:, -1]
    for name, curves in (("line", lines), ("digit", digits)):
        yield f"expect.{name}_curves", curves
        yield f"expect.{name}_targets", curves[index]


def _metrics(golden: Golden, make: Make, dtype: torch.dtype) -> Pairs:
    logits, labels = (
        golden.tensor("data.logits", dtype).flatten(0, 1),
        golden.tensor("data.labels", dtype).flatten(),
    )
    drawn, target = (golden.tensor(f"data.mse_{name}", dtype) for name in ("pred", "target"))
    yield "expect.mse", metrics.squared_distance(drawn, target)
    yield "expect.xent", functional.cross_entropy(logits, labels)
    yield "expect.acc", metrics.accuracy(logits, labels)
    yield "expect.certainty", metrics.certainty(logits)
    population = metrics.population(golden.tensor("data.activity_units_by_samples", dtype))
    published = {"correlation": "popcorr", "pearson": "pearson_abs_mean"}
    for name, value in population.items():
        yield f"expect.{published.get(name, name)}", value
    summary = metrics.weight_summary(golden.tensor("data.weight", dtype))
    yield "expect.weight_mean_absmean_absmeannz_std", torch.stack(list(summary.values()))


_KINDS: dict[str, tuple[str, Callable[[Golden, Make, torch.dtype], Pairs]]] = {
    "cRNN": ("bptt", _steps),
    "ccRNN": ("dni", _steps),
    "caption decoder LSTM": ("caption_bptt", _captions),
    "caption decoder DNI_LSTM": ("caption_dni", _captions),
    "task:linedraw": ("", _linedraw),
    "task:linedraw-loader": ("", _streams),
    "task:seqmnist-drawing": ("", _seqmnist),
    "metrics": ("", _metrics),
}
