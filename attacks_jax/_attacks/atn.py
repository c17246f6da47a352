"""Adversarial transformation networks (Baluja and Fischer, "Adversarial Transformation Networks:
Learning to Generate Adversarial Examples", 2017): a network that maps an image to an adversarial
example."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from attacks_jax._base import Attack, Images, Labels, Oracle, OracleState, Result
from attacks_jax._batch_ops import PIXELS, Norm, select, width
from attacks_jax._checks import check_bounds, check_counts, check_positive
from attacks_jax._gradients import finite
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins
from attacks_jax._trainable import Learning, draw_rows


class Perturbation(nn.Module):
    """A small P-ATN: images (B, H, W, C) -> perturbation (B, H, W, C) in (-1, 1)."""

    width: int = 32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for _ in range(3):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        return jnp.tanh(nn.Conv(images.shape[-1], (3, 3))(x))


class ATNState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    params: Any  # of the network; shared by all examples
    adam: Any
    key: jax.Array
    clean_logits: jax.Array  # (B, K): targeted attacks keep their order, except for the target
    step: jax.Array  # () int32
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ATN(Learning):
    trained: Any  # the parameters after training, or None
    beta: float | jax.Array
    alpha: float | jax.Array
    confidence: float | jax.Array
    step_size: float | jax.Array
    network: nn.Module = field(metadata={"static": True})
    training_steps: int = field(metadata={"static": True})
    batch_size: int = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l2"

    def init(self, oracle, oracle_state, key, images, labels) -> ATNState:
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        network_key, key = jax.random.split(key)
        fresh = self.trained is None
        params = self.network.init(network_key, images[:1]) if fresh else self.trained
        return ATNState(
            clean=images,
            labels=labels,
            params=params,
            adam=self._adam().init(params),
            key=key,
            clean_logits=logits,
            step=jnp.zeros((), jnp.int32),
            done=jnp.full(batch, not fresh),
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: ATNState) -> ATNState:
        """Makes one Adam step on the network, on a random batch of the images."""
        row_key = jax.random.fold_in(state.key, state.step)
        rows = draw_rows(row_key, state.clean.shape[0], self.batch_size)
        images, labels, before = (
            leaf[rows] for leaf in (state.clean, state.labels, state.clean_logits)
        )

        def mean_loss(params):
            changed = self.transform(params, images)
            oracle_state, logits = oracle(state.oracle_state, changed)
            near = jnp.mean(((changed - images) / width(self.bounds)) ** 2, axis=PIXELS)
            loss = self.beta * near + self._wrong(logits, before, labels)
            return loss.mean(), oracle_state

        gradient, oracle_state = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, adam = self._adam().update(jax.tree.map(finite, gradient), state.adam)
        return state._replace(
            params=optax.apply_updates(state.params, updates),
            adam=adam,
            step=state.step + 1,
            queries=state.queries.at[rows].add(1),
            oracle_state=oracle_state,
        )

    def result(self, oracle: Oracle, state: ATNState) -> Result:
        margin = goal_margin(state.clean_logits, state.labels, targeted=self.targeted)
        changed = self.transform(state.params, state.clean)
        images = select(wins(margin), state.clean, changed)
        return finish(oracle, state, images, distance=self.norm, targeted=self.targeted)

    def learnt(self, state: ATNState) -> "ATN":
        return replace(self, trained=state.params)

    def transform(self, params: Any, images: Images) -> Images:
        """Returns the perturbed images (B, H, W, C)."""
        low, high = self.bounds
        output: Any = self.network.apply(params, (images - low) / (high - low))
        return jnp.clip(images + (high - low) * output, low, high)

    def _wrong(self, logits, before, labels):
        """Returns L_Y (B,): the distance of the logits from the attack's goal."""
        if not self.targeted:
            margin = goal_margin(logits, labels, targeted=False)
            return jnp.maximum(self.confidence - margin, 0.0)
        wanted = rerank(jax.nn.softmax(before), labels, self.alpha)
        return -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.step_size)


def rerank(probabilities: jax.Array, targets: jax.Array, alpha: Any) -> jax.Array:
    """The paper's r_alpha: (B, K) probabilities, (B,) targets -> (B, K).

    The target gets alpha times the largest probability. The others keep theirs. Then all are
    scaled to sum to 1.
    """
    is_target = jax.nn.one_hot(targets, probabilities.shape[-1], dtype=bool)
    most = jnp.max(probabilities, axis=-1, keepdims=True)
    ranked = jnp.where(is_target, alpha * most, probabilities)
    return ranked / jnp.sum(ranked, axis=-1, keepdims=True)


def atn(
    *,
    beta: float | jax.Array = 10.0,
    alpha: float | jax.Array = 1.5,
    confidence: float | jax.Array = 1.0,
    num_steps: int = 1000,
    step_size: float | jax.Array = 1e-3,
    batch_size: int = 64,
    network: nn.Module | None = None,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Trains a network g so that x + g(x) is close to x and misclassified: the paper's P-ATN.

    Minimises beta * mean (x' - x)^2 + L_Y, with differences as shares of the pixel range. In a
    targeted attack, L_Y is the cross-entropy between the answer and the reranked clean answer
    (r_alpha, section 3). The paper uses the l2 distance, whose gradient vanishes on confident
    classifiers. In an untargeted attack, L_Y is max(confidence - margin, 0), in logits. The paper
    has no untargeted attack.

    `run` trains the network on its images and returns their adversarial examples. `fit` returns an
    attack with the trained parameters (`.trained`), which needs one forward pass per new image.
    During training, examples are not independent. Distances are l2. An image that is already
    misclassified is returned unchanged.

    Args:
      beta: the weight of the distance. Traced.
      alpha: the target's desired probability, relative to the largest one. Traced.
      confidence: the desired margin of an untargeted attack, in logits. Traced.
      num_steps: steps of Adam.
      step_size: Adam's learning rate. Traced.
      batch_size: images per step. If the oracle identifies clients by rows: all images.
      network: a Flax module, images (B, H, W, C) in [0, 1] -> (B, H, W, C) in (-1, 1). None means
        four 3x3 convolutions, three of them with 32 channels.
      targeted: whether the labels given to `run` are targets. The paper trains one network for
        each target: all labels equal.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range.
    """
    check_positive(beta=beta, alpha=alpha, confidence=confidence, or_zero=True)
    check_positive(step_size=step_size)
    check_counts(num_steps=num_steps, batch_size=batch_size)
    network = Perturbation() if network is None else network
    return ATN(
        None, beta, alpha, confidence, step_size, network, num_steps, batch_size, targeted,
        check_bounds(bounds),
    )  # fmt: skip
