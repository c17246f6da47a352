"""Archives that are wrong in ways that no truncation makes: told by name, and in little memory."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from functools import partial

import numpy as np
import pytest
from PIL import Image

from experiments import datasets
from experiments.datasets import DataError, cifar10, gtsrb
from tests.experiments.datasets import archives as made

TRAIN = "train-images-idx3-ubyte.gz"
BATCH = "cifar-10-batches-bin/data_batch_2.bin"
SIGN = "GTSRB/Final_Training/Images/00003/00000_00001.ppm"
TABLE = "GTSRB/Final_Training/Images/00003/GT-00003.csv"


@pytest.fixture(name="home")
def _home(tmp_path):
    for name, make in (("mnist", made.mnist), ("cifar10", made.cifar10), ("gtsrb", made.gtsrb)):
        make(tmp_path / "manual" / name)
    return tmp_path / "manual"


@pytest.fixture(name="load")
def _load(tmp_path):
    return partial(datasets.load, data_dir=tmp_path / "tfds", manual_dir=tmp_path / "manual")


@pytest.fixture(name="refused")
def _refused(tmp_path, load):
    """Asserts that a data set is refused in these words, and that nothing of it is left."""

    def check(name, told, most_mb=None):
        if most_mb is not None:
            tracemalloc.start()
        with pytest.raises(DataError, match=told):
            load(name)
        if most_mb is not None:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < most_mb * 1e6
        assert not [p for p in (tmp_path / "tfds").rglob("*") if p.is_file()]

    return check


def idx(sizes, data=b""):
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}i", *sizes) + data


@pytest.mark.parametrize(
    "sizes",
    [(-1, 28, 28), (-1, -28, 28), (40, -28, -28), (0, 28, 28), (2**31 - 1,) * 3, (60_001, 28, 28)],
)
def test_an_idx_header_of_impossible_sizes(home, refused, sizes):
    (home / "mnist" / TRAIN).write_bytes(gzip.compress(idx(sizes, bytes(28 * 28))))
    refused("mnist", rf"{TRAIN} is corrupt: its header says .*{sizes[0]}", most_mb=20)


def test_an_idx_file_of_more_or_fewer_bytes_than_its_header_says(home, refused):
    for extra, told in ((1, "more than 31,360"), (-1, "31,359")):
        content = gzip.compress(idx((40, 28, 28), bytes(40 * 28 * 28 + extra)))
        (home / "mnist" / TRAIN).write_bytes(content)
        refused("mnist", rf"{TRAIN} is truncated or corrupt: {told} bytes for \(40, 28, 28\)")


def test_a_gzip_bomb_is_not_unpacked(home, refused):
    megabyte = gzip.compress(bytes(2**20), 1)
    bomb = gzip.compress(idx((40, 28, 28))) + 400 * megabyte
    (home / "mnist" / TRAIN).write_bytes(bomb)
    refused("mnist", rf"{TRAIN} is truncated or corrupt: more than 31,360", most_mb=20)


def test_a_gzip_bomb_in_cifar_s_place_is_not_unpacked(home, refused, monkeypatch):
    monkeypatch.setattr(cifar10, "MOST_BYTES", 2**20)
    megabyte = gzip.compress(bytes(2**20), 1)
    (home / "cifar10" / cifar10.ARCHIVE).write_bytes(400 * megabyte)
    refused("cifar10", r"cifar-10-binary\.tar\.gz unpacks to too much.* 1,048,576", most_mb=20)


def test_labels_that_are_no_class_s(home, refused):
    made.write_idx(home / "mnist" / "t10k-labels-idx1-ubyte.gz", np.full(20, 10))
    refused("mnist", r"t10k-labels-idx1-ubyte\.gz has the label 10; expected 0 to 9")
    rewrite_tar(home, lambda info, data: (info, b"\xc8" + data[1:] if info.name == BATCH else data))
    refused("cifar10", r"tar\.gz: .*data_batch_2\.bin has the label 200; expected 0 to 9")


def rewrite_tar(home, change):
    """`change` gets and returns each member's (header, bytes)."""
    path = home / "cifar10" / cifar10.ARCHIVE
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar.getmembers()]
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info, data = change(info, data)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.DIRTYPE, ""), (tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "x")],
)
def test_a_tar_member_that_is_no_file(home, refused, kind, link):
    def change(info, data):
        if info.name != BATCH:
            return info, data
        info.type, info.linkname = kind, link
        return info, b""

    rewrite_tar(home, change)
    refused("cifar10", r"data_batch_2\.bin is no whole number of 3073-byte records \(0 bytes\)")


@pytest.mark.parametrize("cut", [1, 30_730])
def test_a_tar_member_of_part_of_a_record_or_of_none(home, refused, cut):
    rewrite_tar(home, lambda i, data: (i, data[: -cut or None] if i.name == BATCH else data))
    refused("cifar10", r"data_batch_2\.bin is no whole number of 3073-byte records")


def test_a_tar_member_that_claims_more_than_there_is(home, refused):
    for claimed in (2**40 * cifar10.RECORD, -cifar10.RECORD, 2**70):
        info = tarfile.TarInfo(BATCH)
        info.size = claimed
        header = info.tobuf(tarfile.GNU_FORMAT)
        (home / "cifar10" / cifar10.ARCHIVE).write_bytes(gzip.compress(header + bytes(1024)))
        refused("cifar10", r"cifar-10-binary\.tar\.gz", most_mb=20)


def test_a_tar_that_was_unpacked_from_its_gzip_on_the_way_is_read(home, load):
    path = home / "cifar10" / cifar10.ARCHIVE
    packed = load("cifar10")
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert load("cifar10").digest == packed.digest


