"""Checkpoints of a training: written whole, read without executing anything, resumed only where
they belong.
"""

import io
import time
from pathlib import Path
from typing import Any

import torch

from bioplaus import _files
from bioplaus.errors import BioplausError


class Checkpoints:
    """The newest checkpoint of a training and the one before it, each sealed with its digest.

    Parameters
    ----------
    folder : where they are kept, with `progress.json`; made if it is missing.
    identity : what must be equal for a checkpoint to belong to this training, as builtins.

    Attributes
    ----------
    passed_over : why the first checkpoint that was there was not resumed, where none was.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.newest, self.previous = folder / "checkpoint.pt", folder / "checkpoint.previous.pt"
        self.progress = folder / "progress.json"
        self.identity = identity
        self.passed_over = ""
        self.is_newest_good = False  # whether the newest is one to fall back on
        self.saved_at = time.monotonic()
        _files.make_folder(folder, parents=False)  # not the folder of a run that was moved away
        _files.sweep(folder)

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of this very training, or None; why one is passed over is
        printed.

        Raises
        ------
        BioplausError
            If one is there that cannot be read: it may be a good one, so nothing is trained over
            it.
        """
        reasons = []
        for path in (self.newest, self.previous):
            if (sealed := _files.read(path)) is None:
                continue
            saved, reason = self._open(sealed, path)
            if saved is not None:
                self.is_newest_good = path == self.newest
                return saved
            reasons.append(reason)
        self.passed_over = f"its checkpoint {reasons[0]}" if reasons else ""
        return None

    def _open(self, sealed: bytes, path: Path) -> tuple[dict[str, Any] | None, str]:
        """The content of a checkpoint of this training; or None, and why, which is printed."""
        try:
            content = _files.unseal(sealed, path)
            saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            # a checkpoint made before these were noted may be resumed; all ran on the CPU
            identity = {"code": self.identity["code"], "device": "cpu", **saved["identity"]}
        except BioplausError as error:
            print(f"{error} Going on from the checkpoint before it, if there is one.")
            return None, "is damaged"
        except Exception as error:  # a file that is whole, but no checkpoint of this version
            print(
                f"{path.name} is no checkpoint that can be read ({type(error).__name__}); it is"
                " passed over."
            )
            return None, "cannot be read"
        if identity == self.identity:
            return saved, ""
        changed = [name for name, value in self.identity.items() if identity.get(name) != value]
        rule = self.identity["rule"].rpartition(".")[2]
        reason = (
            f"was made with other code of rule {rule}"
            if changed == ["code"]
            else f"is of another training ({', '.join(changed)} differ)"
        )
        print(f"{path.name} {reason}; it is not resumed.")
        return None, reason

    def write_progress(self, n_done: int, last: dict[str, float] | None) -> None:
        """Say in `progress.json` how many epochs are done, what the last evaluation measured, and
        why training did not go on from a checkpoint that was there.
        """
        _files.write_json(
            self.progress,
            {
                "epochs_done": n_done,
                "n_epochs": self.identity["n_epochs"],
                "last": last,
                "passed_over": self.passed_over,
            },
        )

    def save(self, state: dict[str, Any], *, least_seconds: float = 0.0) -> None:
        """Keep the state after an epoch, unless the last save is less than so many seconds ago."""
        if time.monotonic() - self.saved_at < least_seconds:
            return
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, **state}, buffer)
        # else the one before it may be the only one there is
        if self.is_newest_good and self.newest.is_file():
            self.is_newest_good = False
            self.newest.replace(self.previous)
        _files.write_atomic(self.newest, _files.seal(buffer.getvalue()))
        self.is_newest_good = True
        self.saved_at = time.monotonic()
