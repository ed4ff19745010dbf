"""Hand-written JAX peers of the rules: one jitted function a training batch, iterations in a scan.

    python peers.py                prints ms a batch of every peer, CPU time of one core (Linux)
    python peers.py ep pc          of these

Arithmetic as in the rules: what is clamped is computed once, energy gradients are in closed form,
matrices that stay constant during a relaxation are folded before it. A peer is `CASES[name]`; its
state is a dict with the names of the rule's `state_dict()`, so weights can be taken from there
(`state(name, values)`). Matrices are held as there, (n_out, n_in), or transposed where XLA
multiplies faster so; `state` and `values` convert.
"""

import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
if hasattr(os, "sched_setaffinity") and __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

clip01 = partial(jnp.clip, min=0.0, max=1.0)
DTYPE = (
    np.float64 if jax.config.jax_enable_x64 else np.float32
)  # JAX_ENABLE_X64=1 to compare with float64 runs


def onehot(y, n):
    return jax.nn.one_hot(y, n, dtype=DTYPE)


# --- equilibrium propagation, contrastive similarity matching


def ep(p, x, y, sign, *, n_free=20, n_nudged=4, lr=0.5, beta=1.0, rates=(0.1, 0.05), lateral=None):
    """784-n-10. With `lateral` = (rate, nudge size): similarity matching."""
    w1, w2, b1, b2 = p["w_ff.0"], p["w_ff.1"], p["bias.0"], p["bias.1"]  # w1, w2: (n_in, n_out)
    n, beta = len(x), sign * beta
    drive, up, down, t = lr * (x @ w1 + b1), lr * w2, lr * w2.T, onehot(y, len(b2))
    if lateral:
        m = p["m_lateral.0"]
        own = (1 - lr) * jnp.eye(len(m)) - (lr / 2) * (m + m.T)

    def phase(s, nudge, n_steps):
        keep, base = 1 - lr - 2 * lr * nudge, lr * b2 + 2 * lr * nudge * t

        def iterate(s, _):
            s1, s2 = s
            a1 = s1 @ own if lateral else (1 - lr) * s1
            return (clip01(a1 + drive + s2 @ down), clip01(keep * s2 + base + s1 @ up)), None

        return lax.scan(iterate, s, None, length=n_steps)[0]

    free = phase((clip01(drive), clip01(jnp.zeros_like(t) + lr * b2)), 0.0, n_free - 1)
    nudged = phase(free, beta, n_nudged)
    g1, g2 = rates[0] / (beta * n), rates[1] / (beta * n)
    d1, d2 = nudged[0] - free[0], nudged[1] - free[1]
    both = jnp.concatenate([nudged[0], -free[0]])
    ends = jnp.concatenate([nudged[1], free[1]])
    new = p | {
        "w_ff.0": w1 + x.T @ (g1 * d1),
        "w_ff.1": w2 + both.T @ (g2 * ends),
        "bias.0": b1 + g1 * d1.sum(0),
        "bias.1": b2 + g2 * d2.sum(0),
    }
    if lateral:
        bracket = 1 + lateral[0] / (2 * lateral[1])
        new["m_lateral.0"] = bracket * (
            m - (lateral[0] / (2 * beta * n)) * (nudged[0].T @ nudged[0])
        )
    return new, {}


csm = partial(ep, rates=(0.4, 0.275), lateral=(-0.01, 1.0))


# --- correlative information maximization


