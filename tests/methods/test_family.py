"""anomalib's models by name: read from source, configured, trained by the bare loop, under contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from harness.checks.contract.checks import check_method, prepare_case
from harness.checks.contract.data import synthetic
from harness.cli.main import main
from harness.common.errors import UserError
from harness.execution.devices import seed_everything
from harness.method import Images, TrainingData
from harness.registry.methods import configure, family_members, load_method
from harness.registry.names import parse_name
from harness.registry.setup import Surroundings, make_setup
from harness.registry.weights import RANDOM, Weights
from harness.spec.names import slug
from methods.anomalib.generic import Loop, configured, unified
from methods.anomalib.table import TESTED, markdown

pytest.importorskip("anomalib", reason="anomalib is not installed", exc_type=ImportError)

ROOT = Path(__file__).parents[2]


def test_models_are_read_without_importing_anomalib() -> None:
    code = (
        "import sys; from harness.registry.methods import load_method; m = load_method('anomalib:Stfpm');"
        "m.needs(m.Config()); assert 'anomalib' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_parameters_come_from_the_constructor() -> None:
    method = load_method("anomalib:Stfpm")
    name = parse_name("anomalib:Stfpm[layers=[layer1,layer2],epochs=3]")
    config: Any = configure(method, name.short(), name.params)
    assert (config.layers, config.epochs, config.backbone) == (["layer1", "layer2"], 3, "resnet18")
    assert method.needs(config).backbones == {"resnet18": ()}
    assert slug(name.short()) != name.short()
    vit: Any = load_method("anomalib:Dinomaly")
    assert vit.needs(vit.Config()).image_size_multiple == 14
    assert vit.Config().steps == 5000


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("anomalib:Stfpn", "Did you mean 'Stfpm'"),
        ("anomalib:WinClip", "cannot run here: it needs the package open_clip"),
        ("anomalib:Stfpm[evaluator=true]", "no hyper-parameter 'evaluator'"),
        ("anomalib:Stfpm[layers=3]", "layers"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parsed = parse_name(name)
        configure(load_method(parsed.base), parsed.short(), parsed.params)


def test_every_model_is_listed_with_its_reason() -> None:
    listed = CliRunner().invoke(main, ["list", "methods", "--all"])
    assert listed.exit_code == 0, listed.output
    assert "anomalib:Stfpm  runs here, measured with real weights" in listed.output
    assert "anomalib:Fastflow  runs here, measured with random weights only: it takes" in listed.output
    assert "anomalib:VlmAd  cannot run here: it needs a vision-language service" in listed.output
    assert listed.output.count("anomalib:") == len(family_members("anomalib")) >= 33
    plain = CliRunner().invoke(main, ["list", "methods"])
    assert "Apache-2.0 · Yang 2020 · needs weights of vgg19" in plain.output


def test_the_table_in_the_docs_is_fresh() -> None:
    assert (ROOT / "docs" / "anomalib-models.md").read_text(encoding="utf-8") == markdown()


class Module(nn.Module):
    """What the loop asks of a Lightning module."""

    automatic_optimization = True
    trainer_arguments: dict[str, float] = {"gradient_clip_val": 0.5}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([4.0]))
        self.calls: list[str] = []

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.parameters(), lr=1.0)
        every = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.5)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": every, "interval": "step"}}

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": (self.weight * batch).sum()}

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: self.calls.append(name)
        return super().__getattr__(name)


def test_the_loop_clips_schedules_and_counts_as_lightning() -> None:
    module, epochs = Module(), []
    Loop(module, [torch.ones(1) * 3] * 2, epochs=2, steps=3, train=lambda: None).run(epochs.append)
    # The gradient 3 is clipped to 0.5; steps of 1, 1/2, 1/4; the fourth step is one too many.
    assert module.weight.item() == pytest.approx(4 - 0.5 * (1 + 0.5 + 0.25), abs=1e-4)
    assert [(e.number, e.of) for e in epochs] == [(1, 2), (2, 2)]
    assert epochs[0].losses["loss"] == pytest.approx((12 + 10.5) / 2, abs=1e-4)
    assert module.calls.count("on_train_epoch_end") == 2
    assert module.calls[0] == "on_train_start"


def test_what_configure_optimizers_may_return() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    assert configured(None) == ([], [])
    assert configured(optimiser) == ([optimiser], [])
    assert configured([optimiser, optimiser]) == ([optimiser, optimiser], [])
    assert configured(([optimiser], ["s"])) == ([optimiser], [("s", "epoch")])
    both = configured([{"optimizer": optimiser, "lr_scheduler": "s"}])
    assert both == ([optimiser], [("s", "epoch")])


def test_outputs_are_unified() -> None:
    class Output:
        pred_score = torch.tensor([[1.0], [2.0]])
        anomaly_map: Tensor | None = None

    found = unified(Output(), 2, 4)
    assert found.map.shape == (2, 4, 4)
    assert found.map[1].eq(2).all()
    Output.anomaly_map = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert unified(Output(), 2, 4).map.shape == (2, 4, 4)
    Output.pred_score = None  # type: ignore[assignment]
    assert unified(Output(), 2, 2).score.tolist() == [3.0, 7.0]


def test_memory_banks_have_no_length_to_set() -> None:
    fields = load_method("anomalib:MHPatchcore").Config.model_fields
    assert "epochs" not in fields
    assert "batch_size" in fields


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Stfpm[epochs=2,batch_size=4]", "Ganomaly[epochs=2,batch_size=4]"])
def test_the_loop_trains_as_lightning_does(name: str, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    parsed = parse_name(f"anomalib:{name}")
    method = load_method(parsed.base)
    config: Any = configure(method, name, parsed.params)
    weights = {n: Weights(n, RANDOM) for n in method.needs(config).backbones}

    def build() -> Any:
        seed_everything(0)
        return method(config, make_setup(weights, {}, Surroundings(torch.device("cpu"), 64, 0, tmp_path)))

    data = TrainingData(Images(synthetic(10, 64, 0)), Images(synthetic(2, 64, 1)), 0)
    ours, theirs = build(), build()
    seed_everything(1)
    ours.fit(data, lambda _: None)
    order = torch.Generator().manual_seed(0)
    batches = [list(data.shuffled(4, order)) for _ in range(2)]

    class Epochs(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from (ImageBatch(image=theirs.batch(x)) for x in batches.pop(0))

    from anomalib.data import ImageBatch

    module = theirs.module
    module.configure_callbacks = list
    seed_everything(1)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(module, DataLoader(Epochs(), batch_size=None))
    trained, first = module.model.state_dict(), build().module.model.state_dict()
    assert any(not torch.allclose(first[key], trained[key], rtol=1e-2) for key in trained)
    for key, value in ours.module.model.state_dict().items():
        torch.testing.assert_close(value, trained[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TESTED))
def test_models_keep_their_contract(name: str) -> None:
    findings = check_method(prepare_case(f"anomalib:{name}[{TESTED[name]}]"))
    assert not [finding.line() for finding in findings if finding.state == "breach"]
