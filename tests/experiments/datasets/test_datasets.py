"""Data sets: publishers' formats read back pixel by pixel; damage told at once, nothing left."""

import contextlib
import gzip
import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import DataError, archives
from tests.experiments.datasets import archives as made

ROOT = Path(__file__).parents[3]


@pytest.fixture(name="load")
def _load(tmp_path):
    return partial(datasets.load, data_dir=tmp_path / "tfds", manual_dir=tmp_path / "manual")


def left_behind(tmp_path: Path) -> list[Path]:
    """Files of any data set under the data folder."""
    return [p for p in (tmp_path / "tfds").rglob("*") if p.is_file()]


def whole(dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted pixels and labels of the publisher's split, validation put back."""
    parts = [dataset.train, dataset.validation] if split == "train" else [dataset.test]
    images = np.concatenate([p.images for p in parts])
    return np.round(images * 255).astype(np.uint8), np.concatenate([p.labels for p in parts])


def test_mnist_is_read_back_pixel_by_pixel(tmp_path, load):
    written = made.mnist(tmp_path / "manual" / "mnist")
    dataset = load("mnist")
    np.testing.assert_array_equal(whole(dataset, "test")[0][..., 0], written["test"])
    assert dataset.test.labels.tolist() == [i % 10 for i in range(20)]
    pixels, labels = whole(dataset, "train")
    assert sorted(p.tobytes() for p in pixels) == sorted(p.tobytes() for p in written["train"])
    assert len(dataset.validation) == 10 and set(dataset.validation.labels) == set(range(10))
    assert dataset.train.images.dtype == np.float32 and dataset.train.images.max() <= 1
    assert np.bincount(labels).tolist() == [4] * 10


def test_a_prepared_data_set_needs_its_archives_no_more(tmp_path, load):
    made.mnist(tmp_path / "manual" / "mnist")
    first = load("mnist")
    again = datasets.load("mnist", data_dir=tmp_path / "tfds", manual_dir=tmp_path / "gone")
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert first.digest == again.digest


def test_cifar10(tmp_path, load):
    images = made.cifar10(tmp_path / "manual" / "cifar10")
    dataset = load("cifar10")
    np.testing.assert_array_equal(whole(dataset, "test")[0], images)
    assert len(dataset.train) + len(dataset.validation) == 50


def test_gtsrb_is_scaled_whole_and_split_by_track(tmp_path, load):
    made.gtsrb(tmp_path / "manual" / "gtsrb")
    dataset = load("gtsrb")
    pixels, labels = whole(dataset, "test")
    assert pixels.shape == (43, 32, 32, 3) and labels.tolist() == list(range(43))
    np.testing.assert_array_equal(pixels[7], np.full((32, 32, 3), (7, 7, 248)))
    # One of each class's two tracks is held out, with all its three frames.
    assert np.bincount(dataset.validation.labels).tolist() == [3] * 43
    for label in range(43):
        shades = [
            set(np.round(s.images[s.labels == label][:, 0, 0, 0] * 255).tolist())
            for s in (dataset.train, dataset.validation)
        ]
        assert len(shades[0]) == len(shades[1]) == 1 and shades[0] != shades[1]


def test_faces_from_one_folder_a_person(tmp_path, load):
    made.faces(tmp_path / "manual" / "orl_faces", people=12)
    dataset = load("orl_faces")
    assert dataset.classes == 12 and dataset.image_shape == (20, 16, 1)
    # s2 comes before s10, and the fifth image of each is the test image.
    expected = [10 * person + 5 for person in range(1, 13)]
    assert whole(dataset, "test")[0][:, 0, 0, 0].tolist() == expected
    assert dataset.test.labels.tolist() == list(range(12))


def test_faces_are_found_and_numbered_by_name_whatever_their_format(tmp_path, load):
    from PIL import Image

    for number, person in enumerate(["J.Adams", "J.Smith", "J.Zed"]):
        folder = tmp_path / "manual" / "vggface2" / person
        folder.mkdir(parents=True)
        for i in range(5):
            image = Image.new("RGB", (16, 20), (50 * number + 10, 0, 0))
            # The last person has a gray picture among the coloured ones.
            image.convert("L" if (number, i) == (2, 0) else "RGB").save(folder / f"{i}.PNG")
    dataset = load("vggface2")
    assert dataset.image_shape == (20, 16, 3)
    assert whole(dataset, "test")[0][:, 0, 0, 0].tolist() == [10, 60, 110]
    assert len(dataset.train) + len(dataset.validation) == 12


def test_faces_of_several_sizes_have_to_be_scaled(tmp_path, load):
    folder = tmp_path / "manual" / "orl_faces"
    made.faces(folder)
    made.faces(folder / "x", people=1, size=(30, 30))
    (folder / "x" / "s1").rename(folder / "s99")
    (folder / "x").rmdir()
    with pytest.raises(DataError, match="--face-size"):
        load("orl_faces")
    assert load("orl_faces", face_size=(24, 20)).image_shape == (24, 20, 1)


def test_digits_need_nothing_and_are_split_in_equal_shares():
    dataset = datasets.load("digits")
    sizes = [len(s) for s in (dataset.train, dataset.validation, dataset.test)]
    assert sum(sizes) == 1797 and sizes[2] == 500
    assert dataset.image_shape == (28, 28, 1)
    assert np.bincount(dataset.test.labels).min() >= 45


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "make", "file"),
    [
        ("mnist", made.mnist, "train-images-idx3-ubyte.gz"),
        ("mnist", made.mnist, "t10k-labels-idx1-ubyte.gz"),
        ("cifar10", made.cifar10, "cifar-10-binary.tar.gz"),
        ("gtsrb", made.gtsrb, "GTSRB_Final_Training_Images.zip"),
        ("gtsrb", made.gtsrb, "GTSRB_Final_Test_GT.zip"),
        ("orl_faces", made.faces, "s2/3.pgm"),
    ],
)
def test_a_truncated_archive_is_named_within_seconds_and_nothing_is_left(
    tmp_path, load, name, make, file
):
    make(tmp_path / "manual" / name)
    truncate(tmp_path / "manual" / name / file)
    start = time.monotonic()
    with pytest.raises(DataError, match=Path(file).name):
        load(name)
    assert time.monotonic() - start < 10
    assert left_behind(tmp_path) == []
    # Mended, it prepares.
    for path in sorted((tmp_path / "manual" / name).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "manual" / name).rmdir()
    make(tmp_path / "manual" / name)
    load(name)


