"""A trained learner in one file: its rule's key, its config and its weights, without the
optimiser's state.
"""

import io
from pathlib import Path

import torch

from bioplaus import _files, rules
from bioplaus.errors import BioplausError
from bioplaus.rules import LearningRule

NAME = "network.pt"  # in a run's folder


def save(rule: str, learner: LearningRule, path: str | Path) -> None:
    """Save the weights of `learner`, of the rule with key `rule`, whole or not at all.

    Raises
    ------
    BioplausError
        If the file cannot be written.
    """
    state = {
        name: value
        for name, value in learner.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    buffer = io.BytesIO()
    torch.save({"rule": rule, "config": learner.config.to_dict(), "state": state}, buffer)
    _files.write_atomic(Path(path), _files.seal(buffer.getvalue()))


def load(
    path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LearningRule:
    """The learner that `save` wrote, in evaluation mode. Nothing in the file is executed.

    Raises
    ------
    BioplausError
        For a file that is missing, cut short, damaged, foreign, of another version of its rule, or
        with numbers that are not finite as `dtype`; it is named.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _files.unreadable(path, error, "the trained network") from error
    content = _files.unseal(content, path)
    try:
        saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        rule, config, state = (saved[name] for name in ("rule", "config", "state"))
        kinds = {(type(name), type(value)) for name, value in state.items()}
    except Exception as error:  # a file that was not written here can raise anything
        raise BioplausError(f"{path} holds no trained network ({type(error).__name__}).") from error
    if kinds - {(str, torch.Tensor)} or not isinstance(rule, str) or not isinstance(config, dict):
        raise BioplausError(f"{path} holds no trained network of bioplaus.")
    learner = rules.make(rule, config, device=device, dtype=dtype)
    own = {
        name: value
        for name, value in learner.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    differing = [
        name
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if differing:
        raise BioplausError(
            f"{path} does not fit rule {rule} of this version: {', '.join(differing[:6])} differ."
        )
    learner.load_state_dict(state, strict=False)  # only the optimiser and the stream are not there
    for name, value in learner.state_dict().items():
        if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
            raise BioplausError(f"{path} holds a {name} that is not finite as {value.dtype}.")
    return learner.eval()


def find(name: str, folder: str | Path) -> Path:
    """Where a trained network lies: a file that ends in .pt, or the run called `name` beside the
    run in `folder`.
    """
    return Path(name) if name.endswith(".pt") else Path(folder).parent / name / NAME
