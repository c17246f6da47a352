"""Small archives in the publishers' formats, made up for the tests."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[4] / "shared" / "data"  # the real ones, where they are at hand


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def mnist(folder: Path, train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
    """Returns the pixels written, by split."""
    folder.mkdir(parents=True)
    rng, written = np.random.default_rng(0), {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        written[split] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", written[split])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return written


def cifar10(folder: Path, per_batch: int = 10) -> np.ndarray:
    """Returns the test images written, (N, 32, 32, 3)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            images = rng.integers(0, 256, (per_batch, 32, 32, 3), np.uint8)
            records = b"".join(
                bytes([i % 10]) + image.transpose(2, 0, 1).tobytes()
                for i, image in enumerate(images)
            )
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(records)
            tar.addfile(info, io.BytesIO(records))
    return images


def gtsrb(folder: Path, *, classes: int = 43, csv: bool = True) -> None:
    """Two tracks of three frames a class, of 20x24 pixels and one colour a track; 43 tests."""
    folder.mkdir(parents=True)

    def ppm(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (24, 20), (value, value, 255 - value)).save(buffer, "PPM")
        return buffer.getvalue()

    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    with zipfile.ZipFile(folder / "GTSRB_Final_Training_Images.zip", "w") as archive:
        for label in range(classes):
            names = [f"{track:05d}_{frame:05d}.ppm" for track in range(2) for frame in range(3)]
            home = f"GTSRB/Final_Training/Images/{label:05d}"
            for name in names:
                archive.writestr(f"{home}/{name}", ppm(label + 100 * int(name[4])))
            if csv:
                lines = "".join(f"{name};24;20;1;1;2;2;{label}\n" for name in names)
                archive.writestr(f"{home}/GT-{label:05d}.csv", head + lines)
    with zipfile.ZipFile(folder / "GTSRB_Final_Test_Images.zip", "w") as archive:
        for number in range(classes):
            archive.writestr(f"GTSRB/Final_Test/Images/{number:05d}.ppm", ppm(number))
    with zipfile.ZipFile(folder / "GTSRB_Final_Test_GT.zip", "w") as archive:
        lines = "".join(f"{i:05d}.ppm;24;20;1;1;2;2;{i}\n" for i in range(classes))
        archive.writestr("GT-final_test.csv", head + lines)


def faces(folder: Path, people: int = 3, images: int = 5, size: tuple[int, int] = (20, 16)) -> None:
    for person in range(1, people + 1):
        (folder / f"s{person}").mkdir(parents=True)
        for number in range(1, images + 1):
            pixels = np.full(size, 10 * person + number, np.uint8)
            Image.fromarray(pixels).save(folder / f"s{person}" / f"{number}.pgm")
