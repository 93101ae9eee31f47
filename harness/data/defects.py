"""MVTec LOCO's tables of defects: what saturates where."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from harness.common.errors import UserError
from harness.common.files import read_bounded
from harness.data.card import Card

# LOCO's tables have a few kB.
_LARGEST = 1024**2


class Defect(BaseModel):
    """One entry of a table of defects.

    Attributes:
        defect_name: for people.
        pixel_value: the value of its pixels in a mask.
        relative_saturation: whether the threshold is a share of the annotation's area.
        saturation_threshold: area from which on the defect counts as found in full: a share in (0, 1], or
            a whole number of pixels, 1 or more.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    defect_name: str
    pixel_value: int = Field(ge=1, le=65535)
    relative_saturation: bool
    saturation_threshold: float = Field(gt=0, allow_inf_nan=False)

    @field_validator("saturation_threshold")
    @classmethod
    def _share(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("relative_saturation") and value > 1:
            raise ValueError(f"a share of the area cannot be {value:g}")
        if info.data.get("relative_saturation") is False and value != int(value):
            raise ValueError(f"a number of pixels cannot be {value:g}")
        return value


@dataclass(frozen=True)
class DefectTable:
    """A category's defects by pixel value, and where they are written.

    Attributes:
        sha256: the SHA-256 sum of the file.
    """

    path: Path
    sha256: str
    defects: Mapping[int, Defect]


def read_defects(card: Card, category: str, root: Path) -> DefectTable | None:
    """Reads a category's table of defects; ``None`` where the card names none.

    Raises:
        UserError: the file is missing or malformed; the sentence names it and the field.
    """
    if card.layout.defects is None:
        return None
    path = root / card.layout.defects.replace("{category}", category)
    try:
        content = read_bounded(path, _LARGEST)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}), but field 'layout.defects' of card "
            f"'{card.name}' names it: restore it from {card.homepage}."
        ) from error
    try:
        entries = TypeAdapter(list[Defect]).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        field = f"field '{where}': " if where else ""
        raise UserError(f"{path}: {field}{first['msg'].removeprefix('Value error, ')}.") from error
    if not entries:
        raise UserError(f"{path} lists no defect.")
    defects: dict[int, Defect] = {}
    for index, entry in enumerate(entries):
        if entry.pixel_value in defects:
            raise UserError(f"{path}: field '{index}.pixel_value': {entry.pixel_value} is listed twice.")
        defects[entry.pixel_value] = entry
    return DefectTable(path, hashlib.sha256(content).hexdigest(), defects)
