"""The contract: every registered method keeps it, and a broken one is told every breach in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.checks.contract.checks import CHECKS, ContractFinding, check_method, prepare_case
from harness.cli.main import main
from harness.common.errors import UserError
from harness.registry.methods import load_method, method_names
from harness.registry.names import parse_name

BROKEN = Path(__file__).parent / "broken.py"
BACKBONE = "tf_efficientnet_lite0"
FAST = {"dfr"}
VARIANTS = ["patchcore[variant=authors]"]
# With their stand-ins, so that nothing has to be downloaded, and small.
SMALL = {
    "draem": "draem[textures=photographs,width=8]",
    "efficientad": "efficientad[teacher=distilled,penalty=photographs,distill_backbone=tf_efficientnet_lite0,"
    "distill_steps=2,distill_crop=128,channels=32]",
}


def found(name: str, **options: float) -> dict[str, list[ContractFinding]]:
    by: dict[str, list[ContractFinding]] = {}
    for finding in check_method(prepare_case(f"{BROKEN}:{name}", **options)):  # type: ignore[arg-type]
        by.setdefault(finding.check, []).append(finding)
    return by


def sentences(findings: list[ContractFinding]) -> str:
    assert all(finding.state == "breach" for finding in findings), findings
    return " ".join(finding.sentence for finding in findings)


@pytest.mark.slow
def test_a_sound_method_passes() -> None:
    by = found("Sound")
    assert list(by) == list(CHECKS)
    assert {f.state for fs in by.values() for f in fs} == {"passed", "not applicable"}
    assert "do not depend on the seed" in by["different seed"][0].sentence


def test_every_breach_is_a_sentence() -> None:
    by = found("Broken")
    assert "never called on_epoch" in sentences(by["epochs"])
    assert "A second fit in one process" in sentences(by["same seed"])
    assert "size of the test batch" in sentences(by["batch size"])
    assert "order of the test images" in sentences(by["order"])
    assert "differs: score" in sentences(by["state"])
    assert "model.bin" in sentences(by["files"])
    assert "'hello'" in sentences(by["prints"])
    left = sentences(by["process"])
    assert "default dtype" in left
    assert "deterministic algorithms" in left
    assert "environment variables changed: LEFT" in left
    assert "ZeroDivisionError was raised in line" in sentences(by["grayscale"])
    assert "At 65 px RuntimeError" in sentences(by["image size"])
    assert "With a single training image ValueError" in sentences(by["single image"])


@pytest.mark.slow
def test_wrong_shapes_types_and_epochs() -> None:
    by = found("Crooked")
    shapes = sentences(by["shapes and types"])
    for part in ("score of shape (5, 1)", "map of shape (5, 32, 64)", "map of torch.float64"):
        assert part in shapes
    assert "not finite" in sentences(by["finite"])
    assert "epochs [3, 3] of [2]" in sentences(by["epochs"])
    assert by["same seed"][0].state == "not run"


@pytest.mark.slow
def test_a_look_at_test_images_is_found() -> None:
    assert "looked at the test images" in sentences(found("Curious")["test data"])


@pytest.mark.slow
def test_death_and_hanging_are_sentences() -> None:
    assert "ended by SIGSEGV" in sentences(found("Dies")["runs"])
    assert "longer than 5 s" in sentences(found("Hangs", timeout=5)["runs"])
    late = found("DiesLate")
    assert "exit code 4" in sentences(late["single image"])
    assert late["grayscale"][0].state == "passed"


@pytest.mark.slow
def test_a_swallowed_ctrl_c_is_found() -> None:
    by = {f.check: f for f in check_method(prepare_case(f"{BROKEN}:Stubborn", settings={"epochs": 3}))}
    assert "after Ctrl-C" in by["Ctrl-C"].sentence
    assert by["Ctrl-C"].state == "breach"


@pytest.mark.slow
def test_the_command() -> None:
    runner = CliRunner()
    good = runner.invoke(main, ["test-method", f"{BROKEN}:Sound"])
    assert good.exit_code == 0, good.output
    assert good.output.count("passed") >= len(CHECKS) - 1
    bad = runner.invoke(main, ["test-method", f"{BROKEN}:Crooked"])
    assert bad.exit_code == 1
    wrong = runner.invoke(main, ["test-method", f"{BROKEN}:Sound", "--set", "width=3"])
    assert wrong.exit_code == 2
    assert "no hyper-parameter 'width'" in wrong.stderr


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in [*method_names(), *VARIANTS]],
)
def test_every_registered_method_keeps_its_contract(name: str) -> None:
    has_backbone = "backbone" in load_method(parse_name(name).base).Config.model_fields
    try:
        case = prepare_case(SMALL.get(name, name), backbone=BACKBONE if has_backbone else "")
    except UserError as missing:
        pytest.skip(str(missing))
    breaches = [finding.line() for finding in check_method(case) if finding.state == "breach"]
    assert not breaches
