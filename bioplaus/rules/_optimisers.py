"""Steps for rules that turn gradients into weight changes; all state in buffers, nothing asked of
the host.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bioplaus.errors import BioplausError
from bioplaus.rules._layered import tensors


class Optimiser(nn.Module):
    """Base: remembers per-weight averages of the layout of the weights, stepped in place.

    Parameters
    ----------
    weights : the tensors that will be stepped, in the order of `step`.
    n_averages : how many running averages to keep for each.
    """

    def __init__(self, weights: Sequence[Tensor], n_averages: int) -> None:
        super().__init__()
        self.averages = nn.ModuleList(
            tensors([torch.zeros_like(w) for w in weights]) for _ in range(n_averages)
        )

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Change `weights` in place.

        Parameters
        ----------
        weights, gradients : same shapes and memory order as given at the start; a matrix is a
            column-major `w_ff[k]`.
        lr : 0-d tensor, step size.
        """
        raise NotImplementedError


def in_memory_order(values: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor as a row-major one without copying: a matrix stored transposed becomes its
    transpose.
    """
    seen = [v if v.is_contiguous() else v.t() for v in values]
    if not all(v.is_contiguous() for v in seen):
        raise BioplausError(
            "the optimiser needs weights and gradients that are dense in memory; do not load a"
            " state with assign=True."
        )
    return seen


class Adam(Optimiser):
    """Adam (Kingma and Ba 2015) in the form of torch, or in the form of the paper.

    With averages m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, bias corrections c1 = 1 - b1^j,
    c2 = 1 - b2^j at step j = 1, 2, ..., and b1, b2 = 0.9, 0.999 unless given:

        torch    w -= lr (m / c1) / (sqrt(v / c2) + 1e-8)
        paper    w -= lr (sqrt(c2) / c1) m / (sqrt(v) + 1e-8)              the 1e-8 is not corrected

    Parameters
    ----------
    use_paper_form : the second line.
    use_ascent : add instead of subtracting: gradients of something to be maximised.
    epsilon : in place of 1e-8.
    betas : b1, b2.
    weight_decay : dimensionless; this times w is added to the gradient (in ascent subtracted).
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        *,
        use_paper_form: bool = False,
        use_ascent: bool = False,
        epsilon: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(weights, 2)
        self.use_paper_form, self.use_ascent, self.epsilon = use_paper_form, use_ascent, epsilon
        self.betas, self.weight_decay = betas, weight_decay
        self.register_buffer("count", torch.zeros(()))  # steps taken, j
        # a count at which torch's kernel corrects nothing any more: the paper's form corrects lr
        # instead
        self.register_buffer("never", torch.tensor(1e9), persistent=False)

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        self.count.add_(1)
        count, (beta1, beta2) = self.count, self.betas
        if self.use_paper_form:
            count64 = self.count.double()
            lr = (lr * (1 - beta2**count64).sqrt_().div_(1 - beta1**count64)).to(lr.dtype)
            count = self.never
        lists = [in_memory_order(list(part)) for part in (weights, gradients, *self.averages)]
        if not _has_fused(weights[0]):
            if self.weight_decay:
                sign = -1 if self.use_ascent else 1
                lists[1] = torch._foreach_add(lists[1], lists[0], alpha=sign * self.weight_decay)
            _adam(*lists, count, lr, self.betas, self.epsilon, self.use_ascent)
            return
        torch._fused_adam_(  # what torch.optim.Adam(fused=True) calls: one pass over memory
            *lists,
            [],
            [count.float()] * len(weights),
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=self.use_ascent,
        )


def _has_fused(weight: Tensor) -> bool:
    """Whether torch's fused kernel computes in this weight's precision: on a GPU it reads lr as
    float32.
    """
    return weight.dtype != torch.float64 or weight.device.type == "cpu"


def _adam(
    weights: list[Tensor],
    gradients: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    count: Tensor,
    lr: Tensor,
    betas: tuple[float, float],
    epsilon: float,
    use_ascent: bool,
) -> None:
    """One step in the form of torch, as in the docstring of `Adam`; in ascent m averages -g, as
    torch has it.
    """
    beta1, beta2 = betas
    count = count.double()
    if use_ascent:
        gradients = torch._foreach_neg(gradients)
    torch._foreach_lerp_(mean, gradients, 1 - beta1)
    torch._foreach_mul_(square, beta2)
    torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)
    scale = torch._foreach_sqrt(square)
    torch._foreach_div_(scale, (1 - beta2**count).sqrt_())
    torch._foreach_add_(scale, epsilon)
    change = torch._foreach_div(mean, scale)
    torch._foreach_mul_(change, lr / (1 - beta1**count))
    torch._foreach_sub_(weights, change)


class SGD(Optimiser):
    """Steps along the gradient as in torch: g <- gradient + decay w; buffer <- momentum buffer + g;
    w -= lr buffer.

    Parameters
    ----------
    momentum, weight_decay : dimensionless; 0 leaves that part out.
    use_ascent : add instead of subtracting: gradients of something to be maximised.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        use_ascent: bool = False,
    ) -> None:
        super().__init__(weights, 1 if momentum else 0)
        self.momentum, self.weight_decay, self.use_ascent = momentum, weight_decay, use_ascent

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        for k, (w, change) in enumerate(zip(weights, gradients, strict=True)):
            if self.weight_decay:
                change = torch.add(change, w, alpha=self.weight_decay)
            if self.momentum:
                change = self.averages[0][k].mul_(self.momentum).add_(change)
            w.addcmul_(change, lr, value=1 if self.use_ascent else -1)
