"""The default data set, which scikit-learn includes: 1,797 handwritten digits of 8x8 pixels."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST_IMAGES = 500
SIZE = 28


def read() -> dict[str, dict[str, np.ndarray]]:
    """Returns {"train": ..., "test": ...}: images (N, 28, 28, 1) uint8, scaled up bilinearly from
    8x8, and labels (N,). The split is fixed and stratified by class."""
    from PIL import Image

    digits = load_digits()
    small = np.round(digits.images * 255 / 16).astype(np.uint8)
    resize = (SIZE, SIZE), Image.Resampling.BILINEAR
    images = np.stack([np.asarray(Image.fromarray(d).resize(*resize)) for d in small])[..., None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=TEST_IMAGES, stratify=digits.target, random_state=0
    )
    return {
        name: {"image": images[split], "label": digits.target[split]}
        for name, split in (("train", train), ("test", test))
    }
