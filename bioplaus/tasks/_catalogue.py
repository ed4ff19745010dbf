"""Which data sets there are: where each comes from, what its files are called, and the digests by
which they are known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bioplaus.tasks import _idx, _pixels
from bioplaus.tasks._pixels import About, Images


@dataclass(frozen=True)
class File:
    """A file of a data set: path inside the root, published MD5 (None: its reader checks digests),
    size in bytes.
    """

    path: str
    md5: str | None = None
    n_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Entry(About):
    """A data set of the catalogue."""

    source: str  # where it comes from, for people
    # from the bytes of `files`, each checked, to images; with a folder for copies if it wants one
    decode: Callable[..., Images]
    files: tuple[File, ...] = ()  # none where nothing needs to be on disk
    torchvision: str | None = None  # the torchvision class that knows where it is on the network
    packed: dict[str, int] = field(default_factory=dict)  # what is downloaded: bytes by name
    shuffled: "Shuffled | None" = None  # a form that is read where the files are missing
    is_kept: bool = False  # whether decoding takes long, so that a copy is kept


@dataclass(frozen=True)
class Shuffled:
    """The images of a published set in another order, in a .npz as `read` describes it."""

    path: str  # inside the root
    sha256: str  # of all images and labels, sorted
    remark: str  # for records


def _counts(train: list[int], test: list[int]) -> dict[str, np.ndarray]:
    """Images of each fine class."""
    return {"train": np.array(train), "test": np.array(test)}


def _packed(*sizes: int) -> dict[str, int]:
    """Bytes of the packed files that are downloaded, by name."""
    return {f"{name}.gz": n for name, n in zip(_idx.NAMES, sizes, strict=True)}


def _idx_files(folder: str, *md5: str) -> tuple[File, ...]:
    sizes = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
    return tuple(
        File(f"{folder}/raw/{name}", digest, n_bytes)
        for name, digest, n_bytes in zip(_idx.NAMES, md5, sizes, strict=True)
    )


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="synthetic",
            source="generated: a smoke test, no data",
            shape=(1, 8, 8),
            n_train=400,
            n_test=200,
            n_classes={"fine": 10, "coarse": 5},
            counts=_counts([40] * 10, [20] * 10),
            decode=_pixels.synthetic,
        ),
        Entry(
            name="synthetic-color",
            source="generated, with the shapes of CIFAR-100: a smoke test, no data",
            shape=(3, 32, 32),
            n_train=1_000,
            n_test=500,
            n_classes={"fine": 100, "coarse": 20},
            counts=_counts([10] * 100, [5] * 100),
            decode=_pixels.synthetic,
        ),
        Entry(
            name="digits",
            source=(
                "UCI optical recognition of handwritten digits (1998), as shipped with scikit-learn"
            ),
            shape=(1, 8, 8),
            n_train=1_440,
            n_test=357,
            n_classes={"fine": 10},
            counts=_counts([144] * 10, [34, 38, 33, 39, 37, 38, 37, 35, 30, 36]),
            top=16,
            decode=_pixels.digits,
        ),
        Entry(
            name="mnist",
            source="LeCun, Cortes, Burges (1998); 12 MB to download",
            shape=(1, 28, 28),
            n_train=60_000,
            n_test=10_000,
            n_classes={"fine": 10},
            counts=_counts(
                [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
                [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
            ),
            decode=_pixels.idx,
            torchvision="MNIST",
            packed=_packed(9_912_422, 28_881, 1_648_877, 4_542),
            files=_idx_files(
                "MNIST",
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        Entry(
            name="fashion-mnist",
            source="Xiao, Rasul, Vollgraf (2017), Zalando Research, MIT licence; 31 MB to download",
            shape=(1, 28, 28),
            n_train=60_000,
            n_test=10_000,
            n_classes={"fine": 10},
            counts=_counts([6000] * 10, [1000] * 10),
            decode=_pixels.idx,
            torchvision="FashionMNIST",
            packed=_packed(26_421_880, 29_515, 4_422_102, 5_148),
            files=_idx_files(
                "FashionMNIST",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
        Entry(
            name="cifar10",
            source="Krizhevsky (2009); 170 MB to download",
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 10},
            counts=_counts([5000] * 10, [1000] * 10),
            decode=_pixels.cifar,
            torchvision="CIFAR10",
            packed={"cifar-10-python.tar.gz": 170_498_071},
            files=(
                File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
                File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
                File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),
                File("cifar-10-batches-py/batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
            ),
        ),
        Entry(
            name="cifar100",
            source="Krizhevsky (2009); 169 MB to download",
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 100, "coarse": 20},
            counts=_counts([500] * 100, [100] * 100),
            decode=_pixels.cifar,
            torchvision="CIFAR100",
            packed={"cifar-100-python.tar.gz": 169_001_437},
            shuffled=Shuffled(
                "cifar100.npz",
                "766a1c99050103921eb7bec26dfff7ab31afcacc6e2cfd4142eee1b338970f9a",
                "order of the images differs from the original",
            ),
            files=(
                File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),
                File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
                File("cifar-100-python/meta", "7973b15100ade9c7d40fb424638fde48"),
            ),
        ),
        Entry(
            name="cifar10-jpeg",
            source=(
                "CIFAR-10 recompressed as JPEG (quality 75, colour halved): NOT the original pixels"
            ),
            shape=(3, 32, 32),
            n_train=50_000,
            n_test=10_000,
            n_classes={"fine": 10},
            counts=_counts([5000] * 10, [1000] * 10),
            decode=_pixels.cifar_jpeg,
            is_kept=True,
            files=(File("cifar10_jpeg.npz"),),
        ),
    )
}
