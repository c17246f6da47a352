"""JSMA, the Jacobian-based saliency map attack (Papernot et al., "The Limitations of Deep Learning
in Adversarial Settings", 2016)."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import Norm, freeze
from attacks_jax._checks import check_bounds, check_positive, in_pixels
from attacks_jax._gradients import pull_back
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins

# Number of pixels whose pairs are all tried. They nearly always contain the best pair.
SHORTLIST = 64
# Pairs tried at a time, over all images: 16 MiB.
AT_ONCE = 2**22
# Factors on the w that gives gain and relief the same range, for the bounds in `best_pairs`.
WEIGHTS = tuple(2.0 ** (power / 2) for power in range(-6, 7))


class JSMAState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C)
    pairs: jax.Array  # (B,) int32: pairs changed so far
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JSMA(OneStage):
    theta: float | jax.Array
    gamma: float | jax.Array
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l0"
    num_steps = 2**31 - 1  # no limit: an example is done when its budget of pixels is spent

    def init(self, oracle, oracle_state, key, images, labels) -> JSMAState:
        del oracle, key  # nothing is random, and the first step queries the clean image
        batch = images.shape[0]
        done, zeros = jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32)
        return JSMAState(images, labels, images, zeros, done, zeros, oracle_state)

    def step(self, oracle: Oracle, state: JSMAState) -> JSMAState:
        """Changes the pair of pixels with the highest saliency: algorithm 3."""
        low, high = self.bounds

        def the_label_and_the_others(logits):  # (2, B, K)
            label = jax.nn.one_hot(state.labels, logits.shape[1])
            return jnp.stack([label, 1.0 - label])

        gradients, logits, oracle_state = pull_back(
            oracle, state.oracle_state, state.images, the_label_and_the_others
        )
        won = wins(goal_margin(logits, state.labels, targeted=self.targeted))

        pixels = state.images.reshape(state.images.shape[0], -1)
        # The effect of a change on the label's logit and on the others, in the attack's direction.
        towards = jnp.sign(self.theta) * (1.0 if self.targeted else -1.0)
        gain, loss = towards * gradients.reshape(2, *pixels.shape)
        movable = jnp.where(self.theta > 0, pixels < high, pixels > low)
        first, second, saliency = best_pairs(gain, -loss, movable)

        budget = jnp.floor(self.gamma * pixels.shape[1] / 2.0 + 1e-6)
        ends = won | ~(saliency > 0) | (state.pairs >= budget)
        examples = jnp.arange(pixels.shape[0])
        changed = pixels.at[examples, first].add(self.theta).at[examples, second].add(self.theta)
        changed = jnp.where(ends[:, None], pixels, jnp.clip(changed, low, high))
        moved = state._replace(
            images=changed.reshape(state.images.shape),
            pairs=state.pairs + ~ends,
            done=ends,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: JSMAState) -> Result:
        return finish(oracle, state, state.images, distance=self.norm, targeted=self.targeted)


def best_pairs(
    gain: jax.Array, relief: jax.Array, movable: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds each example's pair p != q with the largest (gain_p + gain_q) * (relief_p + relief_q).

    Both sums must be above zero: eq. 10. All arguments are (B, D).

    There are D^2 / 2 pairs. But sqrt(X Y) <= (w X + Y / w) / 2 for every w > 0. So no pair with p
    exceeds ((s_p + max_q s_q) / 2)^2, where s = w gain + relief / w. The smallest of these bounds
    over a range of w leaves few candidate pixels, and only their pairs are tried. If this does
    not settle every example, all pairs are tried.

    Returns:
      p and q (B,) int, and their product (B,): 0 if no pair qualifies.
    """
    gain, relief = (jnp.where(movable, values, -jnp.inf) for values in (gain, relief))
    bound, shortlist = lax.top_k(_bounds(gain, relief), min(SHORTLIST, gain.shape[1]))

    def listed(values):
        return jnp.take_along_axis(values, shortlist, axis=1)

    first, second, best = _try_all(listed(gain), listed(relief))
    pick = [
        jnp.take_along_axis(shortlist, place[:, None], axis=1)[:, 0] for place in (first, second)
    ]
    settled = (best >= jnp.min(bound, axis=1)) | (gain.shape[1] <= SHORTLIST)
    return lax.cond(settled.all(), lambda: (pick[0], pick[1], best), lambda: _try_all(gain, relief))


