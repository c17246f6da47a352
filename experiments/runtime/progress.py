"""Progress bars in one style."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")


def bar(total: int, title: str, unit: str, **options: Any) -> tqdm:
    return tqdm(total=total, desc=f"{title:<22}", unit=f" {unit}", dynamic_ncols=True, **options)


def over(items: Iterable[Item], title: str) -> Iterator[Item]:
    """Yields the items, with a progress bar."""
    yield from tqdm(list(items), desc=f"{title:<22}", dynamic_ncols=True)
