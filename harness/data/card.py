"""Dataset cards: where a dataset's images lie, which are normal, and how many there should be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.common.errors import UserError, nearest
from harness.common.toml import read_toml

NORMAL = "normal"
# What else stands where records name the kinds of anomalies.
_RESERVED = {"all", "mean", "kinds_mean", "train", "validation", "test", "moved", "unscored"}
CSV_COLUMNS = frozenset({"object", "split", "label", "image", "mask"})
Count = Annotated[int, Field(ge=0)]


def inside(path: str) -> str:
    """Refuses paths that lead out of the dataset's folder; a card may come from anybody."""
    if not path:
        raise ValueError("is empty")
    if path.startswith("/") or PureWindowsPath(path).drive or "\\" in path:
        raise ValueError(f"'{path}' must be a relative path with '/' between its parts")
    if ".." in PurePosixPath(path).parts:
        raise ValueError(f"'{path}' may not contain '..'")
    if "\0" in path or len(path) > 1000:
        raise ValueError("is no path: it has a null character, or more than 1000 characters")
    return path


def _pattern(path: str) -> str:
    unknown = set(re.findall(r"{[^}]*}", path)) - {"{category}", "{defect}", "{stem}"}
    if unknown:
        raise ValueError(f"{min(unknown)} is no placeholder; there are {{category}}, {{defect}}, {{stem}}")
    if any("**" in part and part != "**" for part in PurePosixPath(path).parts):
        raise ValueError(f"'{path}': '**' must stand alone between two '/'")
    return inside(path)


RelativePath = Annotated[str, AfterValidator(inside)]


