"""Whole relaxations of one sample after another, compiled by numba: float32 on one core.

A sample's states and the weights above the first stay in the core's first cache from iteration to
iteration, and no pass over memory is only for one operation. `_compiled` says when they are used.
Sums may be taken in another order than written (`reassoc`), but always in the same; a NaN stays
one, so that a divergence is seen.
"""

from typing import Any

import numba
import numpy as np

from bioplaus.rules._fast import _compiled

JIT: dict[str, Any] = {
    "cache": _compiled.folder() is not None,
    "fastmath": {"contract", "reassoc", "nsz"},
    "error_model": "numpy",
}
njit: Any = numba.njit
N_NARROW = 16  # outputs up to which a product is taken one output at a time


@njit(**JIT)
def add_rows(out, a, w):
    """out += a w, (n,), of `a`, (m,), and `w`, (m, n); eight rows at once, then five."""
    m, n, k = len(a), len(out), 0
    while k + 8 <= m:
        a0, a1, a2, a3, a4, a5, a6, a7 = (
            a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7],
        )  # fmt: skip
        for j in range(n):
            out[j] += (
                a0 * w[k, j]
                + a1 * w[k + 1, j]
                + a2 * w[k + 2, j]
                + a3 * w[k + 3, j]
                + a4 * w[k + 4, j]
                + a5 * w[k + 5, j]
                + a6 * w[k + 6, j]
                + a7 * w[k + 7, j]
            )
        k += 8
    while k + 5 <= m:
        a0, a1, a2, a3, a4 = a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4]
        for j in range(n):
            out[j] += (
                a0 * w[k, j]
                + a1 * w[k + 1, j]
                + a2 * w[k + 2, j]
                + a3 * w[k + 3, j]
                + a4 * w[k + 4, j]
            )
        k += 5
    while k < m:
        for j in range(n):
            out[j] += a[k] * w[k, j]
        k += 1


@njit(**JIT)
def add_dots(out, a, w):
    """out += w a, (m,), of `w`, (m, n), and `a`, (n,); five rows at once."""
    m, n, k = len(out), len(a), 0
    while k + 5 <= m:
        s0 = s1 = s2 = s3 = s4 = np.float32(0)
        for j in range(n):
            s0 += w[k, j] * a[j]
            s1 += w[k + 1, j] * a[j]
            s2 += w[k + 2, j] * a[j]
            s3 += w[k + 3, j] * a[j]
            s4 += w[k + 4, j] * a[j]
        out[k] += s0
        out[k + 1] += s1
        out[k + 2] += s2
        out[k + 3] += s3
        out[k + 4] += s4
        k += 5
    while k < m:
        s0 = np.float32(0)
        for j in range(n):
            s0 += w[k, j] * a[j]
        out[k] += s0
        k += 1


@njit(**JIT)
def relax_ep(states, low, high, mix, stay, n_steps):
    """`n_steps` iterations of `ep` with one hidden layer, in the arrays of its fast form.

    states : (n, n_1 + 2 n_2), rows s_1 - d | s_2 | constant input of s_2; changed.
    low, high : of the shape of states, bounds.
    mix : (n_2, n_1 + 2 n_2), lr W_2 and what s_2 keeps of itself, on the diagonal.
    stay : 1 - lr.
    """
    n_out = len(mix)
    n_hidden = states.shape[1] - 2 * n_out
    new = np.empty(n_out, np.float32)
    for b in range(len(states)):
        hidden, out = states[b, :n_hidden], states[b, n_hidden : n_hidden + n_out]
        constant, lowest, highest = states[b, n_hidden + n_out :], low[b], high[b]
        for _ in range(n_steps):
            for o in range(n_out):
                new[o] = constant[o] + mix[o, n_hidden + o] * out[o]
            add_dots(new, hidden, mix)
            for j in range(n_hidden):
                hidden[j] *= stay
            add_rows(hidden, out, mix)
            for j in range(n_hidden):
                s = hidden[j]
                s = lowest[j] if s < lowest[j] else s
                hidden[j] = highest[j] if s > highest[j] else s
            for o in range(n_out):
                s = new[o]
                s = np.float32(0) if s < 0 else s
                out[o] = np.float32(1) if s > 1 else s


