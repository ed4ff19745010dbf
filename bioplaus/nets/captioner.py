"""A network that describes an image: image features and words, one at a time, through an LSTM to
the next word.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bioplaus.nets.lstm import blank, draw_linear, draw_uniform

MOMENTUM = 0.01  # of the running moments of the image features: running += 0.01 (batch - running)


class Captioner(nn.Module):
    """Image features -> linear -> batch norm, or the embedding of a word -> LSTM -> linear ->
    scores of all words.

    Parameters
    ----------
    n_features : width of the image features; None: they are given embedded, with `n_embedded`
        entries.
    n_embedded, n_hidden : widths of embedding and LSTM.
    n_words : size of the vocabulary.
    generator : weights are drawn from torch's default distributions, in the order embedding
        (normal, deviation 1), LSTM, readout, image layer.

    Attributes
    ----------
    embed, rnn, linear : embedding, LSTM (its parameters and evaluation), readout.
    image, norm : linear layer and norm (by running statistics) for the features, or None.
    """

    def __init__(
        self,
        n_features: int | None,
        n_embedded: int,
        n_hidden: int,
        n_words: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.embed = blank(nn.Embedding, n_words, n_embedded)
        self.rnn = blank(nn.LSTM, n_embedded, n_hidden, batch_first=True)
        self.linear = blank(nn.Linear, n_hidden, n_words)
        with torch.no_grad():
            self.embed.weight.normal_(generator=generator)
        draw_uniform(self.rnn.parameters(), 1 / math.sqrt(n_hidden), generator)
        draw_linear(self.linear, generator)
        self.image: nn.Linear | None = None
        self.norm: nn.BatchNorm1d | None = None
        if n_features is not None:
            # the norm would cancel a bias
            self.image = blank(nn.Linear, n_features, n_embedded, bias=False)
            self.norm = nn.BatchNorm1d(n_embedded, momentum=MOMENTUM)
            draw_linear(self.image, generator)

    def inputs(self, features: Tensor, words: Tensor, *, is_learning: bool = False) -> Tensor:
        """What the LSTM sees: the image, then the words; (batch, 1 + L, n_embedded).

        Parameters
        ----------
        features : (batch, n_features).
        words : (batch, L), int64, L from 0.
        is_learning : let the running mean and variance of the norm follow the batch's. Images are
            normalised by the running ones in learning too: a batch holds captions of one length,
            and its own mean would hide what the images that such captions are about have in common.
        """
        image, n = features, self.norm
        if self.image is not None and n is not None:
            image = self.image(features)
            mean, variance = n.get_buffer("running_mean"), n.get_buffer("running_var")
            if is_learning:
                with torch.no_grad():
                    mean.lerp_(image.mean(0), MOMENTUM)
                    variance.lerp_(image.var(0), MOMENTUM)
            image = functional.batch_norm(image, mean, variance, n.weight, n.bias, eps=n.eps)
        return torch.cat([image.unsqueeze(1), self.embed(words)], dim=1)

    def zero_state(self, n: int) -> Tensor:
        """z = [h ; c] before every caption, (n, 2 n_hidden)."""
        return self.linear.weight.new_zeros(n, 2 * self.rnn.hidden_size)

    def forward(self, inputs: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the next word after every input, (batch, L, n_words), and the state after the
        last.

        Parameters
        ----------
        inputs : (batch, L, n_embedded).
        z : (batch, 2 n_hidden), the state before the first.
        """
        h, c = (part.contiguous().unsqueeze(0) for part in z.chunk(2, dim=1))
        out, (h, c) = self.rnn(inputs, (h, c))
        return self.linear(out), torch.cat([h[0], c[0]], dim=1)

    def scores(self, features: Tensor, captions: Tensor) -> Tensor:
        """Scores of the next word at every step, (batch, L, n_words), with the words before it
        given (teacher forcing).

        The step that sees the image predicts the first token, so only the last token is never an
        input.
        """
        return self.linear(self.rnn(self.inputs(features, captions[:, :-1]))[0])

    def generate(self, features: Tensor, n_steps: int = 20) -> Tensor:
        """Scores of all words at every step, (batch, n_steps, n_words); each step sees the
        likeliest word before it.
        """
        state, scores = None, []
        step = self.inputs(
            features, torch.empty(len(features), 0, dtype=torch.long, device=features.device)
        )
        for _ in range(n_steps):
            h, state = self.rnn(step, state)
            scores.append(self.linear(h[:, -1]))
            step = self.embed(scores[-1].argmax(1)).unsqueeze(1)
        return torch.stack(scores, dim=1)