Pattern = Annotated[str, AfterValidator(_pattern)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CategoryCounts(_Model):
    """A category and how many images it officially has.

    ``train`` and ``test`` (images of each kind, ``normal`` included) are ``None`` where the card is silent.
    """

    name: RelativePath
    train: Count | None = None
    validation: Count = 0
    test: dict[str, Count] | None = None


class Layout(_Model):
    """Where the images lie: glob patterns below the dataset's folder, or a CSV file.

    Patterns may hold ``{category}``; mask patterns also ``{defect}`` (the folder of the test image) and
    ``{stem}`` (its name without the suffix). Suffixes are matched in any case.

    Attributes:
        masks: patterns of the masks of one anomalous test image; everything found is united.
        csv: a table with the columns object, split, label, image, mask, instead of patterns.
        defects: a category's table of defects in MVTec LOCO's format (``defects_config.json``).
        normal: folders (or labels of the CSV file) of normal images.
        kinds: the kind of anomaly that a folder (or label) holds; ``anomalous`` where not named.
    """

    train: tuple[Pattern, ...] = ()
    validation: tuple[Pattern, ...] = ()
    test: tuple[Pattern, ...] = ()
    masks: tuple[Pattern, ...] = ()
    csv: RelativePath | None = None
    defects: Pattern | None = None
    normal: tuple[str, ...] = ("good",)
    kinds: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> Layout:
        if self.csv is None and not (self.train and self.test and self.masks):
            raise ValueError("give either csv, or all of train, test and masks")
        if self.csv is not None and (self.train or self.validation or self.test or self.masks):
            raise ValueError("give either csv or patterns, not both")
        if NORMAL in self.kinds.values():
            raise ValueError("a folder of normal images belongs into normal, not into kinds")
        if reserved := _RESERVED & set(self.kinds.values()):
            raise ValueError(f"'{min(reserved)}' cannot be a kind of anomaly")
        if self.defects is not None and (not self.kinds or re.search("{(defect|stem)}", self.defects)):
            raise ValueError("defects needs kinds, and may hold no placeholder but {category}")
        return self

    def kind(self, folder: str) -> str:
        """Returns the kind of the images in a folder (or with a label of the CSV file)."""
        return NORMAL if folder in self.normal else self.kinds.get(folder, "anomalous")


class Archive(_Model):
    """A file that holds a dataset, or a part of it.

    Attributes:
        url: its address.
        sha256: the SHA-256 sum of its bytes.
        max_files: it is refused if it holds more files and folders than this.
        max_bytes: it is refused if it is longer than this, packed or unpacked.
    """

    url: Annotated[str, Field(pattern="^https?://[^ ]+/[^ /?#]+$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    max_files: Annotated[int, Field(gt=0)]
    max_bytes: Annotated[int, Field(gt=0)]

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


class Card(_Model):
    """All that the harness knows about a dataset without looking at it.

    Attributes:
        name: the card's file name without ``.toml``.
        licence_verified: false where no licence file confirms the licence.
        citation: a BibTeX entry.
        folders: names of the dataset's folder tried below the data root.
        archives: files that ``bench data fetch`` downloads; empty where there is no stable address.
        note: how to get the data by hand.
        generator: ``demo`` for data that the harness makes itself.
        categories: empty if every subfolder of the dataset's folder is a category.
    """

    schema_: Literal[1] = Field(alias="schema")
    name: str
    title: str
    licence: str
    licence_verified: bool = True
    homepage: str
    citation: str = ""
    folders: Annotated[tuple[RelativePath, ...], Field(min_length=1)]
    archives: tuple[Archive, ...] = ()
    note: str = ""
    generator: Literal["demo"] | None = None
    layout: Layout
    categories: tuple[CategoryCounts, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Card:
        names = [category.name for category in self.categories]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"category '{twice[0]}' is listed twice")
        return self

    def counts(self, category: str) -> CategoryCounts | None:
        """Returns the official counts of a category, ``None`` where the card has none."""
        return next((c for c in self.categories if c.name == category), None)


def cards_folder() -> Path:
    """Returns the folder of the built-in cards."""
    # In the wheel the cards lie inside the package, in the checkout beside it.
    packaged = Path(__file__).parents[1] / "cards"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "datasets"


def card_names() -> list[str]:
    """Returns the names of the built-in cards."""
    return sorted(path.stem for path in cards_folder().glob("*.toml"))


def dataset_names(given: Sequence[str]) -> list[str]:
    """Returns names and paths of cards, ``all`` replaced by every built-in card but the demo.

    Raises:
        UserError: none is given.
    """
    names: list[str] = []
    for name in given:
        names += [card for card in card_names() if card != "demo"] if name == "all" else [name]
    if not names:
        raise UserError(f"No dataset is given. {nearest('', card_names())}")
    return list(dict.fromkeys(names))


def load_card(name_or_path: str | Path) -> Card:
    """Reads a built-in card by its name, or any card by the path of its ``.toml`` file.

    Raises:
        UserError: there is no such card, or it has a mistake; the sentence names file and line or field.
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        path = Path(text)
    else:
        if text not in card_names():
            hint = nearest(text, card_names())
            raise UserError(
                f"No dataset card is called '{text}'. {hint} For an own dataset give its .toml file."
            )
        path = cards_folder() / f"{text}.toml"
    content = read_toml(path, "Dataset card")
    try:
        return Card.model_validate({**content, "name": path.stem})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        field = f"field '{where}': " if where else ""
        raise UserError(f"Dataset card {path}: {field}{what}.") from error


def dataset_root(card: Card, data_root: Path | None, cache: Path | None = None) -> Path:
    """Returns the folder of a dataset; makes it first, in the cache, where the card names a generator."""
    if card.generator == "demo":
        # Imported here because the demo needs the image cache, and no other dataset needs the demo.
        from harness.common.files import cache_dir
        from harness.data.demo import ensure_demo

        return ensure_demo(cache or cache_dir())
    if data_root is None:
        raise UserError(
            f"Dataset '{card.name}' needs a data root: give --data-root or set BENCH_DATA to the folder "
            f"that holds '{card.folders[0]}'."
        )
    for folder in card.folders:
        if (data_root / folder).is_dir():
            return data_root / folder
    raise UserError(
        f"Dataset '{card.name}' was not found below {data_root} (tried {', '.join(card.folders)}): get it "
        f"from {card.homepage}, or point --data-root or BENCH_DATA elsewhere."
    )
