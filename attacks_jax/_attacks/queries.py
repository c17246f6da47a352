"""Attacks that only ask: no gradient, and in each step one question about each example.

A method is written for one image, as three pure functions (`QueryAttack`), and mapped over the
batch around the one call of the oracle. As a step is a query, an oracle that remembers sees every
question in turn, queries are counted exactly, `num_steps` is the budget of queries, and memory is
needed for one batch of images whatever the method samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Images, Labels, Logits, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import example_keys, freeze
from attacks_jax._losses import goal_margin, margin
from attacks_jax._success import finish, wins

# Two compilations of one network differ in the last bits. What wins by less, as a share of the
# largest logit, isn't counted on: attacks that end on the decision boundary would else lose half
# of their successes when the oracle is asked again.
ROUNDING = 1e-5


class QueryState(NamedTuple):
    """The state of a batch, and without the batch axis that of one image: an example."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    keys: jax.Array  # (B,): an example's source of randomness
    best: Images  # (B, H, W, C): what would be returned now
    memory: Any  # the method's own, each leaf (B, ...)
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32; the clean image's is the first, so step n finds n here
    oracle_state: OracleState  # `()` in an example


class Answer(NamedTuple):
    """What the oracle's logits say of a proposed image."""

    score: jax.Array  # (B,): the loss as the attacker would have it, to be raised; never NaN
    won: jax.Array  # (B,) bool: adversarial


class QueryAttack(OneStage):
    """A gradient-free attack. What it adds is `start`, `propose` and `learn`, each for one image;
    under `vmap` every branch is run, so these should be cheap, and draw at most one image."""

    targeted: Any  # bool
    bounds: Any  # (lowest, highest) pixel
    norm: Any  # of the distances: a Norm
    loss: Any = staticmethod(margin)  # a Loss, for those who look at more than decisions

    def start(self, example: QueryState, answer: Answer) -> Any:
        """The method's memory at the beginning; `answer` is about the clean image."""
        raise NotImplementedError

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        """The image (H, W, C) to ask about, and what `learn` should know about it."""
        raise NotImplementedError

    def proposals(self, examples: QueryState) -> tuple[jax.Array, Any]:
        """`propose` for the batch: a place for what is needed now and then, and by few."""
        return jax.vmap(self.propose)(examples)

    def learn(self, example: QueryState, image: jax.Array, notes: Any, answer: Answer) -> Any:
        """The example after the answer about `image`: its best, memory and done."""
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
    """The key of an example's step: no two steps draw the same."""
    return jax.random.fold_in(example.keys, example.queries)
