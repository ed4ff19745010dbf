"""The CorInfoMax paper's rules, written once more from the equations alone: float64 numpy, states
as columns, loops.

Slow on purpose and sharing nothing with the package, so that agreement means something. Every
function trains on the batches it is given and returns what a golden file would expect.
"""

import numpy as np


def clip(u):
    return np.clip(u, 0, 1)


def one_hot(y, n):
    return np.eye(n)[y].T  # (n, batch)


def step_size(h, t):
    start, stop, decay = h["neural_lr_start"], h["neural_lr_stop"], h["neural_lr_decay"]
    return {
        "constant": start,
        "divide_by_loop_index": max(start / (t + 1), stop),
        "divide_by_slow_loop_index": max(start / (1 + decay * t), stop),
    }[h["neural_lr_rule"]]


def corinfomax(h, init, data):
    """CorInfoMax, and CorInfoMaxSparse where `sparse_layers` names layers (counted from 1)."""
    n_layers, lam = len(h["architecture"]) - 1, h["lambda"]
    gamma, eps, g = (1 - lam) / lam, h["epsilon"], h["g"]
    sparse = h["sparse_layers"] or []
    w = [None, *(init[f"Wff{k}"].copy() for k in range(n_layers))]
    v = [None, *(init[f"Wfb{k}"].copy() for k in range(1, n_layers)), None]
    b = [None, *(init[f"B{k}"].copy() for k in range(n_layers))]
    r_free, r_nudged = (
        [None, *(np.eye(len(b[k])) for k in range(1, n_layers + 1))] for _ in range(2)
    )
    expect = {}

    def dynamics(x, y, beta, n_steps, r, q, label=None):
        u, r = [None if a is None else a.copy() for a in r], [x, *(a.copy() for a in r[1:])]
        q = [None, *(np.maximum(a, 0) for a in q[1:])]
        for t in range(n_steps):
            eta = step_size(h, t)
            for k in range(1, n_layers + 1):
                drive = (w[k] @ r[k - 1] - u[k]) / eps + g * (r[k] - u[k])
                if k < n_layers:
                    du = drive + (v[k] @ r[k + 1] - u[k]) / eps + 2 * gamma * b[k] @ r[k]
                else:
                    du = drive + gamma * b[k] @ r[k] - u[k] - beta * (r[k] - y)
                ell = np.maximum(q[k], 0)
                u[k] = u[k] + eta * (du - ell)
                if k in sparse:
                    r[k] = np.maximum(u[k], 0)
                    q[k] = q[k] + h["st_lr"][k - 1] * (-q[k] + r[k].sum(0, keepdims=True) - 1 + ell)
                else:
                    r[k] = clip(u[k])
            if label and t < 3:
                for k in range(n_layers):
                    expect[f"{label}_iter{t + 1}_r{k}"] = r[k + 1].copy()
        return r, [None, *(np.maximum(a, 0) for a in q[1:])]

    def rest(x):
        n = x.shape[1]
        zeros = [None, *(np.zeros((m, n)) for m in h["architecture"][1:])]
        return zeros, [None, *(np.zeros((1, n)) for _ in range(n_layers))]

    for i, x in enumerate(data["x"]):
        x, y, beta, n = x.T, one_hot(data["y"][i], h["architecture"][-1]), data["beta"][i], len(x)
        zeros, none = rest(x)
        free, q_free = dynamics(
            x, y, 0, h["T_free"], zeros, none, f"batch{i}.free" if i == 0 else None
        )
        ends = {"free": (free, q_free)}
        nudged, q_nudged = dynamics(x, y, beta, h["T_nudged"], [None, *free[1:]], q_free)
        ends["nudged"] = nudged, q_nudged
        other, c = free, 1 / beta
        if h["three_phase"]:
            ends["anti"] = dynamics(x, y, -beta, h["T_nudged"], [None, *nudged[1:]], q_nudged)
            other, c = ends["anti"][0], 1 / (2 * beta)
        for name, (r, q) in ends.items():
            for k in range(n_layers):
                expect[f"batch{i}.{name}_r{k}"] = r[k + 1]
                if sparse:
                    expect[f"batch{i}.{name}_lambda{k}"] = q[k + 1]
        d = data["lr_decay"][i]
        new_w, new_v = list(w), list(v)
        for k in range(1, n_layers + 1):
            mu = h["lr_ff"][k - 1] * d
            change = sum(
                sign * (r[k] - w[k] @ r[k - 1]) @ r[k - 1].T
                for sign, r in ((1, nudged), (-1, other))
            )
            new_w[k] = (w[k] + c * mu * change / n) * (1 - mu * eps if h["weight_decay"] else 1)
        for k in range(1, n_layers):
            mu = h["lr_fb"][k] * d
            change = sum(
                sign * (r[k] - v[k] @ r[k + 1]) @ r[k + 1].T
                for sign, r in ((1, nudged), (-1, other))
            )
            new_v[k] = (v[k] + c * mu * change / n) * (1 - mu * eps if h["weight_decay"] else 1)
        w, v = new_w, new_v
        for k in range(1, n_layers + 1):
            z = b[k] @ nudged[k]
            b[k] = (b[k] - gamma * z @ z.T / n) / lam
            r_free[k] = lam * r_free[k] + (1 - lam) * free[k] @ free[k].T / n
            r_nudged[k] = lam * r_nudged[k] + (1 - lam) * nudged[k] @ nudged[k].T / n
            for name, value in (
                ("Wff", w[k]),
                ("B", b[k]),
                ("Rfree", r_free[k]),
                ("Rnudged", r_nudged[k]),
            ):
                expect[f"batch{i}.{name}{k - 1}"] = value.copy()
        angles = []
        for k in range(1, n_layers):
            expect[f"batch{i}.Wfb{k}"] = v[k].copy()
            cosine = (w[k + 1] * v[k].T).sum() / np.sqrt((w[k + 1] ** 2).sum() * (v[k] ** 2).sum())
            angles.append(np.degrees(np.arccos(cosine)))
        expect[f"batch{i}.angles_deg"] = np.array(angles)
    zeros, none = rest(data["x_eval"].T)
    return expect, dynamics(data["x_eval"].T, 0, 0, h["T_free"], zeros, none)[0][-1].T


