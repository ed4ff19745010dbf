"""Image captions by truncated back-propagation through time: the cortical network (cRNN) without a
cerebellum.

Baseline of the captioning experiment of Boven et al. (2023, figure 8). A caption w_0 ... w_{L-1}
(w_0 the start token) is predicted from the image and w_0 ... w_{L-2}, in truncations
k = 0, 1, ... of K words (the last may be shorter). Unlike in the other tasks of the papers the
parameters theta change after every truncation. With z_k = [h ; c] the state that truncation k
starts from, and z_0 = 0:

    z_{k+1} = the LSTM's state after the words of truncation k, from z_k held fixed
    L_k     = cross-entropy of its words, mean over batch and words
    theta   <- theta - Adam(dL_k/dtheta + weight_decay theta)
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bioplaus.config import Config as BaseConfig
from bioplaus.config import added
from bioplaus.errors import BioplausError
from bioplaus.nets.captioner import Captioner
from bioplaus.rules._base import BenchmarkCase, Count, LearningRule, sparse_inputs
from bioplaus.rules._optimisers import Adam
from bioplaus.tasks import Spec

_SMALL = {"n_units": [256, 64, 64, 60], "n_truncation": 4}
BENCHMARK = (
    BenchmarkCase(label="256-64-64-60, L 12, K 4", batch_size=50, n_steps=12, values=_SMALL),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """Defaults: as published, before dropout 0.5 of the figure, but for the vocabulary (9956 words
    of COCO).
    """

    # image features, embedding, hidden units, words
    n_units: tuple[int, ...] = (2048, 256, 256, 9956)
    n_truncation: int = 5  # words of a truncation, K
    # fraction of the LSTM's inputs, image included, that is silenced in training
    dropout: float = 0.0
    lr: float = 0.001  # step of Adam, dimensionless
    weight_decay: float = added(0.0)  # L2 penalty, added to the gradient; published: option l2
    # learn a linear layer and batch norm from features to embedding; else they are equal
    has_image_layer: bool = True

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
        self.check("weight_decay", low=0)


class Rule(LearningRule):
    """One truncation after the other, an optimiser step after each.

    Attributes
    ----------
    net : `Captioner`, the cortex; parameters theta.
    watch : hears of phase "truncation", t = k, after its step: "loss" [0-d] and "logits" [(batch,
        words, n_words)] from before it.

    References
    ----------
    Boven et al., Cerebro-cerebellar networks facilitate learning through feedback decoupling, Nat.
    Commun. 14:51, 2023.

    Deviations
    ----------
    The published image layer comes from a public checkpoint of a tutorial and is frozen; ours is
    learned with the rest (its option `train_enc`), but normalised by running statistics as the
    frozen one is, not by a batch's. Features are computed once, so images are not cropped and
    flipped at random.
    """

    config: Config
    lr_now: Tensor

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        n_features, n_embedded, n_hidden, n_words = config.n_units
        self.net = Captioner(
            n_features if config.has_image_layer else None, n_embedded, n_hidden, n_words, generator
        )
        self.optimiser = Adam(list(self.net.parameters()), weight_decay=config.weight_decay)
        self.register_buffer("lr_now", torch.tensor(config.lr))

    @classmethod
    def check_task(cls, config: Config, spec: Spec) -> None:
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
    def least_batch(cls, config: Config) -> int:
        return 2 if config.has_image_layer else 1  # its norm follows the spread of a batch

    @classmethod
    def example_spec(cls, config: Config, n_steps: int | None = None) -> Spec:
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
        return x, torch.randint(0, spec.n_out, (n, spec.n_steps or 1), generator=generator)

    def begin_epoch(self, epoch: int, n_batches: int) -> None:
        self.lr_now.fill_(self.config.lr)  # after `.to`: in float64 not through float32

    def fit_batch(self, x: Tensor, y: Tensor, *, epoch: Count, step: Count) -> dict[str, Tensor]:
        """Learn from captions of one length.

        Parameters
        ----------
        x : (batch, n_features), image features.
        y : (batch, L), int64, tokens from the start token to the end token.

        Returns
        -------
        "train_nll": cross-entropy per word, mean over batch and words, in nats.
        """
        n_words = y.shape[1]
        z, total = self.net.zero_state(len(x)), x.new_zeros(())
        for k, start in enumerate(range(0, n_words, self.config.n_truncation)):
            stop = min(start + self.config.n_truncation, n_words)
            if start == 0:
                inputs = self.net.inputs(x, y[:, : stop - 1], is_learning=True)
            else:
                inputs = self.net.embed(y[:, start - 1 : stop - 1])
            loss, logits, z = self._learn(
                self._drop(inputs), y[:, start:stop], z.detach(), is_last=stop == n_words
            )
            total = total + loss.detach() * (stop - start)
            if self.watch is not None:
                self.watch("truncation", k, {"loss": [loss.detach()], "logits": [logits.detach()]})
        return {"train_nll": total / n_words}

    def _learn(
        self, inputs: Tensor, words: Tensor, z: Tensor, *, is_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step on one truncation: L_k and the logits before it, and z_{k+1}."""
        loss, logits, end = self._run(inputs, words, z)
        theta = list(self.net.parameters())
        self._descend(torch.autograd.grad(loss, theta, materialize_grads=True))
        return loss, logits, end

    def _run(self, inputs: Tensor, words: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_k, logits and z_{k+1} of a truncation that starts from z."""
        logits, end = self.net(inputs, z)
        return functional.cross_entropy(logits.flatten(0, 1), words.flatten()), logits, end

    @torch.no_grad()
    def _descend(self, d_theta: Sequence[Tensor]) -> None:
        self.optimiser.step(list(self.net.parameters()), d_theta, self.lr_now)

    def _drop(self, inputs: Tensor) -> Tensor:
        """The inputs of which a fraction is 0 and the others are larger by as much."""
        if not self.config.dropout:
            return inputs
        keep = 1 - self.config.dropout
        mask = torch.rand(inputs.shape, generator=self.generator) < keep
        return inputs * mask.to(inputs) / keep

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
