"""Package a classifier with a memory that notices an iterative attack (SPT), and attack it."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import attacks_jax
import spt_jax

pixels, labels = load_digits(return_X_y=True)  # 1,797 images of 8x8 pixels, 0 to 16
images = jnp.asarray(pixels.reshape(-1, 8, 8, 1) / 16, jnp.float32)
model = LogisticRegression(max_iter=1000).fit(pixels / 16, labels)
weights = {"w": jnp.float32(model.coef_.T), "b": jnp.float32(model.intercept_)}


def network(weights, images):  # -> logits (B, classes)
    return images.reshape(images.shape[0], -1) @ weights["w"] + weights["b"]


classifier = Partial(network, weights)
decoy = Partial(network, {"w": -weights["w"], "b": weights["b"]})  # its gradient leads astray
system = spt_jax.buffer(classifier, decoy, length=5, threshold_db=15.0, patience=2)

state = system.init((8, 8, 1))
for i in range(10):  # one client that sends almost the same image again and again
    state, answer = system.query(state, jnp.clip(images[0] + 0.01 * i, 0, 1))
    print(f"query {i + 1}: label {int(answer.label)}, by the decoy: {bool(answer.deceived)}")

attack = attacks_jax.bim(eps=0.3, step_size=0.015, num_steps=40)
some, goals = images[:100], jnp.asarray(labels[:100])
for name, oracle, clients in (
    ("the classifier alone", attacks_jax.stateless(classifier), ()),
    ("the packaged one", spt_jax.one_client_per_image(system), system.init_clients(100, (8, 8, 1))),
):
    result = attacks_jax.run(attack, oracle, jax.random.key(0), some, goals, oracle_state=clients)
    wrong = classifier(result.images).argmax(-1) != goals
    print(f"BIM on {name}: {float(wrong.mean()):.2f} of the images are misclassified")
