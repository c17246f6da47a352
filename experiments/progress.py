"""One look for every progress bar."""

from typing import Any

from tqdm.auto import tqdm


def bar(total: int, title: str, unit: str, **options: Any) -> tqdm:
    return tqdm(total=total, desc=f"{title:<22}", unit=f" {unit}", dynamic_ncols=True, **options)
