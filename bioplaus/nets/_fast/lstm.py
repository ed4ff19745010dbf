"""Truncated back-propagation through time in closed form, for the networks of `nets.lstm`.

A sequence of T steps is cut into n = ceil(T / K) truncations of K steps (the last may be shorter).
With one parameter value for the whole sequence the states of all steps follow from one forward
pass, and the gradients inside the truncations do not depend on each other: the backward pass
therefore walks all truncations at once, K steps over a batch n times as large. Arrays are laid out
for that: (K, n, batch, features), time within the truncation first.
"""

import math

import torch
from torch import Tensor

from bioplaus.nets.lstm import Recurrent


def fold(x: Tensor, k: int, out: Tensor | None = None) -> Tensor:
    """Sequences (batch, T, features) cut into truncations of k steps: (k, n, batch, features), zero
    beyond the end.
    """
    (n_batch, n_steps, n_features), n_full = x.shape, x.shape[1] // k
    if out is None:
        out = x.new_zeros(k, math.ceil(n_steps / k), n_batch, n_features)
    out[:, :n_full].copy_(x[:, : n_full * k].unflatten(1, (n_full, k)).permute(2, 1, 0, 3))
    if n_full * k < n_steps:
        out[: n_steps - n_full * k, -1].copy_(x[:, n_full * k :].transpose(0, 1))
    return out