def _bounds(gain, relief):
    """Returns for each pixel (B, D) an upper bound on the product of its pairs."""
    balance = jnp.max(relief, axis=1, keepdims=True) / jnp.max(gain, axis=1, keepdims=True)
    balance = jnp.sqrt(jnp.where(jnp.isfinite(balance) & (balance > 0), balance, 1.0))
    least = jnp.full(gain.shape, jnp.inf)
    for weight in WEIGHTS:
        w = weight * balance
        sums = w * gain + relief / w
        bound = jnp.maximum(sums + jnp.max(sums, axis=1, keepdims=True), 0.0)
        least = jnp.minimum(least, (bound / 2.0) ** 2)
    return least * (1.0 + 1e-5)  # rounding errors must not make the bound too small


def _try_all(gain, relief):
    """`best_pairs` by trying all D^2 pairs, one block of first pixels at a time.

    All at once would take 84 GiB at 224x224x3.
    """
    batch, size = gain.shape
    rows = max(AT_ONCE // max(batch * size, 1), 1)
    blocks = -(-size // rows)
    missing = ((0, 0), (0, blocks * rows - size))
    padded = [jnp.pad(values, missing, constant_values=-jnp.inf) for values in (gain, relief)]

    def best_of(block):
        start = block * rows
        firsts = [lax.dynamic_slice_in_dim(values, start, rows, axis=1) for values in padded]
        sums = [a[:, :, None] + b[:, None, :] for a, b in zip(firsts, (gain, relief), strict=True)]
        is_itself = start + jnp.arange(rows)[:, None] == jnp.arange(size)
        return jnp.max(jnp.where(is_itself, 0.0, _product(*sums)), axis=2)

    of_first = jnp.moveaxis(lax.map(best_of, jnp.arange(blocks)), 0, 1)
    of_first = of_first.reshape(batch, blocks * rows)[:, :size]
    first = jnp.argmax(of_first, axis=1)

    def beside(values):
        return jnp.take_along_axis(values, first[:, None], axis=1) + values

    products = _product(beside(gain), beside(relief))
    is_first = jax.nn.one_hot(first, gain.shape[1], dtype=bool)
    second = jnp.argmax(jnp.where(is_first, -1.0, products), axis=1)
    return first.astype(jnp.int32), second.astype(jnp.int32), jnp.max(of_first, axis=1)


def _product(gain, relief):
    """Returns the saliency: the product if both are above zero, else 0."""
    both = (gain > 0) & (relief > 0)
    return jnp.where(both, jnp.where(both, gain, 0.0) * jnp.where(both, relief, 0.0), 0.0)


def jsma(
    *,
    theta: float | jax.Array | None = None,
    gamma: float | jax.Array = 0.145,
    targeted: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Changes the pair of pixels that most raises the target's logit and lowers the sum of all
    others, step by step: JSMA, the paper's algorithms 2 and 3; SPT, section III-B.

    Both required rows of the Jacobian come from one forward pass. As in the paper, a pixel may
    change again until it is saturated. An example ends when it is classified as the target, when
    no pair qualifies, or when its budget of pixels is spent. As in the paper, each channel counts
    as a pixel here, but distances are l0 in whole pixels.

    Args:
      theta: what a step adds to each pixel of the pair, in pixel units; negative values darken.
        Default 1, which saturates pixels in [0, 1]. Traced.
      gamma: the largest number of pixel changes, as a share of all pixels. Traced.
      targeted: whether the labels given to `run` are targets. The paper's attack always has a
        target. An untargeted attack takes pairs that lower the label's logit and raise the others.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: theta is zero, gamma is not above zero, invalid bounds, other bounds
        than (0, 1) without theta.
    """
    bounds = check_bounds(bounds)
    (theta,) = in_pixels(bounds, theta=(theta, 1.0))
    check_positive(gamma=gamma)
    if isinstance(theta, int | float) and not (theta and abs(theta) < float("inf")):
        raise ValueError(f"expected theta to be a number other than 0, got {theta}")
    return JSMA(theta, gamma, targeted, bounds)