@njit(**JIT)
def step_corinfomax(u, r, product, drive, pull, down, mixer, rate, rate_out, is_nudged):
    """One iteration of `corinfomax` with one hidden layer, in the arrays of its fast form.

    u, r : (n, n_1 + n_2), potentials and rates; changed.
    product : (n, n_1), what r_1 sends to itself.
    drive, pull : (n, n_1) and (n, n_2), constant input; `pull` only where `is_nudged`.
    down, mixer : (n_2, n_1) and (n_2, n_1 + n_2), what r_2 sends down and what it takes.
    rate, rate_out : how far a potential leaks towards its input.
    """
    n_hidden, n_out, one = drive.shape[1], len(mixer), np.float32(1)
    sent, taken = np.empty(n_out, np.float32), np.empty(n_out, np.float32)
    for b in range(len(u)):
        hidden, out = u[b, :n_hidden], u[b, n_hidden:]
        fired, fired_out = r[b, :n_hidden], r[b, n_hidden:]
        own, first, nudge = product[b], drive[b], pull[b]
        for o in range(n_out):
            sent[o] = rate * fired_out[o]
        for j in range(n_hidden):
            hidden[j] = (one - rate) * hidden[j] + rate * (own[j] + first[j])
        add_rows(hidden, sent, down)
        for j in range(n_hidden):
            s = hidden[j]
            s = np.float32(0) if s < 0 else s
            fired[j] = one if s > 1 else s
        for o in range(n_out):
            taken[o] = nudge[o] if is_nudged else np.float32(0)
        add_dots(taken, r[b], mixer)
        for o in range(n_out):
            s = (one - rate_out) * out[o] + rate_out * taken[o]
            out[o] = s
            s = np.float32(0) if s < 0 else s
            fired_out[o] = one if s > 1 else s


@njit(**JIT)
def sigmoid(x):
    """1 / (1 + exp(-x)) to 3e-7: (1 + tanh(x / 2)) / 2 by the quotient that Eigen and XLA take."""
    x = x * np.float32(0.5)
    x = np.float32(-7.9053111) if x < np.float32(-7.9053111) else x
    x = np.float32(7.9053111) if x > np.float32(7.9053111) else x
    y = x * x
    p = np.float32(-2.76076847742355e-16)
    p = p * y + np.float32(2.00018790482477e-13)
    p = p * y + np.float32(-8.60467152213735e-11)
    p = p * y + np.float32(5.12229709037114e-08)
    p = p * y + np.float32(1.48572235717979e-05)
    p = p * y + np.float32(6.37261928875436e-04)
    p = p * y + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * y + np.float32(1.18534705686654e-04)
    q = q * y + np.float32(2.26843463243900e-03)
    q = q * y + np.float32(4.89352518554385e-03)
    return np.float32(0.5) + np.float32(0.5) * (x * p / q)


@njit(**JIT)
def relax_predictive(states, drive, bias, goal, up, down, widths, steps, pull, is_pc):
    """Iterations of `pc` (`is_pc`) or `pc_nudge`, one of each of the sizes `steps`, (n_steps,).

    states : (n, sum of `widths`), rows x_1 | ... | x_L - b_L; changed.
    drive : (n, n_1), a_1.
    bias : like a row of states.
    goal, pull : (n, n_L) and (1,), what the output of `pc_nudge` is pulled to and how strongly;
        unused by `pc`.
    up, down : W_{k+1}^T and W_{k+1} of the layers k = 1 .. L-1 one after another, flat.
    widths : (L,) int64, n_1 .. n_L.
    """
    n_layers, n_all, zero, one = len(widths), states.shape[1], np.float32(0), np.float32(1)
    rates = np.empty(n_all, np.float32)
    errors, back = np.empty_like(rates), np.empty_like(rates)
    for b in range(len(states)):
        for step in steps:
            start = weights = 0
            for k in range(n_layers - 1):
                n, above = widths[k], widths[k + 1]
                stop = start + n
                last, size = stop + above, n * above
                x, f, below = states[b, start:stop], rates[start:stop], drive[b]
                if is_pc:
                    for j in range(n):
                        f[j] = sigmoid(x[j])
                else:
                    for j in range(n):
                        f[j] = zero if x[j] < 0 else x[j]
                if k == 0:
                    e = errors[:n]
                    for j in range(n):
                        e[j] = x[j] - below[j]
                # e_{k+1} = x_{k+1} - b_{k+1} - W f, and x_L is relative to b_L
                x, e, c = states[b, stop:last], errors[stop:last], bias[stop:last]
                for j in range(above):
                    e[j] = zero
                if above <= N_NARROW:
                    add_dots(e, f, down[weights : weights + size].reshape((above, n)))
                else:
                    add_rows(e, f, up[weights : weights + size].reshape((n, above)))
                kept = zero if k == n_layers - 2 else one
                for j in range(above):
                    e[j] = x[j] - kept * c[j] - e[j]
                start, weights = stop, weights + size
            start = weights = 0
            for k in range(n_layers - 1):
                n, above = widths[k], widths[k + 1]
                stop, size = start + n, n * above
                x, f, e, g = (
                    states[b, start:stop],
                    rates[start:stop],
                    errors[start:stop],
                    back[start:stop],
                )
                for j in range(n):
                    g[j] = zero
                w = down[weights : weights + size].reshape((above, n))
                add_rows(g, errors[stop : stop + above], w)
                if is_pc:
                    for j in range(n):
                        x[j] += step * (g[j] * (f[j] * (one - f[j])) - e[j])
                else:
                    for j in range(n):
                        x[j] += step * ((g[j] if f[j] > 0 else zero) - e[j])
                start, weights = stop, weights + size
            if not is_pc:
                x, e, y = states[b, start:], errors[start:], goal[b]
                for j in range(len(x)):
                    x[j] += step * (pull[0] * (y[j] - x[j]) - e[j])
