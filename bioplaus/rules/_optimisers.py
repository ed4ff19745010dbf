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

    def _averages(self) -> list[list[Tensor]]:
        """The running averages, each a list by weight."""
        return [list(each) for each in self.averages if isinstance(each, nn.ParameterList)]

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Change `weights` in place.

        Parameters
        ----------
        weights, gradients : of the shapes given at the start; a gradient laid out in memory as its
            weight is not copied.
        lr : 0-d tensor, step size.
        """
        raise NotImplementedError


def alike(gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradients laid out in memory as the weights are; copied only where they are not."""
    return [
        g if g.stride() == w.stride() else torch.empty_like(w).copy_(g)
        for g, w in zip(gradients, weights, strict=True)
    ]


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

    count: Tensor
    never: Tensor

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
        gradients = alike(gradients, weights)
        weights, gradients, mean, square = (
            in_memory_order(part) for part in (weights, gradients, *self._averages())
        )
        if not _has_fused(weights[0]):
            self._step_written_out(weights, gradients, mean, square, count, lr)
            return
        # what torch.optim.Adam(fused=True) calls: one pass over memory
        torch._fused_adam_(
            weights,
            gradients,
            mean,
            square,
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

    def _step_written_out(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        mean: list[Tensor],
        square: list[Tensor],
        count: Tensor,
        lr: Tensor,
    ) -> None:
        """One step in the form of torch, as in the docstring; in ascent m averages -g, as torch has
        it.
        """
        (beta1, beta2), count = self.betas, count.double()
        for w, g, m, v in zip(weights, gradients, mean, square, strict=True):
            g = (-g if self.use_ascent else g) + self.weight_decay * w
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            scale = (v / (1 - beta2**count)).sqrt_().add_(self.epsilon)
            w.sub_(lr / (1 - beta1**count) * m / scale)


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
        averages = self._averages()
        for k, (w, change) in enumerate(zip(weights, gradients, strict=True)):
            if self.weight_decay:
                change = torch.add(change, w, alpha=self.weight_decay)
            if self.momentum:
                change = averages[0][k].mul_(self.momentum).add_(change)
            w.addcmul_(change, lr, value=1 if self.use_ascent else -1)


def _has_fused(weight: Tensor) -> bool:
    """Whether torch's fused kernel computes in this weight's precision: on a GPU it reads lr as
    float32.
    """
    return weight.dtype != torch.float64 or weight.device.type == "cpu"
