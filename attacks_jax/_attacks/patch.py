"""The adversarial patch (Brown et al., "Adversarial Patch", 2017): one picture that causes
misclassification anywhere on an image, trained over images, places, angles and sizes."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.ndimage import map_coordinates

from attacks_jax._base import Attack, Images, Labels, Oracle, OracleState, Result
from attacks_jax._batch_ops import Norm, example_keys, select, width
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive
from attacks_jax._gradients import finite
from attacks_jax._losses import Loss, cross_entropy, goal_margin
from attacks_jax._pinned import as_partial
from attacks_jax._success import finish, wins
from attacks_jax._trainable import Learning, draw_rows


class PatchState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    patch: jax.Array  # (size, size, C), shared by all examples
    adam: Any
    key: jax.Array
    keys: jax.Array  # (B,): give the final position of the patch on each image
    already: jax.Array  # (B,) bool: misclassified without a patch
    step: jax.Array  # () int32
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Patch(Learning):
    trained: jax.Array | None  # (size, size, C) after training
    step_size: float | jax.Array
    rotation: float | jax.Array
    smallest: float | jax.Array
    largest: float | jax.Array
    place: tuple[float, float] | None
    size: int = field(metadata={"static": True})
    shape: str = field(metadata={"static": True})
    training_steps: int = field(metadata={"static": True})
    batch_size: int = field(metadata={"static": True})
    loss: Loss
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l0"

    def init(self, oracle, oracle_state, key, images, labels) -> PatchState:
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        shape = (self.size, self.size, images.shape[3])
        middle = jnp.full(shape, sum(self.bounds) / 2, images.dtype)
        patch = middle if self.trained is None else self.trained
        return PatchState(
            clean=images,
            labels=labels,
            patch=patch,
            adam=self._adam().init(patch),
            key=key,
            keys=example_keys(key, images),
            already=wins(goal_margin(logits, labels, targeted=self.targeted)),
            step=jnp.zeros((), jnp.int32),
            done=jnp.full(batch, self.trained is not None),
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: PatchState) -> PatchState:
        """Makes one Adam step on the patch, at random positions on a random batch of images."""
        row_key, stick_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        rows = draw_rows(row_key, state.clean.shape[0], self.batch_size)
        images, labels = state.clean[rows], state.labels[rows]
        keys = jax.random.split(stick_key, len(rows))

        def mean_loss(patch):
            stuck = self.stick(keys, images, patch)
            oracle_state, logits = oracle(state.oracle_state, stuck)
            return self.loss(logits, labels, stuck).mean(), oracle_state

        gradient, oracle_state = jax.grad(mean_loss, has_aux=True)(state.patch)
        downhill = finite(gradient) if self.targeted else -finite(gradient)
        updates, adam = self._adam().update(downhill, state.adam)
        return state._replace(
            patch=jnp.clip(state.patch + width(self.bounds) * updates, *self.bounds),
            adam=adam,
            step=state.step + 1,
            queries=state.queries.at[rows].add(1),
            oracle_state=oracle_state,
        )

    def result(self, oracle: Oracle, state: PatchState) -> Result:
        stuck = self.stick(state.keys, state.clean, state.patch)
        images = select(state.already, state.clean, stuck)
        return finish(oracle, state, images, distance=self.norm, targeted=self.targeted)

    def learnt(self, state: PatchState) -> "Patch":
        return replace(self, trained=state.patch)

    def stick(self, keys: jax.Array, images: Images, patch: jax.Array) -> Images:
        """Returns the images with the patch rotated, scaled and placed by each image's key."""
        mask = _mask(self.size, self.shape)

        def on_one(key, image):
            coordinates = self._coordinates(key, image.shape[:2])

            def seen(picture):  # (size, size) -> (H, W), zero outside the patch
                return map_coordinates(picture, coordinates, order=1, mode="constant")

            cover = seen(mask)[..., None]
            # Multiply by the mask first, so that interpolation does not mix in outside pixels.
            colour = jax.vmap(seen, in_axes=2, out_axes=2)(patch * mask[..., None])
            return (1.0 - cover) * image + colour

        return jnp.clip(jax.vmap(on_one)(keys, images), *self.bounds)

    def _coordinates(self, key, image_shape):
        """Returns the patch coordinates of each image pixel: 2 x (H, W)."""
        scale_key, angle_key, place_key = jax.random.split(key, 3)
        scale = jax.random.uniform(scale_key, (), minval=self.smallest, maxval=self.largest)
        limit = jnp.deg2rad(self.rotation)
        angle = jax.random.uniform(angle_key, (), minval=-limit, maxval=limit)
        extent = jnp.array(image_shape, jnp.float32) - 1.0
        half = scale * (self.size - 1) / 2.0
        if self.place is None:
            room = jnp.maximum(extent - 2.0 * half, 0.0)
            centre = half + room * jax.random.uniform(place_key, (2,))
            centre = jnp.where(room > 0, centre, extent / 2.0)
        else:
            centre = jnp.asarray(self.place, jnp.float32)
        row, column = (
            axis - middle
            for axis, middle in zip(
                jnp.meshgrid(*(jnp.arange(n) for n in image_shape), indexing="ij"),
                centre,
                strict=True,
            )
        )
        cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
        middle = (self.size - 1) / 2.0
        return [cos * row + sin * column + middle, -sin * row + cos * column + middle]

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.step_size)


