"""Networks whose logits are made of those of several trained ones; they predict and do not
learn.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bioplaus.errors import BioplausError


class Ensemble(nn.Module):
    """Mean of the members' logits, head by head (not of their probabilities), as published.

    Parameters
    ----------
    members : two or more networks with the same heads; each gives logits by head.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise BioplausError(
                f"An ensemble needs at least two members, but this one has {len(members)}."
            )
        self.members: Any = nn.ModuleList(members)

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by head, (batch, n_classes) each."""
        given = [member.logits(x) for member in self.members]
        if any(logits.keys() != given[0].keys() for logits in given):
            heads = " and ".join("/".join(logits) for logits in given)
            raise BioplausError(
                f"The members of an ensemble need the same heads, but these have {heads}."
            )
        return {head: torch.stack([logits[head] for logits in given]).mean(0) for head in given[0]}


class Specialists(nn.Module):
    """What a fine and a coarse network say together, without any training of the two together.

    With p the softmax of each network's logits and C(f) the superclass of class f:

        q(c)     = sum of p_fine(f) over f in c
        log p(c) = (log q(c) + log p_coarse(c)) / 2             up to a constant
        log p(f) = log p_fine(f) - log q(C(f)) + log p(C(f))    within c as the fine one says

    Parameters
    ----------
    fine, coarse : networks with a fine and with a coarse head.
    coarse_of : (n_classes,) int64, the superclass of each class.
    """

    coarse_of: Tensor

    def __init__(self, fine: nn.Module, coarse: nn.Module, coarse_of: Tensor) -> None:
        super().__init__()
        self.fine: Any = fine
        self.coarse: Any = coarse
        self.register_buffer("coarse_of", coarse_of)

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Log-probabilities, up to a constant, by head: "fine" (batch, n_classes) and "coarse"
        (batch, n_coarse).
        """
        fine, coarse = (
            self.fine.logits(x)["fine"].log_softmax(1),
            self.coarse.logits(x)["coarse"].log_softmax(1),
        )
        # (n_classes, n_coarse)
        inside = self.coarse_of[:, None] == torch.arange(coarse.shape[1], device=x.device)
        summed = fine[:, :, None].masked_fill(~inside, -torch.inf).logsumexp(1)
        both = (summed + coarse) / 2
        return {"fine": fine - summed[:, self.coarse_of] + both[:, self.coarse_of], "coarse": both}