def ep(h, init, data):
    """EP, and CSM where `alphas_M` is given."""
    n_layers, lr = len(h["architecture"]) - 1, h["neural_lr"]
    w = [None, *(init[f"W{k}"].copy() for k in range(n_layers)), None]
    b = [None, *(init[f"b{k}"].copy()[:, None] for k in range(n_layers))]
    alphas = h.get("alphas_M") or []
    m = [None, *(init[f"M{k}"].copy() for k in range(len(alphas)))]
    expect = {}

    def relax(s, y, beta, n_steps):
        for _ in range(n_steps):
            new = list(s)
            for k in range(1, n_layers + 1):
                gradient = s[k] - w[k] @ s[k - 1] - b[k]
                if k < n_layers:
                    gradient = gradient - w[k + 1].T @ s[k + 1]
                    if alphas:
                        gradient = gradient + (m[k] + m[k].T) / 2 @ s[k]
                else:
                    gradient = gradient + 2 * beta * (s[k] - y)
                new[k] = clip(s[k] - lr * gradient)
            s = new
        return s

    def rest(x):
        return [x, *(np.zeros((k, x.shape[1])) for k in h["architecture"][1:])]

    for i, x in enumerate(data["x"]):
        y, beta, n = one_hot(data["y"][i], h["architecture"][-1]), data["beta"][i], len(x)
        rates = data["lr_groups"][i]
        free = relax(rest(x.T), y, 0, h["T1"])
        nudged = relax(free, y, beta, h["T2"])
        for k in range(1, n_layers + 1):
            gain = rates[k - 1] / beta / n
            w[k] = w[k] + gain * (nudged[k] @ nudged[k - 1].T - free[k] @ free[k - 1].T)
            b[k] = b[k] + gain * (nudged[k] - free[k]).sum(1, keepdims=True)
            for name, s in (("free", free), ("nudged", nudged)):
                expect[f"batch{i}.{name}_s{k - 1}"] = s[k].T
            expect |= {f"batch{i}.W{k - 1}": w[k].copy(), f"batch{i}.b{k - 1}": b[k][:, 0].copy()}
        for k, alpha in enumerate(alphas, start=1):
            step = rates[n_layers + k - 1] / (2 * beta)
            m[k] = (1 + alpha / (2 * abs(beta))) * (m[k] - step * nudged[k] @ nudged[k].T / n)
            expect[f"batch{i}.M{k - 1}"] = m[k].copy()
    return expect, relax(rest(data["x_eval"].T), 0, 0, h["T1"])[-1].T


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def _predictive(h, init):
    n_layers = len(h["architecture"]) - 1
    w = [None, *(init[f"W{k}"].copy() for k in range(n_layers))]
    b = [None, *(init[f"b{k}"].copy()[:, None] for k in range(n_layers))]
    return n_layers, w, b


