"""Everything that runs need and that is not in the package: what is there, fetched, or to be done by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from harness.common.download import Bar
from harness.common.errors import MissingError, UserError
from harness.common.places import Places
from harness.data.card import Card, card_names, dataset_names, dataset_root, load_card
from harness.data.category import open_category
from harness.data.fetch import by_hand
from harness.data.samples import category_names
from harness.method import Asset
from harness.registry.assets import fetch_asset, find_asset
from harness.registry.configuration import Configured, check_needs, configure_methods
from harness.registry.weights import check_strides, fetch_weights, find_weights
from harness.spec.suite import Suite


@dataclass(frozen=True)
class Item:
    """One thing that runs need.

    Attributes:
        what: the thing.
        state: ``there`` already, ``fetched`` just now, or ``missing``.
        note: where it lies, or what to do.
    """

    what: str
    state: Literal["there", "fetched", "missing"]
    note: str


def prepare(
    suite: Suite, places: Places, bar: Bar, offline: bool = False, pretrained: bool = True
) -> Iterator[Item]:
    """Looks for everything that the runs of a suite need, and downloads what can be downloaded.

    Datasets are looked for only: to fetch one means to accept its licence.

    Args:
        suite: the runs.
        places: where things are looked for.
        bar: shows one download.
        offline: whether nothing may be downloaded.
        pretrained: whether pretrained weights are wanted.

    Raises:
        UserError: a name or a hyper-parameter of the suite does not exist.
    """
    configured = configure_methods(suite)
    cards = {name: load_card(name) for name in dataset_names(suite.datasets)}
    return _Preparation(suite, places, bar, offline, pretrained).items(configured, cards)


class _Preparation:
    def __init__(self, suite: Suite, places: Places, bar: Bar, offline: bool, pretrained: bool) -> None:
        self.suite, self.places, self.bar = suite, places, bar
        self.offline, self.pretrained = offline, pretrained

    def items(self, configured: Sequence[Configured], cards: Mapping[str, Card]) -> Iterator[Item]:
        for one in configured:
            yield _item(f"method {one.label}", partial(self._fits, one))
        needs = [one.needs for one in configured]
        wanted = {(name, strides) for need in needs for name, strides in need.backbones.items()}
        for name in sorted({name for name, _ in wanted}):
            strides = [strides for other, strides in wanted if other == name and strides]
            fetch = partial(self._fetch_weights, name)
            yield _item(f"weights {name}", partial(self._weights, name, strides), self._online(fetch))
        for asset in {asset.name: asset for need in needs for asset in need.assets}.values():
            fetch = partial(self._fetch_asset, asset)
            yield _item(f"asset {asset.name}", partial(self._asset, asset), self._online(fetch))
        yield from self._datasets(cards)

    def _online(self, fetch: Callable[[], str]) -> Callable[[], str] | None:
        return None if self.offline else fetch

    def _fits(self, one: Configured) -> str:
        check_needs(one, self.suite)
        return "installed"

    def _weights(self, name: str, strides: Sequence[tuple[int, ...]]) -> str:
        found = find_weights(name, self.places.cache, self.pretrained)
        for some in strides:
            check_strides(found.backbone, some)
        return str(found.path or "random")

    def _fetch_weights(self, name: str) -> str:
        with self.bar(name) as progress:
            return str(fetch_weights(name, self.places.cache, progress).path)

    def _asset(self, asset: Asset) -> str:
        return str(find_asset(asset, self.places.cache).folder)

    def _fetch_asset(self, asset: Asset) -> str:
        with self.bar(asset.name) as progress:
            return str(fetch_asset(asset, self.places.cache, progress).folder)

    def _datasets(self, cards: Mapping[str, Card]) -> Iterator[Item]:
        asked, known = set(self.suite.categories), set[str]()
        for card in cards.values():
            try:
                root = dataset_root(card, self.places.data_root, self.places.cache)
            except UserError as error:
                known |= asked & _names(card, [c.name for c in card.categories])
                yield Item(f"dataset {card.name}", "missing", f"{error} {self._way(card)}")
                continue
            names = category_names(card, root)
            known |= asked & _names(card, names)
            chosen = [name for name in names if not asked or {name, f"{card.name}/{name}"} & asked]
            if chosen:
                yield self._categories(card, root, chosen)
        for name in sorted(asked - known):
            yield Item(f"category {name}", "missing", "No dataset of this run is known to have it.")

    def _categories(self, card: Card, root: Path, names: Sequence[str]) -> Item:
        problems: dict[str, str] = {}
        for name in names:
            try:
                open_category(card, name, self.places)
            except UserError as error:
                problems[name] = str(error)
        what = f"dataset {card.name}"
        if not problems:
            return Item(what, "there", str(root))
        first = next(iter(problems.values()))
        others = f" Not complete either: {', '.join(list(problems)[1:])}." if len(problems) > 1 else ""
        return Item(what, "missing", f"{first}{others}")

    def _way(self, card: Card) -> str:
        words = by_hand(card, self.places.data_root)
        given = card.name if card.name in card_names() else "path/to/card.toml"
        command = f"Run `bench data fetch {given} --accept-licence`. " if card.archives else ""
        return f"{command}{words}".strip()


def _names(card: Card, categories: Sequence[str]) -> set[str]:
    return {*categories, *(f"{card.name}/{category}" for category in categories)}


def _item(what: str, look: Callable[[], str], fetch: Callable[[], str] | None = None) -> Item:
    try:
        return Item(what, "there", look())
    except MissingError as error:
        if fetch is None:
            return Item(what, "missing", str(error))
    except UserError as error:
        return Item(what, "missing", str(error))
    try:
        return Item(what, "fetched", fetch())
    except UserError as error:
        return Item(what, "missing", str(error))