def _mask(size: int, shape: str) -> jax.Array:
    """Returns (size, size): 1 where the patch covers the image, else 0."""
    if shape == "square":
        return jnp.ones((size, size))
    offset = jnp.arange(size) - (size - 1) / 2.0
    return (offset[:, None] ** 2 + offset**2 <= (size / 2.0) ** 2).astype(jnp.float32)


def patch(
    *,
    size: int = 8,
    shape: str = "circle",
    scale: tuple[float, float] = (1.0, 1.0),
    rotation: float = 22.5,
    place: tuple[float, float] | None = None,
    num_steps: int = 500,
    step_size: float | jax.Array = 0.05,
    batch_size: int = 16,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """A universal patch. Adam optimises the expected loss over images, places, angles and scales.

    `run` trains the patch on its images and returns them with the patch. `fit` returns an attack
    with the trained patch (`.trained`, size x size x C), which places it on other images without
    further training. During training, examples are not independent: they share the patch. Distances
    are l0, the number of changed pixels. An image that is misclassified without a patch gets none.

    For ImageNet, Brown et al. vary the patch from 5% to 50% of the image. Here the size is in
    pixels.

    Args:
      size: side or diameter of the patch, in pixels.
      shape: "circle" or "square".
      scale: the smallest and the largest scale factor of the patch. Traced.
      rotation: the largest angle, in degrees, in both directions. Traced.
      place: (row, column) of the centre, in pixels. None means a random place where it fits.
      num_steps: steps of Adam.
      step_size: Adam's learning rate, as a share of the pixel range. Traced.
      batch_size: images per step. If the oracle identifies clients by rows: all images.
      loss: untargeted attacks raise its mean; targeted attacks lower it.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range.
    """
    check_positive(step_size=step_size)
    check_counts(size=size, num_steps=num_steps, batch_size=batch_size)
    check_positive(rotation=rotation, or_zero=True)
    check_choice(shape=(shape, ("circle", "square")))
    numbers = all(isinstance(factor, int | float) for factor in scale)
    if len(scale) != 2 or (numbers and not 0 < scale[0] <= scale[1]):
        raise ValueError(f"expected scale (least, largest) above 0, got {scale}")
    if place is not None and len(place) != 2:
        raise ValueError(f"expected place (row, column), got {place}")
    return Patch(
        None, step_size, rotation, scale[0], scale[1], place, size, shape, num_steps, batch_size,
        as_partial(loss, "loss"), targeted, check_bounds(bounds),
    )  # fmt: skip