def pc(h, init, data):
    n_layers, w, b = _predictive(h, init)
    expect, losses = {}, []
    moments = [[None if a is None else np.zeros_like(a) for a in part] for part in (w, b, w, b)]

    def f(k, x):
        return x[0] if k == 0 else sigmoid(x[k])

    def forward(x):
        x = [x]
        for k in range(1, n_layers + 1):
            x.append(w[k] @ f(k - 1, x) + b[k])
        return x

    def errors(x):
        return [None, *(x[k] - w[k] @ f(k - 1, x) - b[k] for k in range(1, n_layers + 1))]

    for i, inputs in enumerate(data["x"]):
        x, n, lr = forward(inputs.T), len(inputs), data["lr"][i]
        for k in range(1, n_layers + 1):
            expect[f"batch{i}.ff_x{k - 1}"] = x[k].copy()
        x[-1] = 0.94 * one_hot(data["y"][i], h["architecture"][-1]) + 0.03
        for t in range(h["T"]):
            e, new = errors(x), list(x)
            for k in range(1, n_layers):
                slope = f(k, x) * (1 - f(k, x))
                new[k] = x[k] + step_size(h, t) * (-e[k] + (w[k + 1].T @ e[k + 1]) * slope)
            x = new
        e = errors(x)
        for k in range(1, n_layers + 1):
            gradients = e[k] @ f(k - 1, x).T / n, e[k].mean(1, keepdims=True)
            for weights, g, mean, square in zip(
                (w, b), gradients, moments[:2], moments[2:], strict=True
            ):
                if h["optimizer"] == "sgd":
                    weights[k] = weights[k] + lr * g
                    continue
                mean[k] = 0.9 * mean[k] + 0.1 * g
                square[k] = 0.999 * square[k] + 0.001 * g**2
                scale = np.sqrt(1 - 0.999 ** (i + 1)) / (1 - 0.9 ** (i + 1))
                weights[k] = weights[k] + lr * scale * mean[k] / (np.sqrt(square[k]) + 1e-8)
            expect |= {f"batch{i}.W{k - 1}": w[k].copy(), f"batch{i}.b{k - 1}": b[k][:, 0].copy()}
            expect[f"batch{i}.relaxed_x{k - 1}"] = x[k]
        losses.append(-sum((e**2).sum(0) for e in errors(x)[1:]).mean())
    expect["loss"] = np.array(losses)
    return expect, forward(data["x_eval"].T)[-1].T


def pc_nudge(h, init, data):
    n_layers, w, b = _predictive(h, init)
    expect = {}

    def f(k, x):
        return x[0] if k == 0 else np.maximum(x[k], 0)

    def forward(x):
        x = [x]
        for k in range(1, n_layers + 1):
            x.append(w[k] @ f(k - 1, x) + b[k])
        return x

    for i, inputs in enumerate(data["x"]):
        x, lam, y = forward(inputs.T), data["lam"][i], one_hot(data["y"][i], h["architecture"][-1])
        for t in range(h["T"]):
            e = [None, *(x[k] - w[k] @ f(k - 1, x) - b[k] for k in range(1, n_layers + 1))]
            new = list(x)
            for k in range(1, n_layers + 1):
                push = w[k + 1].T @ e[k + 1] * (x[k] > 0) if k < n_layers else -lam * (x[k] - y)
                new[k] = x[k] + step_size(h, t) * (-2 * e[k] + 2 * push)
            x = new
        e = [None, *(x[k] - w[k] @ f(k - 1, x) - b[k] for k in range(1, n_layers + 1))]
        gain = 2 * data["lr"][i] / lam
        for k in range(1, n_layers + 1):
            w[k] = w[k] + gain * e[k] @ f(k - 1, x).T
            b[k] = b[k] + gain * e[k].sum(1, keepdims=True)
            expect |= {f"batch{i}.W{k - 1}": w[k].copy(), f"batch{i}.b{k - 1}": b[k][:, 0].copy()}
            expect[f"batch{i}.relaxed_x{k - 1}"] = x[k]
    return expect, forward(data["x_eval"].T)[-1].T
