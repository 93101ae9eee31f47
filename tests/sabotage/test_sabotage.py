"""Every fault can still be planted; a few are, as slow tests. `nox -s sabotage` plants all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.sabotage.__main__ import found, row
from tests.sabotage.copies import CLOCK, ROOT, AnchorError, Laboratory, changed
from tests.sabotage.faults import FAULTS, Edit, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_that_a_fault_changes_is_there(fault: Fault) -> None:
    for file, text in changed(ROOT, (*CLOCK, *fault.edits)).items():
        compile(text, file, "exec")
        assert text != (ROOT / file).read_text(encoding="utf-8")


def test_a_fault_whose_text_is_gone_fails_loudly() -> None:
    with pytest.raises(AnchorError, match="holds 0 times"):
        changed(ROOT, (Edit("harness/metrics/exact.py", "connectivity=6", "connectivity=4"),))
    with pytest.raises(AnchorError, match="times, not once"):
        changed(ROOT, (Edit("harness/metrics/exact.py", "np", "numpy"),))


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("sabotage"), repeats=1, methods=("padim",))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AUPRO over 4-connected regions", "seed ignored"])
def test_a_planted_fault_is_found(laboratory: Laboratory, name: str) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    checked = laboratory.plant(replace(fault, methods=("padim",)))
    assert found(fault, checked), row(fault, checked)


@pytest.mark.slow
def test_unchanged_code_gives_no_alarm(laboratory: Laboratory, tmp_path: Path) -> None:
    checked = laboratory.repeat(0)
    assert (checked.report.answer, checked.exact.answer) == ("ok", "ok"), checked.reasons()