def test_a_zip_without_its_csv_is_an_error(tmp_path, load):
    made.gtsrb(tmp_path / "manual" / "gtsrb", csv=False)
    with pytest.raises(DataError, match=r"Training_Images\.zip lacks .*GT-00000\.csv \(43 such"):
        load("gtsrb")
    assert left_behind(tmp_path) == []


def test_an_archive_that_is_missing_beside_others_is_named(tmp_path, load):
    made.gtsrb(tmp_path / "manual" / "gtsrb")
    (tmp_path / "manual" / "gtsrb" / "GTSRB_Final_Test_GT.zip").unlink()
    with pytest.raises(DataError, match=r"lacks GTSRB_Final_Test_GT\.zip"):
        load("gtsrb")


def test_images_and_labels_that_disagree_are_an_error(tmp_path, load):
    folder = tmp_path / "manual" / "mnist"
    made.mnist(folder)
    made.write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(39))
    with pytest.raises(DataError, match="one label an image"):
        load("mnist")
    assert left_behind(tmp_path) == []


def test_something_else_under_an_archive_s_name_is_an_error(tmp_path, load):
    folder = tmp_path / "manual" / "mnist"
    made.mnist(folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"<html>not found</html>"))
    with pytest.raises(DataError, match="not an IDX file"):
        load("mnist")
    made.gtsrb(tmp_path / "manual" / "gtsrb")
    with zipfile.ZipFile(tmp_path / "manual" / "gtsrb" / "GTSRB_Final_Test_GT.zip", "w") as archive:
        archive.writestr("GT-final_test.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match="no columns Filename and ClassId"):
        load("gtsrb")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "gtsrb"])
