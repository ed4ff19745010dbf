"""3x3 convolution with padding 1 by Winograd's minimal filtering F(2x2, 3x3).

With rows and columns transformed alike, on four inputs d, three weights g and four products m:

    B^T d = (d0 - d2,  d1 + d2,  d2 - d1,  d1 - d3)
    G g   = (g0,  (g0 + g1 + g2) / 2,  (g0 - g1 + g2) / 2,  g2)
    A^T m = (m0 + m1 + m2,  m1 - m2 - m3)
    Y     = A^T [ (G w G^T) . (B^T x B) ] A         for every 4x4 patch of x, summed over channels

that is, 16 matrix products over 2x2 blocks of outputs, with 2.25 times fewer multiplications.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Slices = Tensor | Sequence[Tensor]  # tensors that an index tells apart


class Winograd(torch.autograd.Function):
    """y = x * w.

    The backward pass applies the transposed maps to the errors: the same number of products again
    for x and for w.

    References
    ----------
    Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016, section 4.1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x (batch, n_in, height, width), both even; weight (n_out, n_in, 3, 3) -> (batch, n_out,
        height, width).
        """
        n, c, height, width = x.shape
        # channels last: products need no copies
        padded = torch.nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        patches = _patches(padded)  # (16, blocks, n_in)
        # (n_out, 16, n_in)
        filters = torch.matmul(_filter_map(weight), weight.permute(0, 2, 3, 1).reshape(-1, 9, c))
        products = x.new_empty(16, patches.shape[1], len(weight))
        for k in range(16):
            torch.mm(patches[k], filters[:, k].t(), out=products[k])
        ctx.save_for_backward(patches, filters)
        ctx.size = (height, width)
        return _outputs(products, (n, height, width)).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, Tensor | None]:
        patches, filters = ctx.saved_tensors
        errors = _outputs_transposed(error.permute(0, 2, 3, 1).contiguous())  # (16, blocks, n_out)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            back = torch.empty_like(patches)
            for k in range(16):
                torch.mm(errors[k], filters[:, k], out=back[k])
            dx = _patches_transposed(back, (len(error), *ctx.size))[:, 1:-1, 1:-1].permute(
                0, 3, 1, 2
            )
        if ctx.needs_input_grad[1]:
            back = torch.empty_like(filters)
            for k in range(16):
                torch.mm(errors[k].t(), patches[k], out=back[:, k])
            dw = (
                torch.matmul(_filter_map(back).t(), back)
                .view(len(back), 3, 3, -1)
                .permute(0, 3, 1, 2)
            )
        return dx, dw


def _filter_map(like: Tensor) -> Tensor:
    """(16, 9): w -> G w G^T on flattened filters."""
    g = like.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(g, g)


def _four(d: Slices, out: Slices) -> None:
    """out = B^T d."""
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def _four_transposed(m: Slices, add_to: Slices) -> None:
    """add_to += B m; neighbouring patches overlap, so they add up."""
    add_to[0].add_(m[0])
    add_to[1].add_(m[1]).sub_(m[2]).add_(m[3])
    add_to[2].sub_(m[0]).add_(m[1]).add_(m[2])
    add_to[3].sub_(m[3])


def _two(m: Slices, out: Slices) -> None:
    """out = A^T m."""
    torch.add(m[0], m[1], out=out[0]).add_(m[2])
    torch.sub(m[1], m[2], out=out[1]).sub_(m[3])


def _two_transposed(y: Slices, out: Slices) -> None:
    """out = A y."""
    out[0].copy_(y[0])
    torch.add(y[0], y[1], out=out[1])
    torch.sub(y[0], y[1], out=out[2])
    torch.neg(y[1], out=out[3])


def _shifted(x: Tensor, dim: int) -> list[Tensor]:
    """Views of every second slice along `dim`, beginning with slice 0, 1, 2, 3: the members of
    overlapping fours.
    """
    n, before = x.shape[dim] - 2, (slice(None),) * dim
    return [x[(*before, slice(i, i + n, 2))] for i in range(4)]


def _patches(padded: Tensor) -> Tensor:
    """B^T x B of (n, height + 2, width + 2, c) as (16, n height/2 width/2, c)."""
    n, high, wide, c = padded.shape
    rows = padded.new_empty(4, n, (high - 2) // 2, wide, c)
    _four(_shifted(padded, 1), rows)
    both = padded.new_empty(4, 4, n, (high - 2) // 2, (wide - 2) // 2, c)
    _four(_shifted(rows, 3), both.unbind(1))
    return both.view(16, -1, c)


def _patches_transposed(back: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The transpose of `_patches`: (16, blocks, c) -> (n, height + 2, width + 2, c)."""
    n, height, width = size
    both = back.view(4, 4, n, height // 2, width // 2, -1)
    rows = back.new_zeros(4, n, height // 2, width + 2, both.shape[-1])
    _four_transposed(both.unbind(1), _shifted(rows, 3))
    padded = back.new_zeros(n, height + 2, width + 2, both.shape[-1])
    _four_transposed(rows, _shifted(padded, 1))
    return padded


def _blocks(y: Tensor) -> Tensor:
    """(n, height, width, c) seen as (2, 2, n, height/2, width/2, c): row and column within a block
    of 2x2 first.
    """
    n, height, width, c = y.shape
    return y.view(n, height // 2, 2, width // 2, 2, c).permute(2, 4, 0, 1, 3, 5)


def _outputs(products: Tensor, size: tuple[int, int, int]) -> Tensor:
    """A^T m A of (16, blocks, c) as (n, height, width, c)."""
    n, height, width = size
    m = products.view(4, 4, n, height // 2, width // 2, -1)
    rows = m.new_empty(2, *m.shape[1:])
    _two(m, rows)
    y = m.new_empty(n, height, width, m.shape[-1])
    _two(rows.unbind(1), _blocks(y).unbind(1))
    return y


def _outputs_transposed(error: Tensor) -> Tensor:
    """The transpose of `_outputs`: (n, height, width, c) -> (16, blocks, c)."""
    blocks = _blocks(error)
    rows = error.new_empty(4, *blocks.shape[1:])
    _two_transposed(blocks, rows)
    m = error.new_empty(4, 4, *blocks.shape[2:])
    _two_transposed(rows.unbind(1), m.unbind(1))
    return m.view(16, -1, error.shape[-1])
