"""Drawn scenes with captions: pictures of one to three coloured shapes, and sentences of varying
length about them.

A small stand-in for photographs with captions that needs no download: the images are rendered for
real, the sentences are true of them, and every image has five, between three and twenty words long.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIZE = 32  # pixels
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (52, 101, 214),
    "yellow": (245, 202, 40),
}
SHAPES = ("circle", "square", "triangle")
RADII = {"small": 3.2, "large": 5.6}  # pixels
BACKGROUND = (236, 236, 236)
N_CAPTIONS = 5  # of each image
_OFFSET = 8.5  # pixels from the middle to a position at the edge
_FINE = 3  # every pixel is the mean of so many points squared

_PLACES = {
    (-1, -1): "in the upper left corner",
    (0, -1): "at the top",
    (1, -1): "in the upper right corner",
    (-1, 0): "on the left",
    (0, 0): "in the middle",
    (1, 0): "on the right",
    (-1, 1): "in the lower left corner",
    (0, 1): "at the bottom",
    (1, 1): "in the lower right corner",
}
_RELATIONS = {  # of the first shape to the second, the other way round, and the first shape's place
    "to the left of": ("to the right of", (-1, 0)),
    "to the right of": ("to the left of", (1, 0)),
    "above": ("below", (0, -1)),
    "below": ("above", (0, 1)),
}


@dataclass(frozen=True)
class Thing:
    """One shape: what it is, and its centre in pixels from the upper left corner."""

    size: str
    colour: str
    shape: str
    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def full(self) -> str:
        """Size, colour and shape."""
        return f"{self.size} {self.colour} {self.shape}"


def generate(n: int, seed: int) -> tuple[np.ndarray, list[list[str]]]:
    """`n` images, (n, 3, 32, 32) uint8, and five captions of each."""
    random = np.random.RandomState(seed)
    images, captions = np.empty((n, 3, SIZE, SIZE), np.uint8), []
    for i in range(n):
        things, sentences = (_one, _two, _row)[random.choice(3, p=(0.3, 0.45, 0.25))](random)
        images[i] = render(things, random)
        captions.append([sentences[k]() for k in random.permutation(len(sentences))[:N_CAPTIONS]])
    return images, captions


def render(things: list[Thing], random: np.random.RandomState) -> np.ndarray:
    """The picture, (3, 32, 32) uint8: shapes with soft edges on grey, and pixel noise of deviation
    4 grey levels.
    """
    points = (np.arange(SIZE * _FINE) + 0.5) / _FINE
    x, y = np.meshgrid(points, points)
    image = np.broadcast_to(np.array(BACKGROUND, float)[:, None, None], (3, SIZE, SIZE)).copy()
    for thing in things:
        cover = _inside(thing, x, y).reshape(SIZE, _FINE, SIZE, _FINE).mean(axis=(1, 3))
        image += cover * (np.array(COLOURS[thing.colour], float)[:, None, None] - image)
    return np.clip(image + 4 * random.normal(size=image.shape), 0, 255).round().astype(np.uint8)


def _inside(thing: Thing, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius, dx, dy = RADII[thing.size], x - thing.x, y - thing.y
    if thing.shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if thing.shape == "square":
        return np.maximum(abs(dx), abs(dy)) <= 0.9 * radius
    height = 1.15 * radius  # of a triangle above and below its centre
    return (abs(dy) <= height) & (abs(dx) <= (dy + height) / 2)


def _thing(
    random: np.random.RandomState, position: tuple[int, int], offset: float = _OFFSET
) -> Thing:
    shift = random.uniform(-0.8, 0.8, size=2)
    x, y = SIZE / 2 + offset * np.array(position) + shift
    words = (tuple(RADII), tuple(COLOURS), SHAPES)
    return Thing(*(choices[random.randint(len(choices))] for choices in words), x=x, y=y)


Sentences = list[Callable[[], str]]


def _one(random: np.random.RandomState) -> tuple[list[Thing], Sentences]:
    position = list(_PLACES)[random.randint(len(_PLACES))]
    a, where = _thing(random, position), _PLACES[position]
    return [a], [
        lambda: f"a {a}",
        lambda: f"a {a.full}",
        lambda: f"there is a {a}",
        lambda: f"a {a} {where}",
        lambda: f"one {a.full} and nothing else",
        lambda: f"there is a {a.full} {where}",
        lambda: f"the picture shows a {a.full} {where}",
    ]


def _two(random: np.random.RandomState) -> tuple[list[Thing], Sentences]:
    is_at = list(_RELATIONS)[random.randint(len(_RELATIONS))]
    turned, position = _RELATIONS[is_at]
    a, b = _thing(random, position), _thing(random, (-position[0], -position[1]))
    return [a, b], [
        lambda: f"a {a.shape} and a {b.shape}",
        lambda: f"a {a} and a {b}",
        lambda: f"a {a} {is_at} a {b}",
        lambda: f"a {b} is {turned} a {a}",
        lambda: f"there is a {a.full} {is_at} a {b.full}",
        lambda: f"the picture shows a {b.full} {turned} a {a.full}",
    ]


def _row(random: np.random.RandomState) -> tuple[list[Thing], Sentences]:
    a, b, c = (_thing(random, (i, 0), offset=9.2) for i in (-1, 0, 1))
    return [a, b, c], [
        lambda: "three shapes in a row",
        lambda: f"a {a.shape} a {b.shape} and a {c.shape}",
        lambda: f"a {a} a {b} and a {c}",
        lambda: f"from left to right a {a} a {b} and a {c}",
        lambda: f"the picture shows from left to right a {a.full} a {b.full} and a {c.full}",
    ]
