"""The values that the papers print, for comparison with ours."""

FGSM_EPS = (0.1, 0.2, 0.3)
CW_CONFIDENCE = (9.0, 19.0, 29.0)
STRENGTHS = tuple(("FGSM", eps) for eps in FGSM_EPS) + tuple(("CW-l2", k) for k in CW_CONFIDENCE)
ATTACKS = ("FGSM", "CW-l2")  # of tables 3 to 7, at any strength

DETECTION_TABLE = {"mnist": "cmag/3", "fashion_mnist": "cmag/4", "gtsrb": "cmag/5"}


def _detection(**last: tuple[float, float, float]) -> dict[str, dict]:
    """Returns the rates by data set: 1.00 under FGSM at all strengths, and these under CW."""
    return {
        dataset: dict(zip(STRENGTHS, (1.0, 1.0, 1.0, *of_cw), strict=True))
        for dataset, of_cw in last.items()
    }


# Tables 3-5: system -> data set -> attack -> detection rate.
DETECTION = {
    "CMAG": _detection(mnist=(1.0,) * 3, fashion_mnist=(1.0,) * 3, gtsrb=(1.0,) * 3),
    "MagNet": _detection(
        mnist=(1.0, 1.0, 0.21), fashion_mnist=(0.0, 0.0, 0.23), gtsrb=(0.0, 0.0, 0.0)
    ),
    "Defense-GAN": _detection(
        mnist=(0.0, 0.02, 0.05), fashion_mnist=(0.0, 0.0, 0.0), gtsrb=(0.0, 0.0, 0.0)
    ),
}

# Table 6: mean SSIM between an adversarial example and its reconstruction.
CMAG_SSIM = {
    "mnist": dict(zip(STRENGTHS, (0.442, 0.442, 0.442, 0.654, 0.532, 0.442), strict=True)),
    "fashion_mnist": dict(zip(STRENGTHS, (0.145, 0.101, 0.074, 0.400, 0.375, 0.331), strict=True)),
    "gtsrb": dict(zip(STRENGTHS, (0.362, 0.185, 0.109, 0.748, 0.712, 0.674), strict=True)),
}
# The last column of table 6: the smallest SSIM of a clean input.
CMAG_SSIM_THRESHOLD = {"mnist": 0.824, "fashion_mnist": 0.763, "gtsrb": 0.757}

# Table 7: mean l2 reconstruction error.
CMAG_L2 = {
    "mnist": dict(zip(STRENGTHS, (9.469, 10.551, 12.073, 8.841, 8.980, 9.111), strict=True)),
    "fashion_mnist": dict(
        zip(STRENGTHS, (9.680, 10.696, 12.335, 9.352, 9.850, 10.293), strict=True)
    ),
    "gtsrb": dict(zip(STRENGTHS, (14.846, 18.355, 22.185, 12.535, 12.682, 12.687), strict=True)),
}
CMAG_L2_LEGITIMATE = {"mnist": 3.165, "fashion_mnist": 3.771, "gtsrb": 6.213}


def detection_table(dataset: str) -> str:
    """Returns the table with the data set's detection rates."""
    return DETECTION_TABLE.get(dataset, "extra/detection")
