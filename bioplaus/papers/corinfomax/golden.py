"""Goldens of the CorInfoMax paper: CorInfoMax, CorInfoMaxSparse, EP, CSM, PC and PC-Nudge.

The published code keeps states as (units, batch) in all but EP and CSM, and pads the feedback lists
by an unused first entry; both are undone here, at the boundary, and nowhere else.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioplaus.errors import BioplausError, unknown
from bioplaus.experiments.conformance import Golden, Make
from bioplaus.metrics import accuracy

STEP_RULES = {
    "constant": "constant",
    "divide_by_loop_index": "loop_index",
    "divide_by_slow_loop_index": "slow",
}


def _neural(golden: Golden) -> dict[str, Any]:
    """The neural step sizes, named alike in all but EP and CSM."""
    h = golden.hyperparameter
    if h("neural_lr_rule") not in STEP_RULES:
        raise unknown("neural_lr_rule", h("neural_lr_rule"), STEP_RULES)
    return {
        "n_units": h("architecture"),
        "lr_neural": h("neural_lr_start"),
        "lr_neural_rule": STEP_RULES[h("neural_lr_rule")],
        "lr_neural_stop": h("neural_lr_stop"),
        "lr_neural_decay": h("neural_lr_decay"),
    }


def _corinfomax(golden: Golden) -> dict[str, Any]:
    h = golden.hyperparameter
    return {
        **_neural(golden),
        "lr_ff": h("lr_ff"),
        "lr_fb": h("lr_fb")[1:],
        "n_free_steps": h("T_free"),
        "n_nudged_steps": h("T_nudged"),
        "is_three_phase": h("three_phase"),
        "lambda_forget": h("lambda"),
        "epsilon": h("epsilon"),
        "g_leak": h("g"),
        "use_weight_decay": bool(h("weight_decay", False)),
        "beta_nudge": _size(golden, "data.beta"),
    }


def _sparse(golden: Golden) -> dict[str, Any]:
    h = golden.hyperparameter
    return {**_corinfomax(golden), "sparse_layers": h("sparse_layers"), "lr_sparse": h("st_lr")}


def _ep(golden: Golden) -> dict[str, Any]:
    h = golden.hyperparameter
    return {
        "n_units": h("architecture"),
        "lr_ff": h("alphas_W"),
        "n_free_steps": h("T1"),
        "n_nudged_steps": h("T2"),
        "lr_neural": h("neural_lr"),
        "lr_neural_evaluate": h("neural_lr"),
        "beta_nudge": _size(golden, "data.beta"),
    }


def _csm(golden: Golden) -> dict[str, Any]:
    if len(set(np.abs(golden["data.beta"]))) > 1:
        raise BioplausError(
            f"{golden.path} changes the size of data.beta between batches, which CSM does not"
            " define."
        )
    return {**_ep(golden), "lr_lateral": golden.hyperparameter("alphas_M")}


def _pc(golden: Golden) -> dict[str, Any]:
    h = golden.hyperparameter
    if h("activation") != "sigmoid":
        raise unknown("activation of PC", h("activation"), ["sigmoid"])
    return {**_neural(golden), "n_steps": h("T"), "optimiser": h("optimizer")}


def _pc_nudge(golden: Golden) -> dict[str, Any]:
    h = golden.hyperparameter
    for name, value, allowed in (
        ("activation", h("activation"), "relu"),
        ("optimizer", h("optimizer"), "sgd"),
    ):
        if value != allowed:
            raise unknown(f"{name} of PC-Nudge", value, [allowed])
    return {**_neural(golden), "n_steps": h("T"), "lambda_nudge": _size(golden, "data.lam")}


def _size(golden: Golden, key: str) -> float:
    """Size of the nudge in the first batch; those of the others are given relative to it by
    `_sign`.
    """
    return float(abs(golden[key][0]))


@dataclass(frozen=True)
class _Kind:
    """How the names of one published algorithm correspond to those of a rule.

    Attributes
    ----------
    rule : its key.
    config : the rule's parameters from the golden's.
    weights : published name -> attribute of the rule, a list by layer.
    measured : the same for what is only expected, not set.
    states : published state name -> key in what the rule's `watch` gets.
    phases : published phase name -> phase of `watch`; its last iteration is compared.
    rates : the learning rates of a batch, by the rule's buffer that takes them.
    nudge : key of the signed nudge of every batch, "" without one.
    is_units_first : published states are (units, batch).
    first_iterations : so many iterations of the first free phase are recorded one by one.
    losses : published key -> what `fit_batch` measured, one value a batch.
    """

    rule: str
    config: Callable[[Golden], dict[str, Any]]
    weights: Mapping[str, str]
    states: Mapping[str, str]
    phases: Mapping[str, str]
    rates: Callable[[Golden, int, torch.nn.Module], dict[str, np.ndarray]]
    measured: Mapping[str, str] = field(default_factory=dict)
    nudge: str = ""
    is_units_first: bool = True
    first_iterations: int = 0
    losses: Mapping[str, str] = field(default_factory=dict)


def _scaled(golden: Golden, batch: int, rule: torch.nn.Module) -> dict[str, np.ndarray]:
    factor = golden["data.lr_decay"][batch]
    return {
        "lr_now": factor * np.array(rule.config.lr_ff),
        "lr_fb_now": factor * np.array(rule.config.lr_fb),
    }


def _groups(golden: Golden, batch: int, rule: torch.nn.Module) -> dict[str, np.ndarray]:
    rates, n = golden["data.lr_groups"][batch], rule.config.n_layers
    return {"lr_now": rates[:n]} | ({"lr_lateral_now": rates[n:]} if len(rates) > n else {})


def _same(golden: Golden, batch: int, rule: torch.nn.Module) -> dict[str, np.ndarray]:
    return {"lr_now": np.full(rule.config.n_layers, golden["data.lr"][batch])}


def _each(golden: Golden, batch: int, rule: torch.nn.Module) -> dict[str, np.ndarray]:
    return {"lr_steps": golden["data.lr"][batch : batch + 1]}


_WEIGHTS = {"Wff": "w_ff", "Wfb": "w_fb", "B": "b_lateral"}
_CORRELATIONS = {"Rfree": "r_free", "Rnudged": "r_nudged"}
_PHASES = {"free": "free", "nudged": "nudged", "anti": "anti"}
_CHAIN = {"W": "w_ff", "b": "bias"}

KINDS = {
    "CorInfoMax": _Kind(
        "corinfomax",
        _corinfomax,
        _WEIGHTS,
        {"r": "r"},
        _PHASES,
        _scaled,
        _CORRELATIONS,
        "data.beta",
        first_iterations=3,
    ),
    "CorInfoMaxSparse": _Kind(
        "corinfomax_sparse",
        _sparse,
        _WEIGHTS,
        {"r": "r", "lambda": "multiplier"},
        _PHASES,
        _scaled,
        _CORRELATIONS,
        "data.beta",
        first_iterations=3,
    ),
    "EP": _Kind(
        "ep", _ep, _CHAIN, {"s": "s"}, _PHASES, _groups, nudge="data.beta", is_units_first=False
    ),
    "CSM": _Kind(
        "csm",
        _csm,
        {**_CHAIN, "M": "m_lateral"},
        {"s": "s"},
        _PHASES,
        _groups,
        nudge="data.beta",
        is_units_first=False,
    ),
    "PC": _Kind(
        "pc",
        _pc,
        _CHAIN,
        {"x": "x"},
        {"ff": "forward", "relaxed": "relaxed"},
        _same,
        losses={"expect.loss": "objective"},
    ),
    "PCNudge": _Kind(
        "pc_nudge", _pc_nudge, _CHAIN, {"x": "x"}, {"relaxed": "relaxed"}, _each, nudge="data.lam"
    ),
}


def rule_of(golden: Golden) -> str:
    """The rule of the golden's algorithm."""
    return _kind(golden).rule