def corinfomax(
    p, x, y, sign, *, n_free=30, n_nudged=10, rate_fb=0.15, sparse=None, eta=0.05, eps=0.15, g=0.5
):
    """784-n-10. With `sparse` = (lr_1, lr_2): layers on the simplex."""
    w1, w2, v, b1, b2 = (p[k] for k in ("w_ff.0", "w_ff.1", "w_fb.0", "b_lateral.0", "b_lateral.1"))
    lam, n, beta = 0.99999, len(x), sign
    gamma = (1 - lam) / lam
    leak, leak_out = 2 / eps + g, 1 / eps + g + 1
    drive, t = (eta / eps) * (x @ w1), onehot(y, len(b2))
    own1 = eta * (2 * gamma * b1 + g * jnp.eye(len(b1)))  # b_lateral stays symmetric
    down, up = (eta / eps) * v, (eta / eps) * w2  # v, w2: (n_in, n_out)
    fire = (lambda u: jnp.maximum(u, 0)) if sparse else clip01

    def phase(r, q, nudge, n_steps):
        own2 = eta * (gamma * b2 + (g - nudge) * jnp.eye(len(b2)))
        pull = eta * nudge * t

        def iterate(s, _):
            (u1, u2), (q1, q2) = s
            r1, r2 = fire(u1), fire(u2)
            l1, l2 = jnp.maximum(q1, 0), jnp.maximum(q2, 0)
            u1 = (1 - eta * leak) * u1 + drive + r1 @ own1 + r2 @ down - (eta * l1 if sparse else 0)
            r1 = fire(u1)
            u2 = (
                (1 - eta * leak_out) * u2 + pull + r1 @ up + r2 @ own2 - (eta * l2 if sparse else 0)
            )
            if sparse:
                q1 = q1 + sparse[0] * (-q1 + r1.sum(1, keepdims=True) - 1 + l1)
                q2 = q2 + sparse[1] * (-q2 + fire(u2).sum(1, keepdims=True) - 1 + l2)
            return ((u1, u2), (q1, q2)), None

        (u, q), _ = lax.scan(iterate, (r, q), None, length=n_steps)
        return (fire(u[0]), fire(u[1])), (jnp.maximum(q[0], 0), jnp.maximum(q[1], 0))

    zero = jnp.zeros((n, 1))
    free, q = phase((jnp.zeros_like(drive), jnp.zeros_like(t)), (zero, zero), 0.0, n_free)
    nudged, _ = phase(free, q, beta, n_nudged)
    sides = jnp.concatenate([jnp.ones((n, 1)), -jnp.ones((n, 1))])
    r1, r2 = jnp.concatenate([nudged[0], free[0]]), jnp.concatenate([nudged[1], free[1]])
    gain = sides / (beta * n)

    def lateral(b, r):
        z = r @ b
        return (b - (gamma / n) * (z.T @ z)) / lam

    def correlate(name, r):
        return lam * p[name] + ((1 - lam) / n) * (r.T @ r)

    return p | {
        "w_ff.0": w1 + x.T @ ((1.0 / (beta * n)) * (nudged[0] - free[0])),
        "w_ff.1": w2 + r1.T @ (0.7 * gain * (r2 - r1 @ w2)),
        "w_fb.0": v + r2.T @ (rate_fb * gain * (r1 - r2 @ v)),
        "b_lateral.0": lateral(b1, nudged[0]),
        "b_lateral.1": lateral(b2, nudged[1]),
        "r_free.0": correlate("r_free.0", free[0]),
        "r_free.1": correlate("r_free.1", free[1]),
        "r_nudged.0": correlate("r_nudged.0", nudged[0]),
        "r_nudged.1": correlate("r_nudged.1", nudged[1]),
    }, {}


corinfomax_sparse = partial(corinfomax, n_free=20, n_nudged=4, rate_fb=0.12, sparse=(1e-6, 0.01))


# --- predictive coding


