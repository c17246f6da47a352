"""Constructors of the stateful baselines, Blacklight and OSD, packaged like SPT's defences."""

import jax

from spt_jax._checks import check_counts, check_positive, is_traced
from spt_jax._defences.blacklight import Blacklight
from spt_jax._defences.osd import OSD
from spt_jax._pinned import as_partial
from spt_jax._system import Classifier, Response, System, package


def blacklight(
    classifier: Classifier,
    decoy: Classifier | None,
    *,
    threshold: int | jax.Array = 25,
    window: int = 20,
    quantisation: int = 50,
    fingerprint_size: int = 50,
    capacity: int = 10_000,
    salt: int = 0,
    response: Response = "decoy",
) -> System:
    """Blacklight (Li et al., USENIX Security 2022, section 4). The decoy answers a query that
    shares more than `threshold` hashes with any stored fingerprint. The paper rejects such queries
    and bans their senders.

    Args:
      classifier, decoy: images (B, H, W, C) -> logits (B, K).
      threshold: the largest number of shared hashes that is not flagged. Traced.
      window: consecutive values that are hashed together; the paper uses 20 for small images, 50
        for large ones and for MNIST.
      quantisation: the step to which pixels are rounded down, of 255.
      fingerprint_size: stored hashes per image.
      capacity: stored fingerprints; a new one overwrites the oldest.
      salt: a secret of the defender.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of range; a threshold that no two images can exceed; at `init`, a
        window larger than the image, or at most `threshold` windows.
    """
    check_counts(
        window=window, quantisation=quantisation, fingerprint_size=fingerprint_size,
        capacity=capacity,
    )  # fmt: skip
    check_counts(or_zero=True, threshold=threshold, salt=salt)
    if not is_traced(threshold) and threshold >= fingerprint_size:
        raise ValueError(
            f"expected a threshold below the {fingerprint_size} hashes of a fingerprint, or nobody"
            f" is ever deceived, got {threshold}"
        )
    if quantisation > 255:
        raise ValueError(f"expected quantisation of at most 255, got {quantisation}")
    automaton = Blacklight(threshold, window, quantisation, fingerprint_size, capacity, salt)
    return package(automaton, classifier, decoy, response)


def osd(
    classifier: Classifier,
    decoy: Classifier | None,
    encode: Classifier,
    *,
    threshold: float | jax.Array,
    neighbours: int = 50,
    capacity: int = 1000,
    response: Response = "decoy",
) -> System:
    """Stateful detection (Chen, Carlini and Wagner, 2020, section 4). The decoy answers a query
    whose encoding has a mean distance below `threshold` to its nearest stored ones. The client's
    memory is then emptied (the paper bans the account, and the attacker opens another).

    Args:
      classifier, decoy: images (B, H, W, C) -> logits (B, K).
      encode: images (B, H, W, C) -> encodings (B, D).
      threshold: on the mean distance to the nearest encodings; `osd_threshold` finds it. Traced.
      neighbours: the number of nearest encodings in the mean distance.
      capacity: stored encodings; a new one overwrites the oldest.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of range; at `init`, a capacity below `neighbours`.
    """
    check_counts(neighbours=neighbours, capacity=capacity)
    check_positive(threshold=threshold)  # no distance is below 0
    automaton = OSD(as_partial(encode, "encode"), threshold, neighbours, capacity)
    return package(automaton, classifier, decoy, response)