def _kind(golden: Golden) -> _Kind:
    name = golden.meta["algorithm"]
    if name not in KINDS:
        raise unknown("algorithm of a golden of paper corinfomax", name, KINDS)
    return KINDS[name]


def replay(golden: Golden, make: Make, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Train on the golden's batches with the golden's draws and rates; yield what was recorded."""
    kind = _kind(golden)
    learner = make(kind.config(golden), dtype=dtype)
    for name, attribute in kind.weights.items():
        for layer, weight in _layers(name, learner, attribute):
            weight.data.copy_(golden.tensor(f"init.{name}{layer}", dtype))
    seen: dict[tuple[str, int], dict[str, list[Tensor]]] = {}

    def watch(phase: str, t: int, state: dict[str, list[Tensor]]) -> None:
        seen[phase, t] = seen[phase, -1] = {
            name: [part.clone() for part in parts] for name, parts in state.items()
        }

    learner.watch = watch
    losses: dict[str, list[Any]] = {key: [] for key in kind.losses}
    for batch in range(len(golden["data.x"])):
        seen.clear()
        learner.begin_epoch(batch, 1)
        if kind.nudge:
            learner.signs.fill_(float(golden[kind.nudge][batch] / _size(golden, kind.nudge)))
        for buffer, values in kind.rates(golden, batch, learner).items():
            getattr(learner, buffer).copy_(torch.from_numpy(values))
        measured = learner.fit_batch(
            golden.tensor("data.x", dtype, batch),
            golden.tensor("data.y", dtype, batch),
            epoch=batch,
            step=0,
        )
        for key, name in kind.losses.items():
            losses[key].append(measured[name])
        yield from _recorded(golden, kind, learner, seen, batch)
    for key, values in losses.items():
        yield key, torch.stack(values)
    output = learner.predict(golden.tensor("data.x_eval", dtype))
    yield "expect.eval_out", output
    yield "expect.eval_pred", output.argmax(1)
    yield "expect.eval_acc", accuracy(output, golden.tensor("data.y_eval", dtype))


def _recorded(
    golden: Golden,
    kind: _Kind,
    rule: torch.nn.Module,
    seen: Mapping[tuple[str, int], dict[str, list[Tensor]]],
    batch: int,
) -> Iterator[tuple[str, Any]]:
    """States inside batch `batch` and weights after it, under their published keys."""
    prefix = f"expect.batch{batch}."
    published = {phase: name for name, phase in kind.phases.items()}
    for (phase, t), state in seen.items():
        if phase not in published:
            continue
        label = published[phase] + (f"_iter{t + 1}" if t >= 0 else "")
        for name, source in kind.states.items():
            # every file has the ends of all phases (t = -1), and the rates of some first iterations
            # of its first batch
            is_documented = (
                t < 0 or (batch, phase, name) == (0, "free", "r") and t < kind.first_iterations
            )
            for layer, value in enumerate(state[source]):
                key = f"{prefix}{label}_{name}{layer}"
                if is_documented or key in golden:
                    yield key, value.t() if kind.is_units_first else value
    for name, attribute in {**kind.weights, **kind.measured}.items():
        for layer, weight in _layers(name, rule, attribute):
            yield f"{prefix}{name}{layer}", weight
    if "Wfb" in kind.weights:
        yield f"{prefix}angles_deg", np.array(list(rule.diagnostics().values()))


def _layers(name: str, rule: torch.nn.Module, attribute: str) -> Iterator[tuple[int, Tensor]]:
    """(published layer index, weight): feedback weights are counted from 1 there, for entry 0 is
    unused.
    """
    yield from enumerate(getattr(rule, attribute), start=int(name == "Wfb"))
