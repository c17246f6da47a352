"""Black-box attacks without gradients: each step makes one query about each example.

A method is three pure functions for one image (`QueryAttack`). They are mapped over the batch,
before and after one call of the oracle. Each step is one query. So a stateful oracle sees all
queries in order, the query counts are exact, `num_steps` is the query budget, and the memory is
that of one batch of images, however many samples the method draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Images, Labels, Logits, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import example_keys, freeze
from attacks_jax._losses import goal_margin, margin
from attacks_jax._success import finish, wins

# Two compilations of one network differ in the last bits. A smaller margin, as a share of the
# largest logit, does not count as success. Otherwise attacks that end on the decision boundary
# would lose half of their successes in the last query.
ROUNDING = 1e-5


class QueryState(NamedTuple):
    """The state of a batch; without the batch axis, the state of one example."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    keys: jax.Array  # (B,): each example's random key
    best: Images  # (B, H, W, C): the result so far
    memory: Any  # private to the method, each leaf (B, ...)
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32; the clean image's is the first, so step n finds n here
    oracle_state: OracleState  # `()` in an example


class Answer(NamedTuple):
    """The score and success of a proposed image."""

    score: jax.Array  # (B,): the loss with the sign that makes larger better; never NaN
    won: jax.Array  # (B,) bool: adversarial


class QueryAttack(OneStage):
    """A gradient-free attack. Subclasses define `start`, `propose` and `learn` for one image.

    Under `vmap` every branch runs. So these functions should be cheap, and draw at most one image.
    """

    targeted: Any  # bool
    bounds: Any  # (lowest, highest) pixel
    norm: Any  # of the distances: a Norm
    loss: Any = staticmethod(margin)  # a Loss, for attacks that use more than decisions

    def start(self, example: QueryState, answer: Answer) -> Any:
        """Returns the method's first memory. `answer` is about the clean image."""
        raise NotImplementedError

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        """Returns the image (H, W, C) to query, and notes on it for `learn`."""
        raise NotImplementedError

    def proposals(self, examples: QueryState) -> tuple[jax.Array, Any]:
        """`propose` for the batch. Override it for work that few examples need, and rarely."""
        return jax.vmap(self.propose)(examples)

    def learn(self, example: QueryState, image: jax.Array, notes: Any, answer: Answer) -> Any:
        """Returns the example with best, memory and done updated by the answer about `image`."""
        raise NotImplementedError

    def init(self, oracle, oracle_state, key, images, labels) -> QueryState:
        oracle_state, logits = oracle(oracle_state, images)
        examples = QueryState(
            clean=images,
            labels=labels,
            keys=example_keys(key, images),
            best=images,
            memory=(),
            done=wins(goal_margin(logits, labels, targeted=self.targeted)),
            queries=jnp.ones(images.shape[0], jnp.int32),
            oracle_state=(),
        )
        memory = jax.vmap(self.start)(examples, self._answer(logits, labels, images))
        return examples._replace(memory=memory, oracle_state=oracle_state)

    def step(self, oracle: Oracle, state: QueryState) -> QueryState:
        examples = state._replace(oracle_state=())
        images, notes = self.proposals(examples)
        oracle_state, logits = oracle(state.oracle_state, images)
        answers = self._answer(logits, state.labels, images)
        learned = jax.vmap(self.learn)(examples, images, notes, answers)
        moved = learned._replace(queries=state.queries + 1, oracle_state=oracle_state)
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: QueryState) -> Result:
        return finish(oracle, state, state.best, distance=self.norm, targeted=self.targeted)

    def _answer(self, logits: Logits, labels: Labels, images: Images) -> Answer:
        loss = self.loss(logits, labels, images)
        score = -loss if self.targeted else loss
        scale = jnp.max(jnp.where(jnp.isfinite(logits), jnp.abs(logits), 0.0), axis=-1)
        lead = goal_margin(logits, labels, targeted=self.targeted)
        return Answer(
            score=jnp.where(jnp.isnan(score), -jnp.inf, score), won=lead > ROUNDING * scale
        )


def step_key(example: QueryState) -> jax.Array:
    """Returns the key for an example's current step. Each step has its own."""
    return jax.random.fold_in(example.keys, example.queries)
