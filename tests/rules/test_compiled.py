"""Compiled kernels learn what the torch forms do, to float32 rounding, the same bits every time.

They do without their cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
import torch

from bioplaus import device, rules
from bioplaus.errors import BioplausError
from bioplaus.results import provenance
from bioplaus.rules._fast import _compiled

CASES = [  # pc without Adam, which makes a step of any gradient, however small
    ("ep", {}),
    ("ep", {"n_units": [13, 7, 3], "use_random_sign": False}),
    ("pc", {"n_units": [784, 500, 10], "optimiser": "sgd", "lr": 0.1}),
    ("pc", {"n_units": [13, 30, 20, 7, 3], "optimiser": "sgd", "lr": 0.1}),
    ("corinfomax", {}),
    ("corinfomax", {"n_units": [13, 30, 17], "is_three_phase": True, "lr_neural_rule": "slow"}),
    ("pc_nudge", {}),
    ("pc_nudge", {"n_units": [13, 70, 33, 3], "lr_neural_rule": "slow"}),
]
TOLERANCE = 2e-5  # of the largest value: of some hundred iterations of sums of 784 terms
N_BATCHES = 3


@pytest.fixture
def numba():
    return pytest.importorskip("numba")


def learn(name, values, watch=None, dtype=torch.float32):
    """A rule after some batches, and what it predicts then."""
    rule = rules.make(name, values, seed=1, dtype=dtype)
    stream, spec = device.generator(0, "batches"), rule.example_spec(rule.config)
    rule.watch = watch
    rule.begin_epoch(0, N_BATCHES)
    for step in range(N_BATCHES):
        batch = rule.example_batch(spec, 20, stream, dtype)
        rule.fit_batch(*batch, epoch=0, step=step)
    return [*rule.parameters(), rule.predict(batch[0])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kernel_learns_what_the_torch_form_does_to_rounding(case, numba, monkeypatch):
    compiled = learn(*case)
    monkeypatch.setenv("BIOPLAUS_NUMBA", "0")
    by_torch, exact = learn(*case), learn(*case, dtype=torch.float64)
    for a, b, c in zip(compiled, by_torch, exact, strict=True):
        size = max(1.0, float(c.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE * size)
        torch.testing.assert_close(a.double(), c, rtol=0, atol=TOLERANCE * size)
    assert not all(map(torch.equal, compiled, by_torch))  # the switch does switch


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_watched_kernel_learns_the_same_bits(case, numba):
    seen = []
    watched = learn(*case, watch=lambda phase, t, state: seen.append(phase))
    assert len(seen) > N_BATCHES
    assert all(map(torch.equal, watched, learn(*case)))


def test_a_number_that_is_not_finite_stays_visible(numba):
    for name, values in CASES:
        rule = rules.make(name, values, seed=1)
        x, y = rule.example_batch(rule.example_spec(rule.config), 4, device.generator(0, "batch"))
        x[0, 0] = torch.nan
        rule.begin_epoch(0, 1)
        rule.fit_batch(x, y, epoch=0, step=0)
        assert not all(torch.isfinite(p).all() for p in rule.parameters())


def test_float64_and_other_devices_never_take_a_kernel():
    assert _compiled.kernel("relax_ep", torch.zeros(1, dtype=torch.float64)) is None
    assert _compiled.kernel("relax_ep", torch.zeros(1, device="meta")) is None


def test_an_unknown_setting_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("BIOPLAUS_NUMBA", "yes")
    with pytest.raises(BioplausError, match="BIOPLAUS_NUMBA is 'yes', but must be 0 or 1"):
        _compiled.version()


@pytest.mark.parametrize("setting", ["0", "1"])
def test_a_record_says_which_numba_computed(setting, monkeypatch):
    monkeypatch.setenv("BIOPLAUS_NUMBA", setting)
    provenance._machine.cache_clear()
    try:
        said = provenance._machine()["numba"]
    finally:
        provenance._machine.cache_clear()
    installed = _compiled.importlib.util.find_spec("numba") is not None
    assert (said != "none") == (installed and setting == "1")


DIGEST = """
import hashlib, sys
sys.path.insert(0, {tests!r})
import test_compiled as t
learned = t.learn(*t.CASES[0])
print(hashlib.sha256(b"".join(p.numpy().tobytes() for p in learned)).hexdigest())
"""


def start(cache):
    code = DIGEST.format(tests=os.path.dirname(__file__))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"BIOPLAUS_CACHE": str(cache), "BIOPLAUS_NUMBA": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digest(process):
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out.strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bits_are_the_same_with_a_cold_a_warm_a_damaged_and_no_cache(numba, tmp_path):
    racing = [start(tmp_path / "cache") for _ in range(2)]  # two processes compile at once
    digests = {digest(process) for process in racing}
    digests.add(digest(start(tmp_path / "cache")))  # warm
    kept = [path for path in (tmp_path / "cache").rglob("*.nb?")]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    digests.add(digest(start(tmp_path / "cache")))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file, so that no folder can be made")
    digests.add(digest(start(tmp_path / "cache")))
    assert len(digests) == 1 and len(digests.pop()) == len(hashlib.sha256().hexdigest())


def test_importing_rules_does_not_import_numba():
    code = "import sys; from bioplaus import rules; rules.make('ep'); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
