"""The one importer of torchvision: `from bioplaus._torchvision import datasets` (or `models`,
`utils`, `v2`).

torchvision is imported when a name is first asked for (it takes a second or two), not when this
module is. Beside some CPU builds of torch its binary operators do not load, and its import stops
with "operator torchvision::nms does not exist", because it attaches shape functions to two
operators that are then missing. Only after that very failure the schemas of the two are declared,
without a kernel, and the import is tried once more. What bioplaus uses (data sets, transforms of
images, layouts of networks) calls neither; `torchvision.ops` and `torchvision.io` might and are not
offered.
"""

import importlib
import sys
from types import ModuleType

import torch

from bioplaus.errors import BioplausError

_OFFERED = {
    "datasets": "torchvision.datasets",
    "models": "torchvision.models",
    "utils": "torchvision.utils",
    "v2": "torchvision.transforms.v2",
}
_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a schema lives as long as its Library object


def load() -> ModuleType:
    """Import torchvision, mending the one failure that this module is about.

    Raises
    ------
    BioplausError
        If torchvision is not installed, or fails to import in any other way.
    """
    try:
        return importlib.import_module("torchvision")
    except Exception as error:  # an incompatible pair can fail in any way
        _forget_half_import()
        if not isinstance(error, RuntimeError) or _SYMPTOM not in str(error) or _declared:
            raise _failure(error) from error
    _declare_operators()
    try:
        return importlib.import_module("torchvision")
    except Exception as error:
        _forget_half_import()
        raise _failure(error) from error


def __getattr__(name: str) -> ModuleType:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} offers {', '.join(_OFFERED)}, not {name!r}")
    load()
    return importlib.import_module(_OFFERED[name])


def _forget_half_import() -> None:
    """Drop the submodules that a failed import left behind; a second try must run them again."""
    for name in [
        name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")
    ]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)


def _failure(error: Exception) -> BioplausError:
    if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
        return BioplausError(
            "torchvision is not installed; install the release that belongs to torch "
            f"{torch.__version__} (pip install torchvision)."
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return BioplausError(
        f"torchvision could not be imported beside torch {torch.__version__} ({reason}); install"
        " the release that belongs to this torch."
    )