def test_without_archive_and_network_it_says_what_is_missing_and_what_to_do(
    tmp_path, load, name, monkeypatch
):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(archives.socket, "create_connection", refuse)
    (tmp_path / "manual" / name).mkdir(parents=True)  # an empty folder
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        load(name)
    assert time.monotonic() - start < 10
    for told in (name, str(tmp_path / "manual"), "no route to host", "--manual-dir", "can't reach"):
        assert told in str(error.value)
    assert left_behind(tmp_path) == []


def test_a_name_server_that_never_answers_is_not_waited_for(tmp_path, load, monkeypatch):
    monkeypatch.setattr(archives, "NETWORK_TIMEOUT", 0.2)

    def late(*_, **__):
        time.sleep(2)
        raise OSError("at last")

    monkeypatch.setattr(archives.socket, "create_connection", late)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.2 s"):
        load("mnist")
    assert time.monotonic() - start < 10


def test_an_empty_folder_of_faces_is_an_error(tmp_path, load):
    (tmp_path / "manual" / "orl_faces").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no faces.*one folder a person"):
        load("orl_faces")


def test_what_a_killed_run_left_is_swept_up(tmp_path, load):
    made.mnist(tmp_path / "manual" / "mnist")
    leftover = tmp_path / "tfds" / "mnist" / "incomplete.ABC123_1.0.0"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    os.utime(leftover, (time.time() - 7200,) * 2)
    at_work = leftover.with_name("incomplete.DEF456_1.0.0")  # somebody else's, a moment ago
    at_work.mkdir()
    load("mnist")
    assert not leftover.exists() and at_work.exists()


def test_what_tfds_itself_prepared_under_the_name_is_left_alone(tmp_path, load):
    made.mnist(tmp_path / "manual" / "mnist")
    theirs = tmp_path / "tfds" / "mnist" / "3.0.1"
    theirs.mkdir(parents=True)
    (theirs / "dataset_info.json").write_text("{}")
    assert len(load("mnist").test) == 20
    assert (theirs / "dataset_info.json").exists()


def test_archives_are_downloaded_where_there_is_a_network(tmp_path, load, monkeypatch):
    """From a server of our own, through TFDS's downloader, and without TensorFlow."""
    from experiments.datasets.mnist import Mnist

    written = made.mnist(tmp_path / "published")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "published"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(Mnist, "URLS", {name: f"{address}/{name}" for name in Mnist.URLS})
    with contextlib.closing(server.socket):
        dataset = load("mnist")
        server.shutdown()
    np.testing.assert_array_equal(whole(dataset, "test")[0][..., 0], written["test"])


def test_prepare_prints_what_it_prepared_and_errors_end_with_one_line(tmp_path):
    made.mnist(tmp_path / "manual" / "mnist")
    command = [sys.executable, "-m", "experiments.prepare", "--dataset=mnist"]
    folders = [f"--data-dir={tmp_path}/tfds", f"--manual-dir={tmp_path}/manual"]
    good = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True)
    assert "mnist train: 40 images" in good.stdout and good.returncode == 0
    truncate(tmp_path / "manual" / "mnist" / "train-images-idx3-ubyte.gz")
    folders[0] = f"--data-dir={tmp_path}/other"
    bad = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in bad.stderr