class Trace:
    """What a forward pass leaves for the backward pass, in memory that the next pass of the same
    shape overwrites.

    Attributes
    ----------
    n_last : steps in the last truncation, from 1 to K; what lies beyond them in the arrays is zero.
    x : (K, n, batch, n_in), the inputs.
    h : (K + 1, n, batch, n_hidden); h[0] are the states that truncations start from, h[j + 1] those
        after step j.
    c : the same of an LSTM's cell states; (0,) of a network without.
    states : (n + 1, batch, n_state): z_0 = 0 and the states [h ; c] that the truncations end in.
        Truncation k starts from states[k] and ends in states[k + 1].
    gates : (K, n, batch, n_gates, n_hidden): first the gates' inputs, then their activities.
    d_gates : the same shape: gradient with respect to the gates' inputs.
    local : the same shape: local derivatives of the backward pass.
    """

    def __init__(self, passes: "Passes", n_batch: int, n_steps: int, k: int) -> None:
        net, n = passes.net, math.ceil(n_steps / k)
        n_in, n_hidden = net.rnn.input_size, net.n_hidden
        self.n_last = n_steps - (n - 1) * k
        weight = net.linear.weight
        self.x = weight.new_zeros(k, n, n_batch, n_in)
        self.h = weight.new_zeros(k + 1, n, n_batch, n_hidden)
        self.c = torch.zeros_like(self.h) if net.n_state > n_hidden else weight.new_zeros(0)
        self.states = weight.new_zeros(n + 1, n_batch, net.n_state)
        self.inputs = weight.new_zeros(k, n, n_batch, passes.n_gates, n_hidden)
        self.gates, self.local = torch.zeros_like(self.inputs), torch.zeros_like(self.inputs)
        # the gates' inputs are not needed any more when the backward pass starts
        self.d_gates = self.inputs
        self.squashed, self.h_to_c = torch.zeros_like(self.h[1:]), torch.zeros_like(self.h[1:])
        # views are not free: they are made once
        self.forward_steps = [passes.forward_views(self, t % k, t // k) for t in range(n_steps)]
        self.backward_steps = passes.backward_views(self, slice(None))

    def close(self) -> None:
        """Copy the states at the truncations' ends to `states`, and to where the next truncations
        start from.
        """
        n_hidden = self.h.shape[-1]
        for part, columns in ((self.h, slice(n_hidden)), (self.c, slice(n_hidden, None))):
            if len(part):
                self.states[1:-1, :, columns].copy_(part[-1, :-1])
                self.states[-1, :, columns].copy_(part[self.n_last, -1])
                part[0].copy_(self.states[:-1, :, columns])


class Passes:
    """Forward and backward pass of a network over all truncations of a batch.

    Parameters
    ----------
    net : the network, whose parameters are used as they are at each call.

    Attributes
    ----------
    n_gates : 4 of an LSTM, 1 of a tanh network.
    """

    n_gates: int

    def __init__(self, net: Recurrent) -> None:
        self.net = net
        self._traces: dict[tuple[int, ...], Trace] = {}

    def clear(self) -> None:
        """Drop the memory of earlier batches: it may be of another device or dtype."""
        self._traces.clear()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_traces": {}}

    def run(self, x: Tensor, n_truncation: int) -> Trace:
        """Forward pass over the whole sequence, keeping what the backward pass needs.

        Parameters
        ----------
        x : (batch, T, n_in).
        n_truncation : K, from 1 to T.
        """
        key = (x.shape[0], x.shape[1], n_truncation)
        if key not in self._traces:
            self._traces[key] = Trace(self, *key)
        trace = self._traces[key]
        fold(x, n_truncation, out=trace.x)
        w_ih, _, b_ih, b_hh = self.net.weights
        torch.addmm(
            b_ih + b_hh, trace.x.flatten(0, 2), w_ih.t(), out=trace.inputs.view(-1, len(w_ih))
        )
        self._forward(trace)
        trace.close()
        return trace

    def backward(self, trace: Trace, d_h: Tensor | None, d_end: Tensor) -> Tensor:
        """Gradient of the truncations' objectives, each followed back to its own start and no
        further.

        Afterwards `trace.d_gates` holds the gradient with respect to the gates' inputs.

        Parameters
        ----------
        d_h : (K, n, batch, n_hidden), gradient of the loss with respect to h after each step, or
            None.
        d_end : (n, batch, n_state), gradient with respect to the state each truncation ends in.

        Returns
        -------
        Gradient with respect to the states the truncations start from, (n, batch, n_state).
        """
        self._differentiate(trace)
        return self._walk(trace.backward_steps, d_h, d_end, trace.n_last)

    def backward_through(self, trace: Trace, d_h: Tensor | None, d_end: Tensor) -> Tensor:
        """Gradient of the whole loss with respect to the states truncations start from, followed
        back without a cut.

        Arguments as in `backward`, but only the last row of `d_end` can be other than zero:
        truncation n - 1 is followed back to its start, what arrives there is handed to the end of
        truncation n - 2, and so on.
        """
        self._differentiate(trace)
        k, n = trace.h.shape[0] - 1, len(d_end)
        carried, arrived = d_end[-1:], []
        for index in reversed(range(n)):
            part = slice(index, index + 1)
            steps = self.backward_views(trace, part)
            carried = self._walk(
                steps,
                None if d_h is None else d_h[:, part],
                carried,
                trace.n_last if index == n - 1 else k,
            )
            arrived.append(carried)
        return torch.cat(arrived[::-1])

    def gradients(self, trace: Trace, out: list[Tensor]) -> None:
        """Write the gradients of the recurrent layer's parameters into `out`, in the order of
        `rnn.parameters()`.

        dW_ih = sum d_gates x^T ; dW_hh = sum d_gates h_prev^T ; db_ih = db_hh = sum d_gates
        """
        w_ih, w_hh, b_ih, b_hh = out
        rows = trace.d_gates.view(-1, len(w_ih))
        torch.mm(rows.t(), trace.x.flatten(0, 2), out=w_ih)
        torch.mm(rows.t(), trace.h[:-1].flatten(0, 2), out=w_hh)
        torch.sum(rows, 0, out=b_ih)
        b_hh.copy_(b_ih)

    def forward_views(self, trace: Trace, j: int, k: int) -> tuple[Tensor, ...]:
        """What the forward pass touches at step j of truncation k."""
        raise NotImplementedError

    def backward_views(self, trace: Trace, part: slice) -> list[tuple[Tensor, ...]]:
        """What the backward pass over the truncations `part` touches at each step j."""
        raise NotImplementedError

    def _forward(self, trace: Trace) -> None:
        """Fill the trace step by step from the zero state; the gates' inputs hold W_ih x + b of all
        steps.
        """
        raise NotImplementedError

    def _differentiate(self, trace: Trace) -> None:
        """Local derivatives of every step, all computed at once."""
        raise NotImplementedError

    def _walk(
        self, steps: list[tuple[Tensor, ...]], d_h: Tensor | None, d_end: Tensor, n_last: int
    ) -> Tensor:
        """Walk back from the last to the first step of the truncations; gradient at the states they
        start from.
        """
        raise NotImplementedError


def _before(part: Tensor, j: int, k: int) -> Tensor:
    """The state before step j of truncation k."""
    return part[j, k] if j > 0 or k == 0 else part[-1, k - 1]


class LSTMPasses(Passes):
    """Of a long short-term memory."""

    n_gates = 4

    def forward_views(self, trace: Trace, j: int, k: int) -> tuple[Tensor, ...]:
        inputs, gates = trace.inputs[j, k], trace.gates[j, k]
        states = (
            _before(trace.h, j, k),
            _before(trace.c, j, k),
            trace.squashed[j, k],
            trace.h[j + 1, k],
        )
        return (
            inputs.flatten(1),
            inputs,
            inputs[:, 2],
            gates,
            *gates.unbind(1),
            *states,
            trace.c[j + 1, k],
        )

    def backward_views(self, trace: Trace, part: slice) -> list[tuple[Tensor, ...]]:
        local, d_gates = trace.local[:, part], trace.d_gates[:, part]
        arrays = (local[..., :3, :], local[..., 3, :], d_gates[..., :3, :], d_gates[..., 3, :])
        arrays += (d_gates.flatten(-2), trace.h_to_c[:, part], trace.gates[:, part, :, 1])
        return list(zip(*arrays, strict=True))

    def _forward(self, trace: Trace) -> None:
        w_hh = self.net.weights[1].t().contiguous()
        for (
            flat,
            inputs,
            inputs_g,
            gates,
            i,
            f,
            g,
            o,
            h,
            c,
            squashed,
            new_h,
            new_c,
        ) in trace.forward_steps:
            flat.addmm_(h, w_hh)
            torch.sigmoid(inputs, out=gates)
            torch.tanh(inputs_g, out=g)
            torch.mul(f, c, out=new_c).addcmul_(i, g)
            torch.mul(o, torch.tanh(new_c, out=squashed), out=new_h)

    def _differentiate(self, trace: Trace) -> None:
        """local: dc'/d(inputs of i, f, g) and dh'/d(input of o); h_to_c: dh'/dc'. (dc'/dc is f
        itself.)
        """
        gates, local = trace.gates, trace.local
        i, _, g, o = gates.unbind(-2)
        torch.addcmul(gates, gates, gates, value=-1, out=local)  # slope of the logistic function
        local_i, local_f, local_g, local_o = local.unbind(-2)
        local_i.mul_(g)
        local_f.mul_(trace.c[:-1])
        torch.mul(g, g, out=local_g)
        torch.addcmul(i, i, local_g, value=-1, out=local_g)
        local_o.mul_(trace.squashed)
        torch.mul(trace.squashed, trace.squashed, out=trace.h_to_c)
        torch.addcmul(o, o, trace.h_to_c, value=-1, out=trace.h_to_c)

    def _walk(
        self, steps: list[tuple[Tensor, ...]], d_h: Tensor | None, d_end: Tensor, n_last: int
    ) -> Tensor:
        w_hh = self.net.weights[1]
        d_end_h, d_end_c = d_end.chunk(2, dim=-1)
        dh, dc = d_end_h.contiguous().clone(), d_end_c.contiguous().clone()
        if n_last < len(steps):
            dh[-1], dc[-1] = (
                0,
                0,
            )  # the shorter truncation joins when the walk reaches its last step
        flat_dh, per_gate_dc = dh.view(-1, dh.shape[-1]), dc.unsqueeze(-2)
        for j in reversed(range(len(steps))):
            local_ifg, local_o, d_ifg, d_o, d_gates, h_to_c, f = steps[j]
            if j == n_last - 1 < len(steps) - 1:
                dh[-1], dc[-1] = d_end_h[-1], d_end_c[-1]
            if d_h is not None:
                dh.add_(d_h[j])
            dc.addcmul_(dh, h_to_c)
            torch.mul(local_ifg, per_gate_dc, out=d_ifg)
            torch.mul(local_o, dh, out=d_o)
            torch.mm(d_gates.reshape(len(flat_dh), -1), w_hh, out=flat_dh)
            dc.mul_(f)
        return torch.cat([dh, dc], dim=-1)


class TanhPasses(Passes):
    """Of a tanh network."""

    n_gates = 1

    def forward_views(self, trace: Trace, j: int, k: int) -> tuple[Tensor, ...]:
        return trace.inputs[j, k, :, 0], _before(trace.h, j, k), trace.h[j + 1, k]

    def backward_views(self, trace: Trace, part: slice) -> list[tuple[Tensor, ...]]:
        return list(zip(trace.local[:, part, :, 0], trace.d_gates[:, part, :, 0], strict=True))

    def _forward(self, trace: Trace) -> None:
        w_hh = self.net.weights[1].t().contiguous()
        for inputs, h, new_h in trace.forward_steps:
            torch.tanh(inputs.addmm_(h, w_hh), out=new_h)

    def _differentiate(self, trace: Trace) -> None:
        """local: dh'/d(input)."""
        local = trace.local[..., 0, :]
        torch.mul(trace.h[1:], trace.h[1:], out=local)
        torch.sub(1, local, out=local)

    def _walk(
        self, steps: list[tuple[Tensor, ...]], d_h: Tensor | None, d_end: Tensor, n_last: int
    ) -> Tensor:
        w_hh, dh = self.net.weights[1], d_end.clone()
        if n_last < len(steps):
            dh[-1] = 0
        for j in reversed(range(len(steps))):
            local, d_gates = steps[j]
            if j == n_last - 1 < len(steps) - 1:
                dh[-1] = d_end[-1]
            if d_h is not None:
                dh.add_(d_h[j])
            torch.mul(local, dh, out=d_gates)
            torch.mm(d_gates.reshape(-1, dh.shape[-1]), w_hh, out=dh.view(-1, dh.shape[-1]))
        return dh


PASSES: dict[str, type[Passes]] = {"lstm": LSTMPasses, "tanh": TanhPasses}
