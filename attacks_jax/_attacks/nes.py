"""NES: gradients estimated from queries (Ilyas, Engstrom, Athalye and Lin, 2018)."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._attacks.queries import Answer, QueryAttack, QueryState
from attacks_jax._base import Attack
from attacks_jax._checks import check_bounds, check_counts, check_positive, in_pixels
from attacks_jax._losses import Loss, cross_entropy
from attacks_jax._pinned import as_partial


class NESMemory(NamedTuple):
    image: jax.Array  # (H, W, C): the iterate, the centre of the samples
    gradient: jax.Array  # (H, W, C): the sum over the sampled pairs so far
    momentum: jax.Array  # (H, W, C): the moving average of the gradients
    positive: jax.Array  # () score of the pair's first sample
    score: jax.Array  # () of `best`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NES(QueryAttack):
    eps: float | jax.Array
    sigma: float | jax.Array
    step_size: float | jax.Array
    momentum: float | jax.Array
    num_steps: int = field(metadata={"static": True})
    samples: int = field(metadata={"static": True})
    loss: Loss = field()
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    @property
    def norm(self):
        return "linf"

    def start(self, example: QueryState, answer: Answer) -> NESMemory:
        zeros = jnp.zeros_like(example.clean)
        return NESMemory(example.clean, zeros, zeros, answer.score, answer.score)

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        """Returns a sample around the iterate, or, after the last sample, the next iterate."""
        memory, (turn, round_) = example.memory, self._place(example)
        # Both samples of a pair use the same noise.
        key = jax.random.fold_in(jax.random.fold_in(example.keys, round_), turn // 2)
        noise = jax.random.normal(key, memory.image.shape, memory.image.dtype)
        sample = memory.image + jnp.where(turn % 2 == 0, self.sigma, -self.sigma) * noise

        momentum = self.momentum * memory.momentum + (1 - self.momentum) * memory.gradient
        moved = memory.image + self.step_size * jnp.sign(momentum)
        moved = jnp.clip(moved, example.clean - self.eps, example.clean + self.eps)

        image = jnp.where(turn == self.samples, moved, sample)
        return jnp.clip(image, *self.bounds), (noise, momentum)

    def learn(self, example: QueryState, image, notes, answer: Answer) -> QueryState:
        memory, (turn, _) = example.memory, self._place(example)
        noise, momentum = notes
        # The difference of a pair is exactly zero for a flat loss, without rounding noise.
        slope = memory.positive - answer.score
        usable = (turn % 2 == 1) & jnp.isfinite(slope)
        gradient = memory.gradient + jnp.where(usable, slope, 0.0) * noise

        moves = turn == self.samples
        better = moves & (answer.won | (answer.score > memory.score))
        return example._replace(
            best=jnp.where(better, image, example.best),
            memory=NESMemory(
                image=jnp.where(moves, image, memory.image),
                gradient=jnp.where(moves, 0.0, gradient),
                momentum=jnp.where(moves, momentum, memory.momentum),
                positive=answer.score,
                score=jnp.where(better, answer.score, memory.score),
            ),
            done=moves & answer.won,
        )

    def _place(self, example: QueryState):
        """Returns (index of the query within its round, index of the round)."""
        asked = example.queries - 1
        return asked % (self.samples + 1), asked // (self.samples + 1)


def nes(
    *,
    eps: float | jax.Array | None = None,
    num_steps: int = 10_000,
    samples: int = 50,
    sigma: float | jax.Array | None = None,
    step_size: float | jax.Array | None = None,
    momentum: float | jax.Array = 0.9,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Projected gradient steps along estimates of the gradient: x + step_size * sign(momentum).

    Ilyas, Engstrom, Athalye and Lin, "Black-box Adversarial Attacks with Limited Queries and
    Information" (2018), section 2.1 (algorithm 1), with the momentum of the authors' code but
    without its annealing of step sizes. A gradient is estimated from `samples` queries around the
    iterate, in pairs x + sigma u and x - sigma u with normal noise u, clipped to the bounds. The
    next query tests whether the new iterate is adversarial. Samples are never returned.

    Distances are in the l-infinity norm. An image that the oracle already misclassifies is
    returned unchanged. If nothing succeeds, the iterate with the largest loss is returned with
    `success` false.

    Args:
      eps: radius of the ball, in pixel units; default 0.05, for pixels in [0, 1]. Traced.
      num_steps: the query budget, without the first and the last query.
      samples: queries for each gradient, an even number.
      sigma: standard deviation of the noise, in pixel units; default 0.001. Traced.
      step_size: length of a step, in pixel units; default 0.01. Traced.
      momentum: the share of the earlier gradients in a step's direction, in [0, 1). Traced.
      loss: a function of (logits (B, K), labels (B,), images (B, H, W, C)) to (B,). Untargeted
        attacks raise it; targeted attacks lower it.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative eps, an odd number of samples, a momentum outside of [0, 1), another
        option that is not above zero, invalid bounds, other bounds than (0, 1)
        without eps, sigma and step_size.
    """
    bounds = check_bounds(bounds)
    eps, sigma, step_size = in_pixels(
        bounds, eps=(eps, 0.05), sigma=(sigma, 0.001), step_size=(step_size, 0.01)
    )
    check_positive(eps=eps, momentum=momentum, or_zero=True)
    check_positive(sigma=sigma, step_size=step_size)
    check_counts(num_steps=num_steps, samples=samples)
    if samples % 2:
        raise ValueError(f"expected samples to be an even number, got {samples}")
    if isinstance(momentum, int | float) and momentum >= 1:
        raise ValueError(f"expected momentum to be below 1, got {momentum}")
    return NES(
        eps,
        sigma,
        step_size,
        momentum,
        num_steps,
        samples,
        as_partial(loss, "loss"),
        targeted,
        bounds,
    )
