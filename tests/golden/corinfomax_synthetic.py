"""Golden files of any size and setting, made from `corinfomax_equations`: what no committed golden
covers.
"""

import json

import corinfomax_equations as equations
import numpy as np

RUN = {
    "CorInfoMax": equations.corinfomax,
    "CorInfoMaxSparse": equations.corinfomax,
    "EP": equations.ep,
    "CSM": equations.ep,
    "PC": equations.pc,
    "PCNudge": equations.pc_nudge,
}


def neural(rng):
    return {
        "neural_lr_start": rng.uniform(0.02, 0.08),
        "neural_lr_stop": rng.uniform(0.001, 0.03),
        "neural_lr_rule": str(
            rng.choice(["constant", "divide_by_loop_index", "divide_by_slow_loop_index"])
        ),
        "neural_lr_decay": rng.uniform(0.005, 0.2),
    }


def settings(algorithm, widths, n_batches, rng):
    """(hyperparameters, init, data of the draws) at random, for a chain of `widths`."""
    pairs = list(zip(widths[1:], widths, strict=False))
    n_layers, signs = len(pairs), rng.choice([-1, 1], n_batches)
    if algorithm in ("CorInfoMax", "CorInfoMaxSparse"):
        h = neural(rng) | {
            "epsilon": rng.uniform(0.1, 0.3),
            "T_free": int(rng.integers(3, 12)),
            "T_nudged": int(rng.integers(1, 7)),
            "three_phase": bool(rng.integers(2)),
            "lambda": rng.choice([0.9, 0.99, 0.99999]),
            "g": rng.uniform(0, 0.6),
            "lr_ff": rng.uniform(0.02, 0.5, n_layers).tolist(),
            "lr_fb": [None, *rng.uniform(0.02, 0.2, n_layers - 1).tolist()],
            "weight_decay": bool(rng.integers(2)),
            "sparse_layers": None,
        }
        if algorithm == "CorInfoMaxSparse":
            chosen = rng.permutation(np.arange(1, n_layers + 1))[: rng.integers(1, n_layers + 1)]
            h |= {
                "sparse_layers": sorted(chosen.tolist()),
                "st_lr": rng.uniform(0, 0.3, n_layers).tolist(),
            }
        init = {f"Wff{k}": rng.normal(0, 0.5, pair) for k, pair in enumerate(pairs)}
        init |= {f"Wfb{k}": rng.normal(0, 0.5, pair[::-1]) for k, pair in enumerate(pairs)}
        init |= {
            f"B{k}": np.eye(n) + rng.normal(0, 0.1, (n, n)) for k, n in enumerate(widths[1:])
        }  # not symmetric
        return (
            h,
            init,
            {"beta": rng.uniform(0.2, 1.5) * signs, "lr_decay": rng.uniform(0.3, 1, n_batches)},
        )
    init = {f"W{k}": rng.normal(0, 0.5, pair) for k, pair in enumerate(pairs)}
    init |= {f"b{k}": rng.normal(0, 0.2, pair[0]) for k, pair in enumerate(pairs)}
    if algorithm in ("EP", "CSM"):
        h = {
            "T1": int(rng.integers(1, 9)),
            "T2": int(rng.integers(1, 6)),
            "neural_lr": rng.uniform(0.1, 0.7),
        }
        h["alphas_W"] = rng.uniform(0.01, 0.3, n_layers).tolist()
        n_groups = n_layers
        if algorithm == "CSM":
            h["alphas_M"] = (-rng.uniform(0.01, 0.1, n_layers - 1)).tolist()
            init |= {
                f"M{k}": rng.normal(0, 0.3, (n, n)) for k, n in enumerate(widths[1:-1])
            }  # not symmetric
            n_groups += n_layers - 1
        base = np.array(h["alphas_W"] + h.get("alphas_M", []))
        data = {
            "beta": rng.uniform(0.2, 1.5) * signs,
            "lr_groups": base * rng.uniform(0.3, 1, (n_batches, n_groups)),
        }
        return h, init, data
    h = neural(rng) | {
        "T": int(rng.integers(1, 20)),
        "activation": "sigmoid" if algorithm == "PC" else "relu",
    }
    h["optimizer"] = str(rng.choice(["adam", "sgd"])) if algorithm == "PC" else "sgd"
    data = {"lr": rng.uniform(1e-4, 1e-2, n_batches)}
    return h, init, data if algorithm == "PC" else data | {"lam": rng.uniform(0.05, 0.5) * signs}


def write(path, algorithm, widths, *, seed, n_batches=3, batch_size=6, n_eval=5):
    """Write a golden file of `algorithm` for a chain of `widths` with settings drawn from `seed`;
    return its path.
    """
    rng = np.random.default_rng(seed)
    h, init, data = settings(algorithm, widths, n_batches, rng)
    h |= {"architecture": list(widths), "batch_size": batch_size}
    x = rng.uniform(-0.5, 1, (n_batches, batch_size, widths[0]))
    data |= {"x": x, "y": rng.integers(0, widths[-1], (n_batches, batch_size))}
    data |= {
        "x_eval": rng.uniform(0, 1, (n_eval, widths[0])),
        "y_eval": rng.integers(0, widths[-1], n_eval),
    }
    expect, output = RUN[algorithm](h, init, data)
    expect |= {"eval_out": output, "eval_pred": output.argmax(1)}
    expect["eval_acc"] = np.array((output.argmax(1) == data["y_eval"]).mean())
    meta = {"paper": "corinfomax", "algorithm": algorithm, "hyperparameters": h, "dtype": "float64"}
    arrays = {"meta": np.array(json.dumps(meta))}
    for folder, values in (("init", init), ("data", data), ("expect", expect)):
        arrays |= {f"{folder}.{name}": value for name, value in values.items()}
    np.savez(path, **arrays)
    return path
