"""Goldens of caption decoders at any size and setting, computed with torch's own layers and
optimiser: an oracle that shares nothing with the package.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

N_GENERATED = 20  # words, published
_CASE = {
    "vocab": 9,
    "embed": 5,
    "hidden": 6,
    "batch": 3,
    "caption_len": 7,
    "T": 3,
    "synth_nlayers": 1,
    "synth_nhid": 7,
    "lr": 0.01,
    "adam_betas": [0.9, 0.999],
    "adam_eps": 1e-8,
    "l2": 0.0,
    "clip": None,
    "dropout": 0.0,
    "sg_scale": 0.1,
    "max_len": N_GENERATED,
}


class Decoder(nn.Module):
    """Embedding, LSTM, readout, and a cerebellum for "DNI_LSTM"."""

    def __init__(self, rnn_type: str, h: dict) -> None:
        super().__init__()
        self.embed = nn.Embedding(h["vocab"], h["embed"])
        self.rnn = nn.LSTM(h["embed"], h["hidden"], batch_first=True)
        self.linear = nn.Linear(h["hidden"], h["vocab"])
        widths = [2 * h["hidden"], *[h["synth_nhid"]] * h["synth_nlayers"], 2 * h["hidden"]]
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        parts = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
        self.synthesiser = nn.Sequential(*parts) if rnn_type == "DNI_LSTM" else None

    def forward(self, inputs: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        h, c = (part.contiguous()[None] for part in z.chunk(2, dim=1))
        out, (h, c) = self.rnn(inputs, (h, c))
        return self.linear(out), torch.cat([h[0], c[0]], dim=1)

    def published(self) -> dict[str, Tensor]:
        """Parameters by their published names."""
        found, is_dni = {}, self.synthesiser is not None
        for name, value in self.named_parameters():
            part, _, rest = name.partition(".")
            if part == "synthesiser":
                index, kind = rest.split(".")
                layer = "input_trigger" if index == "0" else f"layers.{int(index) // 2 - 1}"
                name = f"rnn.backward_interface.synthesizer.{layer}.{kind}"
            elif part == "rnn" and is_dni:
                name = f"rnn.rnn.{rest}"
            found[name] = value.detach().numpy().copy()
        return found


def write(path: Path, rnn_type: str, n_batches: int = 3, seed: int = 0, **changed: object) -> Path:
    """A golden of some batches of training with these hyperparameters, at `path`."""
    h = _CASE | {"rnn_type": rnn_type} | changed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = Decoder(rnn_type, h).double()
        features = torch.randn(n_batches, h["batch"], h["embed"], dtype=torch.float64)
        captions = torch.randint(0, h["vocab"], (n_batches, h["batch"], h["caption_len"]))
    arrays = {f"init.{name}": value for name, value in decoder.published().items()}
    arrays |= {"data.features": features.numpy(), "data.captions": captions.numpy()}
    optimiser = torch.optim.Adam(decoder.parameters(), lr=h["lr"], weight_decay=h["l2"])
    for batch, (image, words) in enumerate(zip(features, captions, strict=True), start=1):
        z, losses = torch.zeros(h["batch"], 2 * h["hidden"], dtype=torch.float64), []
        for number, start in enumerate(range(0, h["caption_len"], h["T"]), start=1):
            steps = slice(start, start + h["T"])
            # embedded anew: the embedding changes with every truncation
            inputs = torch.cat([image[:, None], decoder.embed(words[:, :-1])], dim=1)[:, steps]
            start_state = z.detach().requires_grad_()
            logits, z = decoder(inputs, start_state)
            loss = functional.cross_entropy(logits.flatten(0, 1), words[:, steps].flatten())
            objective = loss
            if decoder.synthesiser is not None:
                foreseen = decoder.synthesiser(z).detach()
                objective = objective + h["sg_scale"] * (foreseen * z).sum()
            optimiser.zero_grad()
            objective.backward()
            if decoder.synthesiser is not None:
                error = decoder.synthesiser(start_state.detach()) - start_state.grad
                error.square().sum().backward()
            optimiser.step()
            prefix = f"expect.batch{batch}.trunc{number}."
            arrays[f"{prefix}logits"] = logits.detach().numpy()
            arrays |= {f"{prefix}param.{n}": value for n, value in decoder.published().items()}
            losses.append(loss.item())
        arrays[f"expect.batch{batch}.trunc_losses"] = np.array(losses)
    with torch.no_grad():
        arrays |= _evaluation(decoder, features[0], captions[0])
    meta = {
        "paper": "ccdni",
        "algorithm": f"caption decoder {rnn_type}",
        "hyperparameters": h,
        "dtype": "float64",
    }
    np.savez(path, meta=np.array(json.dumps(meta)), **arrays)
    return path


def _evaluation(decoder: Decoder, image: Tensor, words: Tensor) -> dict[str, np.ndarray]:
    """Teacher-forced loss and greedy words of the trained decoder."""
    zero = torch.zeros(len(image), 2 * decoder.rnn.hidden_size, dtype=torch.float64)
    logits, _ = decoder(torch.cat([image[:, None], decoder.embed(words[:, :-1])], dim=1), zero)
    loss = functional.cross_entropy(logits.flatten(0, 1), words.flatten())
    tokens, z, step = [], zero, image[:, None]
    for _ in range(N_GENERATED):
        logits, z = decoder(step, z)
        tokens.append(logits[:, -1].argmax(1))
        step = decoder.embed(tokens[-1])[:, None]
    return {
        "expect.val_loss_batch1": np.array(loss.item()),
        "expect.greedy_tokens_batch1": torch.stack(tokens, dim=1).numpy(),
    }
