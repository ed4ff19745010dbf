"""Shared parts of the rules that learn to describe images, truncation by truncation, an optimiser
step after each.

A caption w_0 ... w_{L-1} (w_0 the start token) is predicted from the image and w_0 ... w_{L-2}; n =
ceil(L / K) truncations of K predictions. Unlike in the other tasks of the papers the parameters
change within a batch.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.config import Config
from bioplaus.errors import BioplausError
from bioplaus.nets.captioner import Captioner
from bioplaus.rules._base import LearningRule, sparse_inputs
from bioplaus.rules._optimisers import Adam
from bioplaus.tasks import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptioningConfig(Config):
    """Fields of every rule that learns captions. Defaults: published, but for the vocabulary (9956
    words of COCO).
    """

    n_units: tuple[int, ...] = (
        2048,
        256,
        256,
        9956,
    )  # image features, embedding, hidden units, words
    n_truncation: int = 5  # words of a truncation, K
    dropout: float = (
        0.0  # fraction of the LSTM's inputs, image included, that is silenced in training
    )
    lr: float = 0.001  # step of Adam, dimensionless
    has_image_layer: bool = (
        True  # learn a linear layer and batch norm from features to embedding; else they are equal
    )

    def __post_init__(self) -> None:
        self.check("n_units", low=1)
        if len(self.n_units) != 4:
            raise BioplausError(
                f"n_units is {list(self.n_units)}, but must be four: image features, embedding,"
                " hidden units, words."
            )
        if not self.has_image_layer and self.n_units[0] != self.n_units[1]:
            raise BioplausError(
                f"n_units is {list(self.n_units)}: without an image layer features and embedding"
                " must have one width."
            )
        self.check("n_truncation", low=1)
        self.check("dropout", low=0, high=1, open_high=True)
        self.check("lr", low=0)


class CaptioningRule(LearningRule):
    """Base of the captioning rules.

    Attributes
    ----------
    net : `Captioner`, the cortex; parameters theta.
    watch : None, or called after each truncation's step as watch(number, loss, logits); loss 0-d
        and logits (batch, words, n_words) are from before the step.
    """

    def __init__(self, config: CaptioningConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_features, *widths = config.n_units
        self.net = Captioner(n_features if config.has_image_layer else None, *widths, generator)
        self.optimiser = Adam(list(self.net.parameters()))
        self.register_buffer("lr_now", torch.tensor(config.lr))
        self.watch = None

    @classmethod
    def check_task(cls, config: CaptioningConfig, spec: Spec) -> None:
        if spec.kind != "captions":
            raise BioplausError(
                f"{cls.key()} learns captions, but task {spec.name!r} is one of {spec.kind}."
            )
        if (config.n_units[0], config.n_units[-1]) != (spec.n_in, spec.n_out):
            raise BioplausError(
                f"n_units is {list(config.n_units)}, but task {spec.name!r} has {spec.n_in} image"
                f" features and {spec.n_out} words: n_units must start with {spec.n_in} and end"
                f" with {spec.n_out}."
            )
        if spec.n_steps is not None and config.n_truncation > spec.n_steps:
            raise BioplausError(
                f"n_truncation is {config.n_truncation}, but the longest caption of {spec.name!r}"
                f" has {spec.n_steps} words: it must be from 1 to {spec.n_steps}."
            )

    @classmethod
    def example_spec(cls, config: CaptioningConfig, n_steps: int | None = None) -> Spec:
        widths = config.n_units
        spec = Spec(
            name="example", kind="captions", n_in=widths[0], n_out=widths[-1], n_steps=n_steps or 8
        )
        cls.check_task(config, spec)
        return spec

    @classmethod
    def example_batch(
        cls,
        spec: Spec,
        n: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, ...]:
        """Features, (n, n_in), and captions of the longest length, (n, n_steps) int64."""
        x = sparse_inputs(generator, dtype, n, spec.n_in)
        return x, torch.randint(0, spec.n_out, (n, spec.n_steps), generator=generator)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr)  # after `.to`: in float64 not through float32

    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: int, step: int) -> dict[str, Tensor]:
        """Learn from captions of one length.

        Parameters
        ----------
        x : (batch, n_features), image features.
        y : (batch, L), int64, tokens from the start token to the end token.

        Returns
        -------
        "train_nll": cross-entropy per word, mean over batch and words, in nats.
        """
        n_words, k = y.shape[1], self.config.n_truncation
        state = self._zero_state(len(x))
        total = x.new_zeros(())
        for number, start in enumerate(range(0, n_words, k)):
            stop = min(start + k, n_words)
            words = y[:, max(start - 1, 0) : stop - 1]  # the first truncation starts with the image
            with torch.enable_grad():
                inputs = (
                    self.net.inputs(x, words, is_learning=True)
                    if start == 0
                    else self.net.embed(words)
                )
                loss, logits, state = self._fit_truncation(
                    self._drop(inputs), y[:, start:stop], state, is_last=stop == n_words
                )
            total = total + loss * (stop - start)
            if self.watch is not None:
                self.watch(number, loss, logits)
        return {"train_nll": total / n_words}

    def predict(self, x: Tensor) -> Tensor:
        """Scores of all words at 20 steps, (batch, 20, n_words), for image features x of (batch,
        n_features).

        The likeliest word of each step is the input of the next: the last axis' argmax is the
        generated caption.
        """
        with torch.no_grad():
            return self.net.generate(x)

    def nll(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy per word of captions y, teacher forced, in nats; 0-d."""
        with torch.no_grad():
            return functional.cross_entropy(self.net.scores(x, y).flatten(0, 1), y.flatten())

    def _fit_truncation(
        self, inputs: Tensor, targets: Tensor, state: Tensor, is_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step on one truncation: its loss (detached), its logits, the state it ends in
        (detached).
        """
        raise NotImplementedError

    def _forward(
        self, inputs: Tensor, targets: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits and end state [h ; c], (batch, 2 n_hidden), of one truncation that starts
        from `state`.
        """
        h, c = (part.contiguous().unsqueeze(0) for part in state.chunk(2, dim=1))
        out, (h, c) = self.net.rnn(inputs, (h, c))
        logits = self.net.linear(out)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss, logits, torch.cat([h[0], c[0]], dim=1)

    def _step(self, objective: Tensor, *more: Tensor) -> list[Tensor]:
        """Gradient of `objective`, one Adam step of theta; the gradients with respect to `more`."""
        theta = list(self.net.parameters())
        grads = torch.autograd.grad(objective, [*theta, *more], allow_unused=True)
        with torch.no_grad():
            found = [
                torch.zeros_like(p) if g is None else g for p, g in zip(theta, grads, strict=False)
            ]
            self.optimiser.step(theta, found, self.lr_now)
        return list(grads[len(theta) :])

    def _drop(self, inputs: Tensor) -> Tensor:
        if not self.config.dropout:
            return inputs
        keep = 1 - self.config.dropout
        mask = torch.rand(inputs.shape, generator=self.generator) < keep
        return inputs * mask.to(inputs) / keep

    def _zero_state(self, n: int) -> Tensor:
        return self.net.linear.weight.new_zeros(n, 2 * self.config.n_units[2])
