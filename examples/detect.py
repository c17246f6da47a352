"""Fit CMAG+ to a classifier of your own, and flag adversarial images."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import attacks_jax
from cmag_jax import CMAG_PLUS, cmag

pixels, labels = load_digits(return_X_y=True)  # 1,797 images of 8x8 pixels, 0 to 16
images = jnp.asarray(pixels.reshape(-1, 8, 8, 1) / 16, jnp.float32)
train, held_out, test = images[:1000], images[1000:1400], images[1400:]

model = LogisticRegression(max_iter=1000).fit(pixels[:1000] / 16, labels[:1000])
weights = {"w": jnp.float32(model.coef_.T), "b": jnp.float32(model.intercept_)}


def network(weights, images):  # -> feature maps (B, h, w, c), logits (B, classes)
    flat = images.reshape(images.shape[0], -1)
    return images, flat @ weights["w"] + weights["b"]


victim = Partial(network, weights)
config = dataclasses.replace(CMAG_PLUS, batch_size=50, fmr_epochs=20, lr_epochs=5, gr_epochs=20)
params, _ = cmag.fit(jax.random.key(0), victim, train, config, held_out=held_out)
thresholds = cmag.calibrate(cmag.score(victim, params, held_out), fpr=0.05)

oracle = attacks_jax.stateless(lambda x: network(weights, x)[1])
result = attacks_jax.run(
    attacks_jax.fgsm(eps=0.2), oracle, jax.random.key(1), test, jnp.asarray(labels[1400:])
)
adversarial = result.images[result.success]
for name, seen in (("clean", test), ("adversarial", adversarial)):
    flags = cmag.detect(cmag.score(victim, params, seen), thresholds)
    print(f"{name}: {float(flags.mean()):.3f} of {len(seen)} images are flagged")
