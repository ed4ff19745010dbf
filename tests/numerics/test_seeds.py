"""Seeds: whole numbers within one bound, for everything that draws; anything else is refused before
something is drawn.
"""

import hashlib

import numpy as np
import pytest
import torch

from bioplaus import device, rules, train
from bioplaus.config import MOST_SEED
from bioplaus.errors import BioplausError
from bioplaus.tasks import captions, features, images, linedraw, patches, seqmnist

WRONG = [True, False, 1000.0, 0.5, np.float64(3), np.bool_(True), "7", None, -1, 2**31 - 1, 10**30]
TAKERS = {
    "generator": lambda seed: device.generator(seed, "rule"),
    "a rule": lambda seed: rules.make("ep", {"n_units": [4, 3, 2]}, seed=seed),
    "images": lambda seed: images.load("synthetic", validation=0.1, seed=seed),
    "captions": lambda seed: captions.Config(seed=seed),
    "line drawing": lambda seed: linedraw.Config(seed=seed),
    "sequences": lambda seed: seqmnist.Config(seed=seed),
    "patches": lambda seed: patches.load(patches.Config(n_patches=10, side=4), seed=seed),
    "features": lambda seed: features.FeatureTask(_inputs(), order="fixed", seed=seed),
    "a run": lambda seed: device.check(seed=seed),
}


def _inputs():
    x = {"train": torch.rand(6, 3)}
    y = {"train": torch.zeros(6, dtype=torch.int64)}
    return features.Inputs(
        spec=patches.spec(patches.Config(side=4)), x=x, y=y, fingerprint="0" * 64
    )


@pytest.mark.parametrize("seed", WRONG, ids=repr)
@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_whole_number_within_the_bound_seeds_nothing(taker, seed):
    with pytest.raises(BioplausError, match="seed"):
        TAKERS[taker](seed)


@pytest.mark.parametrize("taker", TAKERS)
def test_the_smallest_and_the_largest_seed_are_taken_everywhere(taker):
    for seed in (0, MOST_SEED):
        TAKERS[taker](seed)


@pytest.mark.parametrize("seed", [1000.0, True, -1])
def test_training_refuses_a_seed_before_it_makes_its_folder(tmp_path, seed):
    task = images.load("synthetic", n_train=20, n_test=20)
    rule = rules.make("bp", {"n_units": [task.spec.n_in, 4, task.spec.n_out]}, task.spec)
    with pytest.raises(BioplausError, match="seed is"):
        train.fit(
            rule,
            task,
            n_epochs=1,
            batch_size=10,
            seed=seed,
            folder=tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_the_stream_of_a_seed_is_the_digest_of_its_decimal_text_whatever_its_integer_type():
    digest = hashlib.sha256(b"1000/rule").digest()
    expected = int.from_bytes(digest[:8], "little") >> 1
    for seed in (1000, np.int64(1000), np.uint8(232) + np.int64(768)):
        assert device.generator(seed, "rule").initial_seed() == expected


@pytest.mark.parametrize("value", [1.0, True, "1", None, np.float32(2)])
def test_counts_are_whole_numbers(value):
    with pytest.raises(BioplausError, match=r"n_epochs is .* must be a whole number"):
        train.check(n_epochs=value)
