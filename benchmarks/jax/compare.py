"""Times rules against JAX peers, alternating on one core, and checks that they learn the same.

    python compare.py --torch PYTHON --jax PYTHON_WITH_JAX [--core 0] [--rounds 9] [case ...]

`make compare-jax` runs it. Both interpreters run this file as a worker, pinned to the same core;
only one of them computes at a time. Times are CPU time of the worker, in float32, with subnormal
numbers taken as zero as in training. Before a case is timed, both learn the same three batches from
the same weights in float64; "error" is the largest relative difference (Euclidean norm) of the
change of a weight, and one above 1e-8 stops the comparison. The timed batch is the same, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_CHECKED = 3  # batches learned before weights are compared
LARGEST_ERROR = 1e-8  # relative: CorInfoMax, whose B is all but singular, comes to 1e-9
SECONDS = 0.15  # CPU time of one measurement, about


class TorchSide:
    def __init__(self):
        import torch

        from bioplaus import device, rules

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.torch, self.device, self.rules = torch, device, rules

    def prepare(self, case, folder):
        """Write initial weights, batches, signs, and the weights after them, in float64; give what
        is to be timed, in float32.
        """
        import numpy as np

        torch = self.torch

        def ready(dtype):
            rule = self.rules.make(case["rule"], case["config"], seed=0).to(dtype)
            spec = rule.example_spec(rule.config, case["n_steps"])
            drawn = self.device.generator(0, "batches")
            batches = [
                rule.example_batch(spec, case["n_batch"], drawn, dtype) for _ in range(N_CHECKED)
            ]
            rule.begin_epoch(0, N_CHECKED)
            return rule, batches

        def weights():
            return {key: rule.state_dict()[key].numpy().copy() for key in case["weights"]}

        rule, batches = ready(torch.float64)
        start = weights()
        for step, batch in enumerate(batches):
            rule.fit_batch(*batch, epoch=0, step=step)
        signs = getattr(rule, "signs", torch.ones(N_CHECKED)).numpy()
        np.savez(folder / "start.npz", **start)
        np.savez(folder / "end.npz", **weights())
        np.savez(
            folder / "batches.npz",
            signs=signs,
            **{f"{i}_{j}": a.numpy() for i, b in enumerate(batches) for j, a in enumerate(b)},
        )
        rule, batches = ready(torch.float32)
        return lambda: rule.fit_batch(*batches[0], epoch=0, step=0), lambda: None


class JaxSide:
    def __init__(self):
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import peers

        self.peers = peers

    def cases(self):
        return {
            name: {
                "rule": c.rule,
                "config": c.config,
                "n_batch": c.n_batch,
                "n_steps": c.n_steps,
                "weights": list(c.shapes),
            }
            for name, c in self.peers.CASES.items()
        }

    def error(self, name, folder):
        """Learn the batches; the largest relative difference of a weight's change, and whose."""
        import numpy as np

        start, end, given = (self._read(folder, part) for part in ("start", "end", "batches"))
        case, step = self.peers.CASES[name], self.peers.compiled(name)
        state = self.peers.state(name, start)
        for i, sign in enumerate(given["signs"]):
            state, _ = step(state, *self._batch(given, i), *([sign] if case.is_nudged else []))
        found, norm = self.peers.values(name, state), np.linalg.norm
        errors = {
            key: float(norm(found[key] - end[key]) / norm(end[key] - start[key]))
            for key in start
            if not np.array_equal(end[key], start[key])
            or not np.array_equal(found[key], start[key])
        }
        worst = max(errors, key=errors.get)
        return errors[worst], worst

    def prepare(self, name, folder):
        batch = self._batch(self._read(folder, "batches"), 0)
        given = [a.astype("float32") if a.dtype.kind == "f" else a for a in batch]
        return self.peers.stepper(name, self._read(folder, "start"), given)

    @staticmethod
    def _read(folder, part):
        import numpy as np

        with np.load(folder / f"{part}.npz") as f:
            return dict(f)

    @staticmethod
    def _batch(given, i):
        return [given[key] for key in sorted(given) if key.startswith(f"{i}_")]


def cpu(run, wait, n):
    wait()
    start = time.process_time()
    for _ in range(n):
        run()
    wait()
    return (time.process_time() - start) / n


def worker(kind):
    out, sys.stdout = sys.stdout, sys.stderr
    side = TorchSide() if kind == "torch" else JaxSide()
    ready = {}

    def answer(request):
        if request["do"] == "cases":
            return side.cases()
        name, folder = request["name"], Path(request.get("folder", "."))
        if request["do"] == "error":
            return side.error(name, folder)
        if request["do"] == "prepare":
            run, wait = side.prepare(request["case"] if kind == "torch" else name, folder)
            cpu(run, wait, 2)
            ready[name] = (run, wait, max(1, round(SECONDS / cpu(run, wait, 3))))
            return None
        return cpu(*ready[name])

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


class Worker:
    """A pinned child process that answers one JSON line with one JSON line."""

    def __init__(self, python, kind, core, **env):
        env = (
            os.environ
            | env
            | {
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            }
        )
        self.process = subprocess.Popen(
            [python, __file__, "--worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            preexec_fn=(lambda: os.sched_setaffinity(0, {core}))
            if hasattr(os, "sched_setaffinity")
            else None,
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended with status {self.process.wait()}; see above")
        return json.loads(line)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case")
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--jax", default=sys.executable)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--worker", choices=["torch", "jax"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker)
    ours, peer = Worker(args.torch, "torch", args.core), Worker(args.jax, "jax", args.core)
    checker = Worker(args.jax, "jax", args.core, JAX_ENABLE_X64="1")
    known = peer.ask(do="cases")
    print(
        f"{'case':18} {'batch':>5} | {'bioplaus ms':>11} {'median':>7} | "
        f"{'JAX ms':>7} {'median':>7} | {'ratio':>5} {'median':>6} | error (worst weight)"
    )
    rows = []
    for name in args.cases or known:
        with tempfile.TemporaryDirectory() as folder:
            ours.ask(do="prepare", name=name, folder=folder, case=known[name])
            error, where = checker.ask(do="error", name=name, folder=folder)
            if not error <= LARGEST_ERROR:
                raise SystemExit(f"{name}: both learn other weights, {where} by {error:.0e}.")
            peer.ask(do="prepare", name=name, folder=folder)
        pairs = [
            (ours.ask(do="time", name=name), peer.ask(do="time", name=name))
            for _ in range(args.rounds)
        ]
        a, b = ([1e3 * t for t in side] for side in zip(*pairs, strict=True))
        middle = statistics.median
        row = {
            "case": name,
            "batch": known[name]["n_batch"],
            "ours": min(a),
            "ours_median": middle(a),
            "jax": min(b),
            "jax_median": middle(b),
            "ratio": min(a) / min(b),
            "error": error,
            "where": where,
            "ratio_median": middle(x / y for x, y in zip(a, b, strict=True)),
        }
        rows.append(row)
        print(
            "{case:18} {batch:5} | {ours:11.3f} {ours_median:7.3f} | "
            "{jax:7.3f} {jax_median:7.3f} | {ratio:5.2f} {ratio_median:6.2f} | "
            "{error:.0e} ({where})".format(**row),
            flush=True,
        )
    print(
        "ratio: of the minima, and median over rounds; above 1 bioplaus is slower. CPU time of one"
        " core, float32."
    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