def pc(p, x, y, sign, *, n_steps=50, eta=0.1, lr=1e-3, margin=0.03):
    """Any depth; sigmoid, clamped output, Adam as in its paper, objective after the update."""
    n_layers, n = sum(k.startswith("bias") for k in p), len(x)
    w, b = (
        [p[f"w_ff.{k}"] for k in range(n_layers)],
        [p[f"bias.{k}"] for k in range(n_layers)],
    )  # w: (n_in, n_out)
    goal = onehot(y, len(b[-1])) * (1 - 2 * margin) + margin
    drive = x @ w[0] + b[0]
    start, f = [drive], None
    for k in range(1, n_layers - 1):
        start.append(jax.nn.sigmoid(start[-1]) @ w[k] + b[k])

    def errors(states):
        f = [jax.nn.sigmoid(s) for s in states]
        return f, [
            h - a @ m - c for h, a, m, c in zip([*states[1:], goal], f, w[1:], b[1:], strict=False)
        ]

    def iterate(states, _):
        f, e = errors(states)
        own = [states[0] - drive, *e[:-1]]
        return [
            s + eta * ((e[k] @ w[k + 1].T) * f[k] * (1 - f[k]) - own[k])
            for k, s in enumerate(states)
        ], None

    states, _ = lax.scan(iterate, start, None, length=n_steps)
    f, e = errors(states)
    below, e = [x, *f], [states[0] - drive, *e]
    grads = [a.T @ d / n for a, d in zip(below, e, strict=False)] + [d.mean(0) for d in e]
    count = p["count"] + 1
    step = lr * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    m = [0.9 * a + 0.1 * g for a, g in zip(p["m"], grads, strict=False)]
    v = [0.999 * a + 0.001 * g * g for a, g in zip(p["v"], grads, strict=False)]
    w, b = (
        [q + step * a / (jnp.sqrt(s) + 1e-8) for q, a, s in zip(old, m[i:], v[i:], strict=False)]
        for old, i in ((w, 0), (b, n_layers))
    )
    objective = (
        -sum(
            ((s - a @ q - c) ** 2).sum()
            for s, a, q, c in zip([*states, goal], below, w, b, strict=False)
        )
        / n
    )
    new = {f"w_ff.{k}": q for k, q in enumerate(w)} | {f"bias.{k}": c for k, c in enumerate(b)}
    return new | {"m": m, "v": v, "count": count}, {"objective": objective}


def pc_nudge(p, x, y, sign, *, n_steps=50, eta=0.1, lr=1e-3, lam=1e-3):
    """Any depth; rectified, output pulled towards the target."""
    n_layers = sum(k.startswith("bias") for k in p)
    w, b = (
        [p[f"w_ff.{k}"] for k in range(n_layers)],
        [p[f"bias.{k}"] for k in range(n_layers)],
    )  # w: (n_in, n_out)
    lam, t = sign * lam, onehot(y, len(b[-1]))
    drive = x @ w[0] + b[0]
    start = [drive]
    for k in range(1, n_layers):
        start.append(jnp.maximum(start[-1], 0) @ w[k] + b[k])

    def errors(states):
        f = [jnp.maximum(s, 0) for s in states[:-1]]
        return f, [states[0] - drive] + [
            h - a @ m - c for h, a, m, c in zip(states[1:], f, w[1:], b[1:], strict=False)
        ]

    def iterate(states, _):
        f, e = errors(states)
        new = [
            s + 2 * eta * ((e[k + 1] @ w[k + 1].T) * (s > 0) - e[k])
            for k, s in enumerate(states[:-1])
        ]
        return [*new, states[-1] - 2 * eta * (e[-1] + lam * (states[-1] - t))], None

    states, _ = lax.scan(iterate, start, None, length=n_steps)
    f, e = errors(states)
    gain = 2 * lr / lam
    new = {
        f"w_ff.{k}": q + a.T @ (gain * d)
        for k, (q, a, d) in enumerate(zip(w, [x, *f], e, strict=False))
    }
    return new | {
        f"bias.{k}": c + gain * d.sum(0) for k, (c, d) in enumerate(zip(b, e, strict=False))
    }, {}


# --- competing hidden units


def hebbian(p, x, *, power=2, k=2, delta=0.4, lr=0.02):
    w = p["weight"]  # (n_hidden, n_in)
    drive = w if power == 2 else jnp.abs(w) * w
    current = x @ drive.T
    rows, units, rest = jnp.arange(len(x)), [], current
    for _ in range(k):  # k times argmax is faster than top_k
        units.append(jnp.argmax(rest, 1))
        rest = rest.at[rows, units[-1]].set(-jnp.inf)
    first, kth = units[0], units[-1]
    top, low = current[rows, first], current[rows, kth]
    pull = jnp.zeros(len(w)).at[first].add(top).at[kth].add(-delta * low)
    change = (-pull[:, None] * w).at[first].add(x).at[kth].add(-delta * x)
    return p | {"weight": w + (lr / jnp.maximum(jnp.abs(change).max(), 1e-30)) * change}, {}


# --- recurrent networks

_NET = (
    "net.rnn.weight_ih_l0",
    "net.rnn.weight_hh_l0",
    "net.rnn.bias_ih_l0",
    "net.rnn.bias_hh_l0",
    "net.linear.weight",
    "net.linear.bias",
)