def test_tensorflow_is_never_imported(tmp_path):
    made.mnist(tmp_path / "manual" / "mnist")
    code = (
        "import sys; from pathlib import Path; from experiments import datasets;"
        f"root = Path({str(tmp_path)!r});"
        "datasets.load('mnist', data_dir=root / 'tfds', manual_dir=root / 'manual');"
        "print('tensorflow' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, cwd=ROOT, capture_output=True, text=True).stdout.endswith("False\n")


REAL = {  # train + validation, test, image shape, classes, a sum over the test pixels
    "mnist": (60_000, 10_000, (28, 28, 1), 10),
    "fashion_mnist": (60_000, 10_000, (28, 28, 1), 10),
    "cifar10": (50_000, 10_000, (32, 32, 3), 10),
    "gtsrb": (39_209, 12_630, (32, 32, 3), 43),
    "orl_faces": (320, 80, (112, 92, 1), 40),
}


@pytest.mark.skipif(not made.SHARED.is_dir(), reason="the real archives are not at hand")
@pytest.mark.parametrize(
    "name",
    [n if n in ("mnist", "orl_faces") else pytest.param(n, marks=pytest.mark.slow) for n in REAL],
)
def test_the_real_archives(tmp_path, load, name):
    unpack = [sys.executable, str(made.SHARED / "unpack.py"), str(tmp_path / "manual"), name]
    subprocess.run(unpack, check=True, capture_output=True)
    dataset = load(name)
    train, test, shape, classes = REAL[name]
    assert len(dataset.train) + len(dataset.validation) == train
    assert len(dataset.test) == test
    assert dataset.image_shape == shape and dataset.classes == classes
    assert set(dataset.test.labels) == set(range(classes))
    pixels, labels = whole(dataset, "test")
    expected = EXPECTED[name]()
    np.testing.assert_array_equal(pixels[: len(expected[0])], expected[0])
    np.testing.assert_array_equal(labels[: len(expected[1])], expected[1])


def mnist_by_hand(name):
    folder = made.SHARED / name
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28, 1)
    return images, np.frombuffer(labels, np.uint8)


def cifar10_by_hand(count=200):
    from PIL import Image

    packed = np.load(made.SHARED / "cifar10.npz")
    ends = np.cumsum(packed["test_sizes"])[:count]
    blob = packed["test_blob"]
    jpegs = [blob[e - s : e].tobytes() for e, s in zip(ends, packed["test_sizes"], strict=False)]
    images = [np.asarray(Image.open(io.BytesIO(j)).convert("RGB")) for j in jpegs]
    return np.stack(images), packed["test_labels"][:count]


def gtsrb_by_hand(count=200):
    import json
    import zlib

    from PIL import Image

    packed = np.load(made.SHARED / "gtsrb.npz")
    meta = json.loads(zlib.decompress(packed["meta"].tobytes()))
    ends = np.cumsum(packed["sizes"])
    places = {n: (e - s, e) for n, e, s in zip(meta["names"], ends, packed["sizes"], strict=True)}
    blob, images = packed["blob"], []
    for i in range(count):
        start, end = places[f"GTSRB/Final_Test/Images/{i:05d}.ppm"]
        images.append(np.asarray(Image.open(io.BytesIO(blob[start:end].tobytes())).convert("RGB")))
    (truth,) = (text for name, text in meta["csv"].items() if name.endswith("final_test.csv"))
    labels = [int(line.split(";")[-1]) for line in truth.splitlines()[1 : count + 1]]
    return np.stack(images), np.array(labels)


def orl_by_hand():
    packed = np.load(made.SHARED / "orl_faces.npz")
    people, numbers = packed["person"], packed["number"]
    order = np.lexsort((numbers, people))
    rows = [i for i in order if numbers[i] in (5, 10)]
    return packed["images"][rows][..., None], people[rows] - 1


EXPECTED = {
    "mnist": partial(mnist_by_hand, "mnist"),
    "fashion_mnist": partial(mnist_by_hand, "fashion_mnist"),
    "cifar10": cifar10_by_hand,
    "gtsrb": gtsrb_by_hand,
    "orl_faces": orl_by_hand,
}
