"""Execute one notebook in a fresh kernel through papermill; used for simulations and for analysis
notebooks alike.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioplaus import _files
from bioplaus.errors import BioplausError, RunError, summary
from bioplaus.experiments import jupyter
from bioplaus.experiments.portable import portable

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def execute(
    source: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    kernel: str = "python3",
    log: Path | None = None,
    inside: Path | None = None,
) -> None:
    """Run the notebook `source` with `parameters` and write the executed copy to `output`.

    The copy has paths relative to the folder `inside`, as `portable` says.
    The kernel talks over files (ipc), not over network ports. What its cells print goes to `log` as
    well, whole or not at all, when the notebook ends.

    Raises
    ------
    BioplausError
        If a cell raised one: the same sentence.
    RunError
        If a cell raised anything else, or the kernel died; `traceback` on the exception holds the
        cell's traceback.
    """
    with jupyter.without_iri_grammar():
        import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    from bioplaus.experiments import warm

    warm.provide()
    output.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        with jupyter.kernel_options() as options:
            papermill.execute_notebook(
                str(source),
                str(output),
                dict(parameters),
                kernel_name=kernel,
                progress_bar=False,
                cwd=str(output.parent),
                config=Config(options["config"]),
                extra_arguments=options["extra_arguments"],
            )
    except papermill.exceptions.PapermillExecutionError as error:
        traceback = _COLOURS.sub("", "\n".join(error.traceback))
        if error.ename in ("BioplausError", "RunError"):
            raise _with(BioplausError(error.evalue), traceback) from None
        raise _with(RunError(_explain(source.name, error)), traceback) from None
    except (DeadKernelError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "kernel" not in str(error).lower():
            raise
        sentence = f"{source.name}: its kernel died ({error}); it was killed, or memory ran out."
        raise _with(RunError(sentence), sentence) from None
    finally:
        if output.is_file():
            _keep(output, log, inside)


def _keep(output: Path, log: Path | None, inside: Path | None) -> None:
    """Leave an executed notebook without paths of this machine, and what it printed in `log`."""
    notebook = _files.read_json(output)
    if isinstance(notebook, dict):  # a kernel that was killed may leave none
        notebook = portable(notebook, inside)
        _files.write_json(output, notebook)
    if log is not None:
        _files.write_atomic(log, _printed(notebook or {}).encode())


def _with(error: BioplausError, traceback: str) -> BioplausError:
    error.traceback = traceback
    return error


def _explain(name: str, error: Any) -> str:
    return f"{name}, cell {error.cell_index}: {summary(error.ename, error.evalue)}"


def _printed(notebook: dict[str, Any]) -> str:
    """What the cells of an executed notebook printed, in order."""
    outputs = (output for cell in notebook.get("cells", []) for output in cell.get("outputs", []))
    texts = ("".join(o.get("text", "")) or "\n".join(o.get("traceback", [])) for o in outputs)
    return _COLOURS.sub("", "\n".join(text.rstrip() for text in texts if text))
