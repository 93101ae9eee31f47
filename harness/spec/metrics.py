"""The metrics, and their titles."""

from __future__ import annotations

from collections.abc import Mapping

METRICS: Mapping[str, str] = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "image_ap": "Image AP",
    "image_f1max": "Image F1-max",
    "pixel_ap": "Pixel AP",
    "pixel_f1max": "Pixel F1-max",
    "map_max_auroc": "Image AUROC of the maps' maxima",
    "spro_0.05": "sPRO (FPR ≤ 0.05)",
    "spro_0.01": "sPRO (FPR ≤ 0.01)",
    "spro_0.1": "sPRO (FPR ≤ 0.1)",
    "spro_0.3": "sPRO (FPR ≤ 0.3)",
    "spro_1": "sPRO (FPR ≤ 1)",
}