def rewrite_zip(path, changed, method=zipfile.ZIP_STORED):
    """Replaces members' bytes: name -> bytes, or None to leave the member out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data, method if name in changed else None)


def ppm(size=(24, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PPM")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>", "00000_00001.ppm is not a readable image"),
        (ppm()[:-1], "00000_00001.ppm is not a readable image"),
        (b"P6 99999 99999 255\n", "00000_00001.ppm is too large"),
        (b"", "00000_00001.ppm is not a readable image"),
        (None, "is incomplete.*00000_00001.ppm"),
        (bytes(gtsrb.MOST_BYTES + 1), r"00000_00001.ppm has 16,777,217 bytes"),
    ],
)
def test_a_broken_image_in_a_sound_zip_is_named_with_its_archive(home, refused, content, told):
    rewrite_zip(home / "gtsrb" / gtsrb.TRAIN, {SIGN: content}, zipfile.ZIP_DEFLATED)
    refused("gtsrb", rf"GTSRB_Final_Training_Images\.zip.*{told}")


def test_a_zip_member_packed_so_that_its_size_has_no_bound(home, refused):
    rewrite_zip(home / "gtsrb" / gtsrb.TRAIN, {SIGN: ppm()}, zipfile.ZIP_BZIP2)
    refused("gtsrb", r"00000_00001.ppm .*packed by method 12.*stored or deflated")


def test_a_zip_member_that_unpacks_to_more_than_it_claims(home, refused):
    path = home / "gtsrb" / gtsrb.TRAIN
    rewrite_zip(path, {SIGN: ppm((2000, 2000)) + bytes(2 * 10**8)}, zipfile.ZIP_DEFLATED)
    real, claimed = (struct.pack("<I", n) for n in (12_000_017 + 2 * 10**8, 1000))
    assert path.read_bytes().count(real) == 2  # beside the member, and in the zip's list
    path.write_bytes(path.read_bytes().replace(real, claimed))
    refused("gtsrb", rf"{gtsrb.TRAIN}", most_mb=40)


def test_a_zip_that_is_encrypted(home, refused):
    path = home / "gtsrb" / gtsrb.TRUTH
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    content[content.index(b"PK\3\4") + 6] |= 1
    path.write_bytes(content)
    refused("gtsrb", r"GTSRB_Final_Test_GT\.zip is truncated or corrupt.*encrypted")


def table(*rows):
    return "\n".join(["Filename;Width;ClassId", *rows])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (table("00000_00000.ppm;24;4"), r"has the ClassId 4 for 00000_00000\.ppm; expected 3"),
        (table("00000_00000.ppm;24;43"), r"has the label 43; expected 0 to 42"),
        (table("00000_00000.ppm;24;three"), r"line 2: expected .*ClassId.*got .*'three'"),
        (table("00000_00000.ppm;24;-1"), r"line 2: expected .*ClassId.*got .*'-1'"),
        (table("00000_00000.ppm;24;3.0"), r"line 2: expected .*ClassId.*got .*'3\.0'"),
        (table("00000_00000.ppm;24"), r"line 2: expected .*ClassId.*got .*None"),
        (table(";24;3"), r"line 2: expected a Filename"),
        (table("sign.ppm;24;3"), r"names 'sign\.ppm'; expected TRACK_FRAME\.ppm"),
        (table("../x_1.ppm;24;3"), r"names '\.\./x_1\.ppm'; expected TRACK_FRAME\.ppm"),
        (table(), r"names no images"),
        (table("x" * 200_000), r"is truncated or corrupt \(field larger than"),
        ("", r"has no columns Filename and ClassId"),
    ],
)
def test_a_table_of_signs_that_is_wrong_is_named_with_its_archive(home, refused, content, told):
    rewrite_zip(home / "gtsrb" / gtsrb.TRAIN, {TABLE: content})
    refused("gtsrb", rf"GTSRB_Final_Training_Images\.zip.*{told}")


def test_the_test_signs_table_is_checked_too(home, refused):
    for content, told in ((table("00000.ppm;24;43"), "label 43"), (table(), "names no images")):
        rewrite_zip(home / "gtsrb" / gtsrb.TRUTH, {gtsrb.TEST_CSV: content})
        refused("gtsrb", rf"GTSRB_Final_Test_GT\.zip: GT-final_test\.csv.*{told}")


def test_folders_in_a_zip_do_no_harm_and_are_no_images(home, load, refused):
    sound = load("gtsrb")
    rewrite_zip(home / "gtsrb" / gtsrb.TRAIN, {"GTSRB/": b"", "GTSRB/Final_Training/": b""})
    assert load("gtsrb").digest == sound.digest


def test_a_class_without_images_to_train_on(home, load):
    made.write_idx(home / "mnist" / "train-labels-idx1-ubyte.gz", np.arange(40) % 9)
    with pytest.raises(DataError, match=r"mnist has no training images of the classes \[9\]"):
        load("mnist")
    made.write_idx(home / "mnist" / "train-labels-idx1-ubyte.gz", np.maximum(np.arange(40) - 30, 0))
    with pytest.raises(DataError, match=r"too few training images of class 1: .* 2 images.* got 1"):
        load("mnist")


def test_a_sign_of_a_single_track_can_t_be_held_out(home, load):
    rows = table(*(f"00000_{frame:05d}.ppm;24;3" for frame in range(3)))
    rewrite_zip(home / "gtsrb" / gtsrb.TRAIN, {TABLE: rows})
    with pytest.raises(DataError, match=r"too few training images of class 3: .* 2 tracks.* got 1"):
        load("gtsrb")
