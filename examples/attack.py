"""Train a flax.nnx module, and attack it."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import attacks_jax

pixels, labels = load_digits(return_X_y=True)  # 1,797 images of 8x8 pixels, 0 to 16
images, labels = jnp.float32(pixels.reshape(-1, 8, 8, 1) / 16), jnp.asarray(labels)

rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(64, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 10, rngs=rngs))
optimiser = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


@nnx.jit
def step(model, optimiser):
    def loss(model):
        logits = model(images.reshape(-1, 64))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimiser.update(model, nnx.grad(loss)(model))


for _ in range(100):
    step(model, optimiser)

oracle = attacks_jax.stateless(lambda x: model(x.reshape(x.shape[0], -1)))
for name, attack in {
    "FGSM, eps .1": attacks_jax.fgsm(eps=0.1),
    "PGD, eps .1": attacks_jax.pgd(eps=0.1, step_size=0.02, num_steps=20),
    "DeepFool": attacks_jax.deepfool(),
}.items():
    result = attacks_jax.run(attack, oracle, jax.random.key(0), images[:200], labels[:200])
    distance = float(result.distance[result.success].mean())
    print(f"{name}: {float(result.success.mean()):.3f} succeed, mean distance {distance:.3f}")
