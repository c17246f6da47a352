"""A folder a person, as people's disks have it: the right people and images, or an error."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import datasets
from experiments.datasets import DataError, folders
from tests.experiments.datasets import archives as made


@pytest.fixture(name="home")
def _home(tmp_path) -> Path:
    """The folder of faces: s1, s2, s3 with five gray images each, of the shades 11 to 35."""
    made.faces(tmp_path / "manual" / "orl_faces")
    return tmp_path / "manual" / "orl_faces"


@pytest.fixture(name="load")
def _load(tmp_path):
    return partial(
        datasets.load, "orl_faces", data_dir=tmp_path / "tfds", manual_dir=tmp_path / "manual"
    )


def left_behind(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "tfds").rglob("*") if p.is_file()]


def person(folder: Path, *shades: int, suffix: str = "png") -> None:
    """A person with an image of each shade, numbered from 1."""
    folder.mkdir(parents=True)
    for number, shade in enumerate(shades, start=1):
        Image.new("L", (16, 20), shade).save(folder / f"{number}.{suffix}")


def shades(split) -> list[int]:
    return np.round(split.images[:, 0, 0, 0] * 255).astype(int).tolist()


def test_what_systems_and_editors_leave_is_no_person_and_no_image(home, load):
    clean = load()
    for folder in (home, home / "s1"):
        for name in (
            *(".DS_Store", "._1.pgm", ".hidden.png", "Thumbs.db", "desktop.ini", "Icon\r"),
            *("1.pgm~", "#1.pgm#", "2.pgm.tmp", "3.pgm.part", "4.jpg.crdownload", "5.pgm.bak"),
            *("README", "notes.txt", "list.csv", "faces.zip"),
        ):
            (folder / name).write_bytes(b"not an image")
        for name in (".git", "__MACOSX", "@eaDir", ".Trashes"):
            (folder / name).mkdir()
            (folder / name / "x.png").write_bytes(b"not an image")
    assert load().digest == clean.digest


@pytest.mark.parametrize("name", ["9.jpg", "9.JPEG_large", "9", "9.heic", "9.pgm.1"])
def test_nothing_else_is_passed_over_without_a_word(home, load, tmp_path, name):
    (home / "s2" / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=rf"s2/{name} is not a readable image"):
        load()
    assert left_behind(tmp_path) == []


def test_an_image_is_one_whatever_its_suffix(home, load):
    (home / "s2" / "6.pgm").write_bytes((home / "s2" / "1.pgm").read_bytes())
    for name in ("6.tiff", "7.webp", "8"):
        Image.new("L", (16, 20), 99).save(home / "s2" / name, "PNG")
    assert len(load().train) + len(load().validation) == 4 + 8 + 4


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda home: (home / "s4").mkdir(), r"s4 holds 0 images; expected at least 3 a person"),
        (lambda home: person(home / "s4", 1, 2), r"s4 holds 2 images; expected at least 3"),
        (lambda home: person(home / "s2" / "more", 1), r"s2/more is a folder; expected images"),
        (lambda home: Image.new("L", (1, 1)).save(home / "x.png"), r"x\.png lies beside"),
        (lambda home: (home / "s4").symlink_to("gone"), r"s4 is a broken link"),
        (lambda home: (home / "s4").symlink_to("s4"), r"s4 is a broken link"),
        (lambda home: (home / "s1" / "6.pgm").symlink_to("gone"), r"6\.pgm is a broken link"),
        (lambda home: os.mkfifo(home / "s1" / "6.pgm"), r"6\.pgm is .*no regular file"),
        (lambda home: (home / "s4").symlink_to("."), r"s4/s1 is a folder"),
        (lambda home: (home / "s1" / "up").symlink_to(".."), r"s1/up is a folder"),
        (lambda home: (home / "s4").symlink_to("s2"), r"s2 and .*s4 are one but for"),
        (lambda home: person(home / "S2", 1, 2, 3), r"S2 and .*s2 are one but for case"),
    ],
)
def test_a_folder_that_would_give_wrong_classes_is_an_error(home, load, tmp_path, spoil, told):
    spoil(home)
    with pytest.raises(DataError, match=told):
        load()
    assert left_behind(tmp_path) == []


def test_names_that_differ_in_their_unicode_form_alone_are_an_error(home, load):
    person(home / "Jos\u00e9", 1, 2, 3)
    person(home / "Jose\u0301", 1, 2, 3)
    with pytest.raises(DataError, match="are one but for case, Unicode form or a link"):
        load()


def test_people_elsewhere_are_found_through_links(home, load, tmp_path):
    person(tmp_path / "elsewhere", 70, 71, 72)
    (home / "s4").symlink_to(tmp_path / "elsewhere")
    assert load().classes == 4 and shades(load().test)[-1] == 72


def test_names_are_ordered_naturally_and_always_alike():
    digits = ["1", "01", "10", "\u00b2", "x1\u00b2", "\u0661"]  # a superscript, an Arabic digit
    names = ["s10", "s2", "b", "1a", "a1", "B", "a", "\u00e9", "e\u0301", *digits]
    ordered = sorted(names, key=folders.natural)
    assert ordered == sorted(reversed(names), key=folders.natural)
    for earlier, later in (("s2", "s10"), ("01", "1"), ("1", "1a"), ("1", "10"), ("1a", "a1")):
        assert ordered.index(earlier) < ordered.index(later)


def test_labels_and_test_images_follow_that_order(tmp_path, load):
    home = tmp_path / "manual" / "orl_faces"
    for shade, name in enumerate(["B", "a1", "01", "1", "1a"]):
        person(home / name, *range(10 * shade, 10 * shade + 5))
    assert shades(load().test) == [24, 34, 44, 4, 14]  # 01, 1, 1a, B, a1
    assert load().test.labels.tolist() == [0, 1, 2, 3, 4]


def test_of_a_person_with_few_images_the_last_is_the_test_image(tmp_path, load):
    home = tmp_path / "manual" / "orl_faces"
    counts = [3, 4, 5, 9, 10]
    for number, count in enumerate(counts):
        person(home / f"p{number}", *range(20 * number + 1, 20 * number + 1 + count))
    dataset = load()
    assert shades(dataset.test) == [3, 24, 45, 65, 85, 90]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert set(split.labels) == set(range(5))
    total = sum(len(s) for s in (dataset.train, dataset.validation, dataset.test))
    assert total == sum(counts)


def test_one_image_in_colour_makes_all_so(home, load):
    Image.new("RGB", (16, 20), (200, 0, 0)).save(home / "s3" / "5.pgm", "PPM")
    dataset = load()
    assert dataset.image_shape == (20, 16, 3)
    pixels = np.round(dataset.test.images[:, 0, 0] * 255).astype(int)
    np.testing.assert_array_equal(pixels, [[15] * 3, [25] * 3, [200, 0, 0]])


def test_sixteen_bits_and_one_bit_are_gray_like_the_others(home, load):
    Image.fromarray(np.full((20, 16), 200 * 257, np.uint16)).save(home / "s1" / "5.pgm", "PNG")
    Image.new("1", (16, 20), 1).save(home / "s2" / "5.pgm", "PNG")
    dataset = load()
    assert dataset.image_shape == (20, 16, 1) and shades(dataset.test) == [200, 255, 35]


@pytest.mark.parametrize("size", [(0, 20), (20, -1), (100_000, 100_000)])
def test_a_size_that_no_image_has_is_an_error(home, load, size):
    with pytest.raises(DataError, match=rf"--face-size.*got {size[0]} {size[1]}"):
        load(face_size=size)


def test_an_unreadable_folder_is_named(home, load, monkeypatch):
    iterate = Path.iterdir

    def refuse(path):
        if path.name == "s2":
            raise PermissionError(13, "Permission denied", str(path))
        return iterate(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"can't read .*s2 \(Permission denied\)"):
        load()


CHANGES = {
    "a person more": lambda home: person(home / "s4", 1, 2, 3, 4, 5),
    "a person fewer": lambda home: shutil.rmtree(home / "s3"),
    "a person renamed": lambda home: (home / "s3").rename(home / "s0"),
    "an image more": lambda home: Image.new("L", (16, 20)).save(home / "s1" / "6.pgm"),
    "an image fewer": lambda home: (home / "s1" / "5.pgm").unlink(),
    "an image changed": lambda home: Image.new("L", (16, 20), 9).save(home / "s1" / "5.pgm"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_preparing_is_seen(home, load, tmp_path, change):
    before = load()
    CHANGES[change](home)
    after = load()
    assert after.digest != before.digest
    fresh = datasets.load("orl_faces", data_dir=tmp_path / "other", manual_dir=tmp_path / "manual")
    assert after.digest == fresh.digest
