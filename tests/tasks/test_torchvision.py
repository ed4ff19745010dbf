"""torchvision is imported as it is; only one known failure is mended, and any other is one
sentence.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bioplaus import _torchvision
from bioplaus.errors import BioplausError

SYMPTOM = "operator torchvision::nms does not exist"


class RecordingLibrary:
    """Stands in for torch.library.Library and remembers the schemas: no test changes this process's
    operators.
    """

    schemas: list[str]

    def __init__(self, *arguments):
        assert arguments == ("torchvision", "FRAGMENT")

    def define(self, schema):
        self.schemas.append(schema)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """write(source) makes a torchvision whose import runs `source`; returns the list of schemas
    declared since.
    """
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(_torchvision, "_declared", [])
    monkeypatch.setattr(RecordingLibrary, "schemas", [], raising=False)
    monkeypatch.setattr(torch.library, "Library", RecordingLibrary)

    def write(source: str) -> list[str]:
        package = tmp_path / "site" / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
        (package / "extension.py").write_text("")
        (package / "datasets.py").write_text("name = 'fake data sets'")
        return RecordingLibrary.schemas

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def test_torchvision_imports_here_in_a_fresh_process_and_what_bioplaus_uses_of_it_works():
    code = (
        "import sys, torch\n"
        "from bioplaus import _torchvision\n"
        "assert 'torchvision' not in sys.modules\n"
        "from bioplaus._torchvision import datasets, models, utils, v2\n"
        "x = torch.arange(12.).reshape(1, 3, 2, 2)\n"
        "assert torch.equal(v2.functional.horizontal_flip(x), x.flip(-1))\n"
        "assert models.squeezenet1_1(weights=None, num_classes=2).classifier[1].out_channels == 2\n"
        "assert utils.make_grid(x).shape == (3, 2, 2)\n"
        "assert datasets.CIFAR100.base_folder == 'cifar-100-python'\n"
        "assert _torchvision.load() is sys.modules['torchvision']\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_no_operator_is_declared_when_torchvision_imports_by_itself(fake):
    schemas = fake("")
    assert _torchvision.datasets.name == "fake data sets"
    assert schemas == []


def test_after_the_known_failure_both_operators_are_declared_and_the_import_is_run_once_more(
    fake,
):
    schemas = fake(
        "import torch, builtins\n"
        "import torchvision.extension\n"
        "builtins.torchvision_tries = getattr(builtins, 'torchvision_tries', 0) + 1\n"
        f"if not torch.library.Library.schemas: raise RuntimeError('{SYMPTOM}')\n"
        "del builtins.torchvision_tries\n"
    )
    assert _torchvision.datasets.name == "fake data sets"
    assert [schema.split("(")[0] for schema in schemas] == ["nms", "qnms"]
    assert len(_torchvision._declared) == 1
    _torchvision.load()
    assert len(schemas) == 2


def test_when_the_mend_does_not_help_there_is_one_sentence_and_no_third_try(fake):
    schemas = fake(f"raise RuntimeError('{SYMPTOM}')")
    for _ in range(2):
        with pytest.raises(BioplausError, match="could not be imported beside torch") as caught:
            _torchvision.load()
        assert "\n" not in str(caught.value) and SYMPTOM in str(caught.value)
    assert len(schemas) == 2


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('operator torchvision::roi_align does not exist')",
        "raise OSError('libcudart.so.13: cannot\\n open shared object file')",
        "import no_such_module_of_torchvision",
        f"raise ImportError('{SYMPTOM}')",
    ],
)
def test_any_other_failure_is_one_sentence_and_declares_nothing(fake, source):
    schemas = fake("import torchvision.extension\n" + source)
    with pytest.raises(BioplausError, match="could not be imported beside torch") as caught:
        _torchvision.load()
    assert "\n" not in str(caught.value)
    assert schemas == []
    assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]


def test_a_missing_torchvision_is_named_as_missing(fake, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(BioplausError, match="torchvision is not installed"):
        _torchvision.load()


def test_parts_that_could_call_the_missing_operators_are_not_offered():
    for name in ("ops", "io"):
        with pytest.raises(AttributeError, match="datasets, models, utils, v2"):
            getattr(_torchvision, name)
