"""Fills .gpu/ with what `.ci/gpu cifar10` or `.ci/gpu mnist` reads on a machine without a network:
the packages that it lacks, for its Python 3.12, and packed data, within 64 MiB.

    python .ci/gpu_pack.py PACKED_DATA cifar10|mnist
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGES = [
    *("dm-pix", "tyro", "docstring-parser", "typeguard"),
    *("tensorflow-datasets", "tensorflow-metadata", "googleapis-common-protos", "array_record"),
    *("immutabledict", "simple_parsing", "termcolor", "toml", "dm-tree", "etils"),
    *("importlib_resources", "torchattacks", "foolbox", "eagerpy", "gitpython", "gitdb", "smmap"),
]
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
# Of tensorflow-datasets: the builders of others, half of its size.
LEFT_OUT = ("tensorflow_datasets/datasets/", "tensorflow_datasets/image_classification/")
TEST_IMAGES = 1000  # of CIFAR-10, so that it fits


def main(data: Path, part: str) -> None:
    folder = Path(".gpu")
    site = folder / "site.tar.xz"
    for other in folder.glob("*"):
        if other != site:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    folder.mkdir(exist_ok=True)
    if not site.exists():
        packages(site)
    shutil.copy(data / "unpack.py", folder)
    if part == "cifar10":
        cifar10(data / "cifar10.npz", folder / "cifar10.npz")
    else:
        for name in ("mnist", "fashion_mnist"):
            shutil.copytree(data / name, folder / name, copy_function=shutil.copyfile)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder} holds {size / 2**20:.1f} MiB")


def packages(path: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels, tempfile.TemporaryDirectory() as site:
        pip = [sys.executable, "-m", "pip", "--quiet"]
        only = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
        only += [f"--platform=manylinux_{version}_x86_64" for version in PLATFORMS]
        only += ["--platform=manylinux2014_x86_64"]
        subprocess.run([*pip, "download", *only, "-d", wheels, *PACKAGES], check=True)
        subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, "promise"], check=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(
                    site, [name for name in packed.namelist() if not name.startswith(LEFT_OUT)]
                )
        for kept in LEFT_OUT:  # imported by name, though nothing in them is
            (Path(site) / kept).mkdir(exist_ok=True)
            (Path(site) / kept / "__init__.py").touch()
        with tarfile.open(path, "w:xz") as tar:
            tar.add(site, ".")


def cifar10(path: Path, trimmed: Path) -> None:
    packed = dict(np.load(path))
    sizes = packed["test_sizes"][:TEST_IMAGES]
    packed |= {
        "test_labels": packed["test_labels"][:TEST_IMAGES],
        "test_sizes": sizes,
        "test_blob": packed["test_blob"][: sizes.sum()],
    }
    np.savez(trimmed, **packed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
