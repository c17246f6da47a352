"""Square Attack (Andriushchenko, Croce, Flammarion and Hein, 2020): a random search that changes
one square of the image at a time."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attacks_jax._attacks.queries import Answer, QueryAttack, QueryState, step_key
from attacks_jax._base import Attack
from attacks_jax._batch_ops import TINY
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive, in_pixels
from attacks_jax._losses import Loss, cross_entropy, margin
from attacks_jax._pinned import as_partial

# Of 10,000 iterations, those after which the share of the pixels in a square is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Number of tiles per side at the start of the l2 attack.
TILES = 5


class SquareMemory(NamedTuple):
    score: jax.Array  # () of `best`, -inf before the first query


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Square(QueryAttack):
    eps: float | jax.Array
    p_init: float | jax.Array
    num_steps: int = field(metadata={"static": True})
    norm: Literal["linf", "l2"] = field(metadata={"static": True})
    loss: Loss = field()
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    def start(self, example: QueryState, answer: Answer) -> SquareMemory:
        del answer  # the clean image's score does not count, as in the authors' code
        return SquareMemory(jnp.full_like(example.clean[0, 0, 0], -jnp.inf))

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        key = step_key(example)
        if self.norm == "linf":
            first, later = self._stripes(key, example.clean), self._flat_square(key, example)
        else:
            first, later = self._tiles(key, example.clean), self._moved_square(key, example)
        return jnp.where(example.queries == 1, first, later), ()

    def learn(self, example: QueryState, image, notes, answer: Answer) -> QueryState:
        del notes
        better = answer.won | (answer.score > example.memory.score)
        return example._replace(
            best=jnp.where(better, image, example.best),
            memory=SquareMemory(jnp.where(better, answer.score, example.memory.score)),
            done=answer.won,
        )

    def _side(self, example: QueryState, smallest: int) -> jax.Array:
        """Returns the side of this step's square: section 3.2's schedule, scaled to the budget."""
        height, width, _ = example.clean.shape
        iteration = (example.queries - 2) * (10_000 / self.num_steps)
        share = self.p_init / 2.0 ** jnp.sum(iteration > jnp.asarray(HALVINGS))
        side = jnp.round(jnp.sqrt(share * height * width)).astype(jnp.int32)
        return jnp.clip(side, min(smallest, height, width), min(height, width))

    # The l-infinity attack: algorithm 2. Every pixel is at a corner of the ball.

    def _stripes(self, key, clean):
        signs = jax.random.rademacher(key, (1, *clean.shape[1:]), clean.dtype)
        return jnp.clip(clean + self.eps * signs, *self.bounds)

    def _flat_square(self, key, example):
        position, colour = jax.random.split(key)
        side = self._side(example, 1)
        rows, cols = _corner_at_random(position, example.clean.shape, side)
        inside = _in_window(rows, cols, side)
        signs = jax.random.rademacher(colour, example.clean.shape[2:], example.clean.dtype)

        def painted(signs):
            square = jnp.clip(example.clean + self.eps * signs, *self.bounds)
            return jnp.where(inside[..., None], square, example.best)

        # If the square changes nothing, use the opposite colour: do not waste a query.
        image = painted(signs)
        return jnp.where(jnp.all(image == example.best), painted(-signs), image)

    # The l2 attack: algorithm 3. It moves perturbation mass from one window to another.

    def _tiles(self, key, clean):
        height, width, channels = clean.shape
        side = max(min(height, width) // TILES, 1)
        down, across = height // side, width // side
        # The pixels that the tiles leave free on an axis are split between its two sides.
        rows, cols = (np.arange(n)[:, None] - n % side // 2 for n in (height, width))
        in_tile = ((rows >= 0) & (rows < down * side)) * ((cols >= 0) & (cols < across * side)).T
        flips, colour = jax.random.split(key)
        flipped = jax.random.bernoulli(flips, shape=(down, across))
        signs = jax.random.rademacher(colour, (down, across, channels), clean.dtype)
        tile = (rows // side) % down, (cols // side).T % across
        pattern = _pattern(*np.ogrid[:side, :side], side, side)
        r, c = rows % side, (cols % side).T
        values = jnp.where(flipped[tile], pattern[c, r], pattern[r, c]) * in_tile
        return self._on_sphere(clean, values[..., None] * signs[tile])

    def _moved_square(self, key, example):
        position, other, flip, colour = jax.random.split(key, 4)
        delta = example.best - example.clean
        side = self._side(example, 3)
        largest = min(delta.shape[:2])
        side = jnp.minimum(side + (side % 2 == 0), largest - (largest % 2 == 0))
        side = jnp.maximum(side, 1)
        rows, cols = _corner_at_random(position, delta.shape, side)
        target = _in_window(rows, cols, side)[..., None]
        source = _in_window(*_corner_at_random(other, delta.shape, side), side)[..., None]

        def mass(image, axes=(0, 1)):
            return jnp.sqrt(jnp.sum(image**2, axis=axes))

        largest = max(delta.shape[:2])
        pattern = jnp.where(
            jax.random.bernoulli(flip),
            _pattern(rows, cols, side, largest),
            _pattern(cols, rows, side, largest),
        )
        signs = jax.random.rademacher(colour, delta.shape[2:], delta.dtype)
        old = jnp.where(target, delta, 0.0)
        new = jnp.where(target, pattern[..., None] * signs, 0.0) + old / (mass(old) + TINY)
        unused = jnp.maximum(self.eps**2 - jnp.sum(delta**2), 0.0) / delta.shape[2]
        available = jnp.sqrt(unused + mass(jnp.where(target | source, delta, 0.0)) ** 2)
        new = new / (mass(new) + TINY) * available
        return self._on_sphere(example.clean, jnp.where(target, new, jnp.where(source, 0.0, delta)))

    def _on_sphere(self, clean, delta):
        length = jnp.sqrt(jnp.sum(delta**2))
        return jnp.clip(clean + self.eps * delta / jnp.maximum(length, TINY), *self.bounds)


def _corner_at_random(key, shape, side):
    """Returns the image's rows (H, 1) and columns (1, W) relative to a square's random corner."""
    height, width, _ = shape
    room = jnp.array([height, width]) - side + 1
    top, left = jnp.floor(room * jax.random.uniform(key, (2,))).astype(jnp.int32)
    return jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left


def _in_window(rows, cols, side):
    """Returns (H, W) bool: whether the coordinates are in the window."""
    return (rows >= 0) & (rows < side) & (cols >= 0) & (cols < side)


def _pattern(rows, cols, side, largest):
    """Returns eta of eq. 2 with norm 1: positive in a window's upper half, negative in the lower.

    The magnitude in each half is a stack of growing squares, the k-th of height 1 / k^2. So the
    magnitude m steps from the centre is the sum over k > m.
    """
    sums = jnp.cumsum(1.0 / jnp.arange(1, largest // 2 + 2, dtype=jnp.float32) ** 2)
    sums = jnp.concatenate([jnp.zeros(1, jnp.float32), sums])
    half = side // 2
    upper = rows < half
    middle = jnp.where(upper, half // 2, half + (side - half) // 2)
    steps = jnp.maximum(jnp.abs(rows - middle), jnp.abs(cols - half))
    height = sums[half + 1] - sums[jnp.minimum(steps, half + 1)]
    inside = _in_window(rows, cols, side)
    hill, hollow = (jnp.where(inside & part, height, 0.0) for part in (upper, ~upper))

    def unit(image):
        return image / (jnp.sqrt(jnp.sum(image**2)) + TINY)

    return unit(unit(hill) - unit(hollow))


def square(
    *,
    eps: float | jax.Array | None = None,
    num_steps: int = 10_000,
    norm: Literal["linf", "l2"] = "linf",
    p_init: float | jax.Array = 0.05,
    loss: Loss | None = None,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Random search: changes one square of the image at a time, and keeps changes that help.

    Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box
    adversarial attack via random search" (2020), algorithms 1 to 3. It uses the logits, through
    `loss`. The defaults are the paper's for ImageNet and l-infinity. Distances are in `norm`. An
    image that the oracle already misclassifies is returned unchanged. If nothing succeeds, the
    image with the largest loss is returned with `success` false.

    Args:
      eps: radius of the ball, in pixel units; default 0.05, for pixels in [0, 1]. Traced.
      num_steps: the query budget, without the first and the last query. The squares shrink on a
        schedule of this length.
      norm: the norm of the ball, "linf" or "l2".
      p_init: the share of the pixels in the first squares. The paper uses 0.1 for l2. The authors'
        code uses 0.3 for CIFAR-10 and MNIST, and 0.8 for robust networks. Traced.
      loss: a function of (logits (B, K), labels (B,), images (B, H, W, C)) to (B,). Untargeted
        attacks raise it; targeted attacks lower it. None means the margin, or cross-entropy for
        targeted attacks, as in the authors' code.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative eps, an unknown norm, num_steps not above zero, p_init not in
        (0, 1], invalid bounds, bounds other than (0, 1) without eps.
    """
    bounds = check_bounds(bounds)
    (eps,) = in_pixels(bounds, eps=(eps, 0.05))
    check_positive(eps=eps, or_zero=True)
    check_positive(p_init=p_init)
    check_counts(num_steps=num_steps)
    check_choice(norm=(norm, ("linf", "l2")))
    if isinstance(p_init, int | float) and p_init > 1:
        raise ValueError(f"expected p_init to be 1 or below, got {p_init}")
    if loss is None:
        loss = cross_entropy if targeted else margin
    return Square(eps, p_init, num_steps, norm, as_partial(loss, "loss"), targeted, bounds)