def _adam(w, g, m, v, count, lr, b1=0.9, b2=0.98, eps=1e-9):
    m = jax.tree.map(lambda a, q: b1 * a + (1 - b1) * q, m, g)
    v = jax.tree.map(lambda a, q: b2 * a + (1 - b2) * q * q, v, g)
    c1, c2 = 1 - b1**count, 1 - b2**count
    return jax.tree.map(lambda q, a, s: q - lr * (a / c1) / (jnp.sqrt(s / c2) + eps), w, m, v), m, v


def _lstm(whh, inputs, h, c):
    i, f, g, o = jnp.split(inputs + h @ whh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def recurrent(p, x, y, *, k=3, spars=4, lr=1e-4, clip=1.0, dni=False, scale=0.1):
    """Drawing task, truncations of `k` steps, all of them differentiated side by side; with `dni` a
    synthesiser.
    """
    n, n_steps, n_out = x.shape[0], x.shape[1], y.shape[2]
    n_trunc, n_hidden = -(-n_steps // k), p["net.rnn.weight_hh_l0"].shape[1]
    unroll = k if k <= 4 else 1  # both faster than the other way round
    theta = {q: p[q] for q in _NET}
    phi = {q: a for q, a in p.items() if q.startswith("synthesiser")}
    steps = np.arange(n_trunc * k).reshape(n_trunc, k)
    is_on = (steps % spars == 0) & (steps < n_steps)
    weight = jnp.asarray(is_on / np.maximum(is_on.sum(1, keepdims=True), 1) / (n * n_out), DTYPE)
    exists = jnp.asarray(steps < n_steps)
    pad = ((0, 0), (0, n_trunc * k - n_steps), (0, 0))
    fold = lambda a: jnp.pad(a, pad).reshape(n, n_trunc, k, -1).transpose(2, 1, 0, 3)  # noqa: E731
    xs, ys = fold(x), fold(y)

    def drives(theta):
        wih, _, bi, bh = (theta[q] for q in _NET[:4])
        return xs @ wih.T + (bi + bh)

    def walk(theta, inputs, start):  # one truncation of every sequence, all truncations at once
        whh = theta[_NET[1]].T

        def step(s, j):
            a, on = j
            h, c = _lstm(whh, a, *s)
            return (jnp.where(on, h, s[0]), jnp.where(on, c, s[1])), h

        return lax.scan(step, start, (inputs, exists.T[:, :, None, None]), unroll=unroll)

    def forward(theta, inputs):
        def truncation(s, a):
            s, h = lax.scan(lambda s, b: (_lstm(theta[_NET[1]].T, b, *s),) * 2, s, a, unroll=unroll)
            return s, s

        zero = jnp.zeros((n, n_hidden))
        _, ends = lax.scan(truncation, (zero, zero), inputs.swapaxes(0, 1)[:-1])
        return tuple(jnp.concatenate([zero[None], a]) for a in ends)  # states at every start

    def synth(phi, z):
        return jax.nn.relu(z @ phi[_S[0]].T + phi[_S[1]]) @ phi[_S[2]].T + phi[_S[3]]

    starts = forward(theta, lax.stop_gradient(drives(theta)))

    def objective(theta, starts):
        (h, c), hs = walk(theta, drives(theta), starts)
        out = hs @ theta[_NET[4]].T + theta[_NET[5]]
        error = ((out - ys) ** 2).sum((2, 3))
        loss = (error * weight.T).sum()
        z = jnp.concatenate([h, c], -1)
        if dni:
            loss = loss + scale * (lax.stop_gradient(synth(phi, z)) * z).sum()
        return loss, (error * is_on.T).sum() * (2 / (n_steps * n * n_out))

    (_, measured), (grads, d_start) = jax.value_and_grad(objective, (0, 1), has_aux=True)(
        theta, starts
    )
    new_grads = grads
    if dni:
        target, z = jnp.concatenate(d_start, -1), jnp.concatenate(starts, -1)
        new_grads = grads | jax.grad(lambda phi: ((synth(phi, z) - target) ** 2).sum())(phi)
    norm = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(new_grads)))
    new_grads = jax.tree.map(lambda g: g * jnp.minimum(1, clip / (norm + 1e-6)), new_grads)
    count = p["count"] + 1
    w, m, v = _adam(theta | phi, new_grads, p["m"], p["v"], count, lr)
    return w | {"m": m, "v": v, "count": count}, {"train_mse": measured, "grad_norm": norm}


