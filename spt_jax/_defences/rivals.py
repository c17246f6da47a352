"""Other defences that remember their queries, packaged as SPT's are."""

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
    """Blacklight (Li et al., USENIX Security 2022, section 4): whoever sends an image whose
    fingerprint has more than `threshold` hashes in common with that of any earlier one is deceived
    (the paper rejects such queries, and bans who sent them).

    Args:
      classifier, decoy: images (B, H, W, C) -> logits (B, K).
      threshold: hashes in common that are let pass. Traced.
      window: consecutive values that are hashed together; the paper has 20 for small images, 50
        for large ones and for MNIST.
      quantisation: the step that pixels are rounded down to, of 255.
      fingerprint_size: hashes that are kept of an image.
      capacity: fingerprints remembered; the oldest is forgotten.
      salt: what an attacker should not know.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of their range; a threshold that no two images can exceed; at `init`,
        a window larger than the image, or fewer windows than the threshold asks for.
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
    """Stateful detection (Chen, Carlini and Wagner, 2020, section 4): who sends an image that is,
    in an encoder's eyes, nearer than `threshold` to its nearest earlier ones is deceived, and
    begins anew (the paper bans the account, and the attacker makes another).

    Args:
      classifier, decoy: images (B, H, W, C) -> logits (B, K).
      encode: images (B, H, W, C) -> encodings (B, D).
      threshold: of the mean distance to the nearest; `osd_threshold` finds it. Traced.
      neighbours: how many are the nearest.
      capacity: encodings remembered; the oldest is forgotten.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of their range; at `init`, a capacity below `neighbours`.
    """
    check_counts(neighbours=neighbours, capacity=capacity)
    check_positive(threshold=threshold)  # no distance is below 0
    automaton = OSD(as_partial(encode, "encode"), threshold, neighbours, capacity)
    return package(automaton, classifier, decoy, response)
