"""The page of an audit: one self-contained HTML file, its pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from harness.checks.dataset.audit import Audited, AuditFinding, Picture
from harness.checks.dataset.shifts import GREY_LEVELS, LARGE, LEVEL
from harness.common.html import render
from harness.data.decoding import read_mask, read_rgb

# Side of a picture in pixels, and how many findings of a kind are shown with pictures in each category.
SIDE, SHOWN = 176, 24
_LINE = (255, 40, 120)
_TITLES = {
    "duplicate": "Near duplicates",
    "mask": "Masks that look wrong",
    "shift": "Exposure and resolution that differ",
}
_WIDTH, _ROW = 460, 26


def audit_page(audited: Sequence[Audited]) -> str:
    """Returns the page as HTML.

    Raises:
        UserError: a picture can no longer be read.
    """
    return render(
        Path(__file__).parent / "audit.html.j2",
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        categories=[_category(one, f"c{number}") for number, one in enumerate(audited)],
        rule=f"p ≤ {LEVEL}, |δ| ≥ {LARGE} and {GREY_LEVELS:g} grey levels",
        side=SIDE,
    )


def _category(one: Audited, identifier: str) -> dict[str, Any]:
    sections = []
    for kind, title in _TITLES.items():
        own = [finding for finding in one.findings if finding.kind == kind]
        if own:
            shown = [_finding(finding) for finding in own[:SHOWN]]
            rest = [finding.message for finding in own[SHOWN:]]
            sections.append({"title": title, "count": len(own), "shown": shown, "rest": rest})
    return {
        "name": f"{one.dataset} · {one.category}",
        "id": identifier,
        "counts": one.counts,
        "totals": [one.count(kind) for kind in ("duplicate", "mask", "shift")],
        "sections": sections,
        "shifts": one.shifts,
        "strips": _strips(one.brightness),
        "width": _WIDTH,
    }


def _finding(finding: AuditFinding) -> dict[str, Any]:
    return {"message": finding.message, "pictures": [(p.name, address(p)) for p in finding.pictures]}


def _strips(brightness: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    """Where the images of each group lie between black and white: a tick for each."""
    return [
        {"name": name, "y": row * _ROW, "ticks": sorted({round(v / 255 * _WIDTH, 1) for v in values})}
        for row, (name, values) in enumerate((n, v) for n, v in brightness.items() if v)
    ]


def address(picture: Picture) -> str:
    """Returns a picture with the outlines of its masks as the address of its data, a JPEG file."""
    pixels = read_rgb(picture.image)
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    for path in picture.masks:
        # Averaged, not sampled: a scratch of one pixel stays in sight.
        mask = cv2.resize(read_mask(path) * 255, size, interpolation=cv2.INTER_AREA)
        contours, _ = cv2.findContours((mask > 32).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, contours, -1, _LINE, 1)
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=82, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
