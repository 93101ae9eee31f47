"""What a suite asks for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.common.values import Frozen
from harness.spec.run import Evaluate, Keep, Scalar, Value


class Suite(Frozen):
    """A named set of runs, kept as a TOML file.

    Attributes:
        title: one line for people.
        about: what the suite shows, and what it leaves out; printed on the page.
        methods: method names, parameters allowed.
        datasets: dataset names or paths of cards.
        categories: only these categories; empty for all of each dataset.
        seeds: seeds of the runs.
        protocols: names of the protocols.
        image_size: side of the images.
        backbone: backbone for every method that has one; empty for each method's own.
        evaluate: see :class:`RunSpec`.
        keep: artefacts to leave beside the records: ``maps``, ``weights``, ``parts``.
        measure: seconds that measuring the efficiency of a run may take; without one, a share of the
            run's own, see docs/efficiency.md.
        set: ``{method: {parameter: value}}``.
        contamination: shares of anomalous images among the training images.
        grid: ``{method: {parameter: [values]}}`` of post-processing: every combination gets a record from the
            kept parts of one run; nothing more is trained.
    """

    title: str
    about: str = ""
    methods: list[str]
    datasets: list[str]
    categories: list[str] = Field(default_factory=list)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default_factory=lambda: [0])
    protocols: list[str] = Field(default_factory=lambda: ["strict"])
    image_size: int = 256
    backbone: str = ""
    evaluate: Evaluate = "input"
    keep: list[Keep] = Field(default_factory=list)
    measure: float | None = Field(default=None, ge=0)
    set: dict[str, dict[str, Value]] = Field(default_factory=dict)
    contamination: list[Annotated[float, Field(ge=0, lt=0.5)]] = Field(default_factory=lambda: [0.0])
    grid: dict[str, dict[str, list[Scalar]]] = Field(default_factory=dict)