_S = [f"synthesiser.layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]


# --- cases


@dataclass(frozen=True)
class Case:
    """What is timed: `step(state, *batch)`; `rule` and `config` are the same in bioplaus."""

    step: object
    rule: str
    config: dict = field(default_factory=dict)
    n_batch: int = 20
    shapes: dict = field(default_factory=dict)  # of the weights, as in `state_dict`
    n_steps: int | None = None
    is_nudged: bool = False
    transposed: tuple = ()  # name prefixes held transposed
    has_adam: bool = False


def _chain(*u):
    return {f"w_ff.{k}": (b, a) for k, (a, b) in enumerate(zip(u, u[1:], strict=False))} | {
        f"bias.{k}": (b,) for k, b in enumerate(u[1:])
    }


def _info(a, b, c):
    square = {
        f"{q}.{k}": (n, n)
        for q in ("b_lateral", "r_free", "r_nudged")
        for k, n in enumerate((b, c))
    }
    return {"w_ff.0": (b, a), "w_ff.1": (c, b), "w_fb.0": (b, c)} | square


def _rnn(a, h, b, synth=0):
    net = dict(zip(_NET, [(4 * h, a), (4 * h, h), (4 * h,), (4 * h,), (b, h), (b,)], strict=False))
    return net | (
        dict(zip(_S, [(synth, 2 * h), (synth,), (2 * h, synth), (2 * h,)], strict=False))
        if synth
        else {}
    )


_ON = dict(is_nudged=True, transposed=("w_ff", "w_fb"))
_DRAW = {"n_units": [28, 30, 2], "loss": "mse", "spars_int": 4}
CASES = {
    "ep": Case(ep, "ep", shapes=_chain(784, 500, 10), **_ON),
    "csm": Case(csm, "csm", shapes=_chain(784, 500, 10) | {"m_lateral.0": (500, 500)}, **_ON),
    "corinfomax": Case(corinfomax, "corinfomax", shapes=_info(784, 500, 10), **_ON),
    "corinfomax_sparse": Case(
        corinfomax_sparse, "corinfomax_sparse", shapes=_info(784, 500, 10), **_ON
    ),
    "pc": Case(
        pc, "pc", {"n_units": [784, 500, 10]}, 20, _chain(784, 500, 10), has_adam=True, **_ON
    ),
    "pc-256": Case(
        pc, "pc", {"n_units": [784, 500, 10]}, 256, _chain(784, 500, 10), has_adam=True, **_ON
    ),
    "pc-600-600": Case(pc, "pc", {}, 20, _chain(784, 600, 600, 10), has_adam=True, **_ON),
    "pc_nudge": Case(pc_nudge, "pc_nudge", {}, 20, _chain(784, 128, 64, 10), **_ON),
    "pc_nudge-500": Case(
        pc_nudge, "pc_nudge", {"n_units": [784, 500, 10]}, 20, _chain(784, 500, 10), **_ON
    ),
    "hebbian-784-p2": Case(
        hebbian, "competing_hidden", {"n_units": [784, 2000]}, 1000, {"weight": (2000, 784)}
    ),
    "hebbian-3072-p2": Case(
        hebbian, "competing_hidden", {"n_units": [3072, 2000]}, 1000, {"weight": (2000, 3072)}
    ),
    "hebbian-784-p3": Case(
        partial(hebbian, power=3, k=7),
        "competing_hidden",
        {"n_units": [784, 2000], "p": 3.0, "k": 7},
        1000,
        {"weight": (2000, 784)},
    ),
    "dni-60": Case(
        partial(recurrent, dni=True),
        "dni",
        _DRAW | {"n_truncation": 3},
        50,
        _rnn(28, 30, 2, 60),
        28,
        has_adam=True,
    ),
    "dni-300": Case(
        partial(recurrent, dni=True),
        "dni",
        _DRAW | {"n_truncation": 3, "n_synth_hidden": 300},
        50,
        _rnn(28, 30, 2, 300),
        28,
        has_adam=True,
    ),
    "bptt-28": Case(
        partial(recurrent, k=28),
        "bptt",
        _DRAW | {"n_truncation": None},
        50,
        _rnn(28, 30, 2),
        28,
        has_adam=True,
    ),
    "bptt-3": Case(
        recurrent, "bptt", _DRAW | {"n_truncation": 3}, 50, _rnn(28, 30, 2), 28, has_adam=True
    ),
}


def state(name, values=None):
    """The state of a peer from `values`, arrays by name as in the rule's `state_dict()`; by default
    random ones.
    """
    case, draw = CASES[name], np.random.default_rng(0)
    made = {}
    for key, shape in case.shapes.items():
        if values is not None:
            value = np.asarray(values[key], DTYPE)
        elif key.startswith(("r_", "b_lateral")):
            value = np.eye(shape[0], dtype=DTYPE)
        else:
            value = (draw.uniform(-1, 1, shape) / shape[-1] ** 0.5).astype(DTYPE)
        made[key] = jnp.asarray(np.ascontiguousarray(value.T) if _is_turned(case, key) else value)
    if case.has_adam:
        zeros = (
            [jnp.zeros_like(a) for a in made.values()]
            if case.rule == "pc"
            else jax.tree.map(jnp.zeros_like, made)
        )
        made |= {"m": zeros, "v": jax.tree.map(jnp.copy, zeros), "count": jnp.zeros(())}
    return made


def values(name, state):
    """The weights in a state, as numpy arrays named and laid out as the rule's `state_dict()`."""
    case = CASES[name]
    return {
        key: np.asarray(state[key].T if _is_turned(case, key) else state[key])
        for key in case.shapes
    }


def _is_turned(case, key):
    return case.transposed and key.startswith(case.transposed) and len(case.shapes[key]) == 2


def batch(name, seed=0):
    """A random batch like `rule.example_batch`, as numpy arrays: arguments of `step` after the
    state.
    """
    case, draw = CASES[name], np.random.default_rng(seed)
    n_in = case.shapes[next(iter(case.shapes))][1]
    shape = (case.n_batch, case.n_steps, n_in) if case.n_steps else (case.n_batch, n_in)
    x = (draw.random(shape) * (draw.random(shape) > 0.8)).astype(DTYPE)
    if case.n_steps:
        return x, draw.random((case.n_batch, case.n_steps, 2)).astype(DTYPE)
    if case.rule == "competing_hidden":
        return (x,)
    return x, draw.integers(0, 10, case.n_batch)


def compiled(name):
    """The jitted step, called as step(state, *batch) or, of a nudged rule, step(state, x, y, sign);
    it eats its state.
    """
    return jax.jit(CASES[name].step, donate_argnums=0)


def stepper(name, arrays=None, given=None):
    """A callable without arguments that learns one batch again and again, and the callable that
    waits for it.
    """
    case, step = CASES[name], compiled(name)
    held = [state(name, arrays)]
    inputs = [jnp.asarray(a) for a in (given or batch(name))]
    if case.is_nudged:
        inputs.append(jnp.ones(()))

    def run():
        held[0], measured = step(held[0], *inputs)
        return measured

    return run, lambda: jax.block_until_ready(held[0])


def cpu_ms(run, wait, n):
    """CPU milliseconds of the process for one of `n` calls."""
    wait()
    start = time.process_time()
    for _ in range(n):
        run()
    wait()
    return 1e3 * (time.process_time() - start) / n


def main(names):
    runs = {name: stepper(name) for name in names}
    for run, wait in runs.values():
        run(), wait()
    n_calls = {name: max(1, round(100 / cpu_ms(*pair, 3))) for name, pair in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(9):
        for name, pair in runs.items():
            times[name].append(cpu_ms(*pair, n_calls[name]))
    print(f"{'peer':20} {'batch':>5} {'min ms':>8} {'median':>8}   jax {jax.__version__}, CPU time")
    for name, made in times.items():
        print(
            f"{name:20} {CASES[name].n_batch:5} {min(made):8.3f} "
            f"{sorted(made)[len(made) // 2]:8.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
