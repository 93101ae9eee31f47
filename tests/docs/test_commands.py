"""Every command and every block of the documentation works, or stands here with the reason why it is not run.

`pytest -m slow tests/docs` runs them, page by page and in each page's order, in a home that is empty but for
tiny datasets. Commands on whole datasets are run with the options of ``SMALLER`` added.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from docs.site.pages import ROOT
from harness.planning.suites import load_suite
from tests.docs.blocks import Block, blocks, inline, pages
from tests.docs.place import TINY, ULSAD, make_data, shell
from tests.test_workflows import check_command

ALL = (
    f"{TINY} --image-size 128 --set ulsad.epochs=1 --set ulsad.channels=16 --set dfr.epochs=1 "
    "--set cflow.epochs=1 --set cflow.sub_epochs=1 --set fastflow.epochs=1 "
    "--set reverse_distillation.epochs=1 "
    "--set draem.textures=photographs --set draem.width=4 --set draem.epochs=1 "
    "--set efficientad.teacher=distilled --set efficientad.distill_backbone=tf_efficientnet_lite0 "
    "--set efficientad.distill_steps=2 --set efficientad.distill_batch=1 --set efficientad.channels=16 "
    "--set efficientad.penalty=photographs --set efficientad.steps=2"
)
DEMO = "--datasets demo --categories texture"
# Has more than 32 test images, of which `paper` scores the first 32.
METAL = "--datasets mpdd --categories metal_plate"
LOCO = f"--methods ulsad --categories breakfast_box {ULSAD}"

# What is added to a command so that it takes seconds. An option given twice has its last value.
SMALLER = {
    "bench run --methods all --datasets mvtec_loco --data-root ~/data": f"--categories breakfast_box {ALL}",
    "bench run --methods ulsad,patchcore --datasets mpdd --categories metal_plate --backbone "
    "tf_efficientnet_lite0": ULSAD,
    'bench run --methods "patchcore,patchcore[variant=authors],patchcore[neighbours=1]" --datasets mpdd '
    "--categories metal_plate --backbone tf_efficientnet_lite0": TINY,
    "bench run --suite paper --protocol strict,paper": f"--methods ulsad {METAL} {ULSAD}",
    "bench run --methods all --datasets mvtec_loco --evaluate native": "--methods ulsad,padim "
    f"--categories breakfast_box {ULSAD}",
    'bench run --methods "ulsad[lambda_l=0],ulsad" --datasets mvtec_loco --seeds 0-4': "--categories "
    f"breakfast_box {ULSAD}",
    "bench run --suite paper --device all": f"--methods ulsad {DEMO} {ULSAD}",
    "bench run --suite paper --executor ray": f"--methods ulsad {DEMO} {ULSAD}",
    "bench run --suite demo --device cpu --pack 2": f"--methods ulsad {ULSAD}",
    "bench plan --suite loco": LOCO,
    "bench plan --suite leak": f"--methods ulsad {METAL} {ULSAD}",
    "bench plan --methods ulsad --datasets all --protocol paper": f"{METAL} {ULSAD}",
    "bench prepare --methods all --datasets mvtec": "--categories screw --offline",
    "bench run --suite demo --methods ulsad,mine.py:Mine": ULSAD,
    "bench test-method dfr": "--backbone tf_efficientnet_lite0",
    "bench run --suite loco --device cuda --results monday": LOCO,
    "bench run --suite loco --device cuda --results tonight": LOCO,
    "bench run --suite loco --keep maps": LOCO,
    "bench run --suite ci --device cuda --results results --report-to page": f"--methods ulsad,padim {ULSAD}",
    "bench run --suite ci --results nightly": f"--methods ulsad,padim {ULSAD}",
    "bench prepare --methods ulsad,dfr --datasets mvtec --data-root ~/data": "--categories screw --offline",
    "bench prepare --methods patchcore,ulsad --datasets visa --data-root ~/data": "--categories candle "
    "--offline",
    "bench run --methods patchcore,ulsad --datasets visa --categories candle --data-root ~/data": ULSAD,
    "bench run --methods ulsad --datasets mpdd --categories metal_plate --protocol strict,paper --backbone "
    "tf_efficientnet_lite0": ULSAD,
    "bench run --methods ulsad --datasets mpdd --categories metal_plate --backbone tf_efficientnet_lite0 "
    "--seeds 0,1,2": ULSAD,
    'bench run --methods "dfr,dfr[epochs=150]" --datasets mpdd --categories metal_plate': TINY
    + " --set dfr.epochs=1",
    "bench efficiency": f"--methods ulsad,padim {DEMO} {ULSAD} --backbone-weights none --measure 0.2",
    "bench run --methods ulsad --datasets mpdd --categories metal_plate --keep weights": ULSAD,
    "bench run --methods patchcore --datasets widgets.toml --data-root ~/data": TINY,
    "bench plan --methods patchcore --datasets widgets.toml --data-root ~/data": TINY,
    "bench run --methods ulsad,dfr --datasets mpdd --categories metal_plate --backbone tf_efficientnet_lite0 "
    "--protocol strict,paper": f"{ULSAD} --set dfr.epochs=1",
    "bench run --methods all --datasets mpdd --categories metal_plate": ALL,
    "bench run --methods ulsad,dfr --datasets mvtec --categories screw": f"{ULSAD} --set dfr.epochs=1",
    "bench run --methods padim,patchcore,fastflow --set fastflow.epochs=2": TINY,
    "bench run --suite ablation-components --data-root ~/data": f"--methods ulsad {DEMO} {ULSAD}",
    "bench run --suite ablation-components --datasets demo": f"--methods ulsad {DEMO} {ULSAD}",
    "bench run --suite my/own.toml": f"--categories breakfast_box {ULSAD}",
    "bench run --suite demo --methods patchcore,padim,dfr --seeds 0-2": "--image-size 64 --set dfr.epochs=2 "
    "--measure 0 --device cpu",
    "bench run --suite demo --methods ulsad --categories texture --protocol strict,test-epoch": ULSAD,
}
# Why a command is only looked at: its options are parsed, its sessions and extras must exist.
INSTALLS = "installs into a fresh environment; .ci/run does that with the README's own command"
DEVELOPS = "a developer's command of minutes or hours"
SLURM = "needs a SLURM cluster; tests/harness/execution/executors/test_slurm.py has jobs of one machine"
CLUSTER = "needs other machines; tests/harness/execution/executors/test_ray.py joins nodes on one"
GPUS = "needs a GPU"
DOWNLOADS = "downloads a dataset; tests/harness/data/test_fetch.py does that from a local server"
NOT_RUN = {
    'python3 -m venv .venv && .venv/bin/pip install -e ".[all]" && .venv/bin/bench run': INSTALLS,
    'python3 -m venv .venv && .venv/bin/pip install -e ".[all,dev]" && .venv/bin/nox -s tests': INSTALLS,
    'python3 -m venv .venv && .venv/bin/pip install -e ".[all,dev]"': INSTALLS,
    "python3 -m venv .venv": INSTALLS,
    '.venv/bin/pip install -e ".[all]"': INSTALLS,
    "source .venv/bin/activate": INSTALLS,
    'pip install "ulsad-bench[onnx]"': INSTALLS,
    ".venv/bin/nox": DEVELOPS,
    ".venv/bin/nox -l": DEVELOPS,
    "nox -s bench": DEVELOPS,
    "nox -s bench -- metrics memory_bank": DEVELOPS,
    "nox -s simulate": DEVELOPS,
    "nox -s sabotage": DEVELOPS,
    "nox -s sabotage -- --only aupro": DEVELOPS,
    "nox -s sabotage -- quiet": DEVELOPS,
    "nox -s sabotage -- quiet --turns 5 --folder lab": DEVELOPS,
    'pip install "ulsad-bench[ray]"': INSTALLS,
    'pip install "ulsad-bench[slurm]"': INSTALLS,
    "bench run --suite paper --data-root /shared/data --results /shared/results --executor slurm "
    "--slurm-partition gpu --slurm-time 240 --slurm-jobs 32": SLURM,
    'pip install "ray[default]==2.60.0" boto3': INSTALLS,
    "bench run --suite paper --executor ray --address auto": CLUSTER,
    "ray start --head --port 6379": CLUSTER,
    "ray start --address first:6379": CLUSTER,
    "bench run --suite paper --data-root /shared/data --results /shared/results --executor ray "
    "--address auto --device cuda --keep maps": CLUSTER,
    "ray up docs/cluster/cluster.yaml": CLUSTER,
    'ray exec docs/cluster/cluster.yaml "cd /shared && ~/venv/bin/bench run --suite paper --device cuda '
    '--executor ray --address auto --data-root /shared/data --results /shared/results"': CLUSTER,
    "ray down docs/cluster/cluster.yaml": CLUSTER,
    "sbatch docs/cluster/slurm.sh --suite paper --data-root /shared/data --results /shared/results": CLUSTER,
    "python3 -m tests.oracles.published_aupro results --data-root data": DEVELOPS,
    "bench run --suite paper --device all --pack auto": GPUS,
    "bench run --suite paper --device cuda:0 --pack 2": GPUS,
    "bench data fetch visa --data-root ~/data": DOWNLOADS,
    "bench data fetch visa --data-root ~/data --accept-licence": DOWNLOADS,
}
# Exit codes other than 0. Of a dataset one category is there and not all, and backbones' weights are not.
EXITS = {
    # Two runs of a second each are told apart by nothing but how busy the machine is.
    "bench check --baseline baseline.json --results tonight": {0, 1},
    "bench check --baseline baseline.json --results tonight --explain breakfast_box/ulsad": {0, 1},
    # Most runs of the README keep no maps.
    "bench rescore": {1},
    # There are no runs of these suites.
    "bench report --tables paper,leak,contamination --figures": {2},
    "bench data check mvtec": {1},
    "bench data check visa --data-root ~/data": {1},
    # The baseline that lies there is of other runs than the suite's.
    "bench check --baseline baseline.json --results nightly": {2},
    "bench prepare --methods all --datasets mvtec": {1},
    "bench prepare --methods ulsad,dfr --datasets mvtec --data-root ~/data": {1},
    "bench prepare --methods ulsad,dfr --datasets mvtec --data-root ~/data --offline": {1},
    "bench prepare --methods patchcore,ulsad --datasets visa --data-root ~/data": {1},
}
# Blocks that later commands of the page want as a file, by their number among those of their language.
FILES = {
    ("README.md", "python", 0): "mine.py",
    ("docs/own-method.md", "python", 0): "nearest.py",
    ("docs/own-dataset.md", "toml", 0): "widgets.toml",
}


def test_every_exception_is_of_a_command_that_there_is() -> None:
    typed = {block.text for page in pages() for block in blocks(page)}
    for command in (*NOT_RUN, *EXITS):
        assert command in typed
    for beginning in SMALLER:
        assert any(command.startswith(beginning) for command in typed), beginning
    assert not set(NOT_RUN) & set(SMALLER)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_of_a_kind_that_is_checked(page: str) -> None:
    for number, block in enumerate(blocks(page)):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "sh":
            _check_parsed(block.text)
        else:
            assert block.language == "math", (number, block)


@pytest.mark.parametrize("page", pages())
def test_commands_in_sentences_exist(page: str) -> None:
    for command in inline(page):
        # A dash or three dots stand for what a reader adds.
        check_command(command.partition("…")[0], whole=False)


def _check_parsed(command: str) -> None:
    """Fails if a command names a command, option, session or extra that there is not."""
    # What Ray executes elsewhere stands in quotes.
    for part in [command] if command.startswith("ray ") else command.split("&&"):
        words = shlex.split(part)
        program = Path(words[0]).name
        if program == "bench":
            check_command(part.strip().replace("~", "/home/nobody"))
        elif program == "nox":
            sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
            assert set(words[2:3]) <= set(sessions)
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\w+", words[-1].partition("[")[2])) <= set(extras)
        else:
            assert program in ("python3", "source", "eval", "ray", "sbatch"), command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data, and results of two tiny runs with all that can be kept: what a reader of any page has."""
    place = tmp_path_factory.mktemp("home")
    make_data(place / "data")
    first = place / "first"
    first.mkdir()
    for made in (
        "bench run --methods ulsad --datasets mpdd,mvtec --categories metal_plate,screw --keep weights,maps "
        f"--quiet {ULSAD}",
        "bench baseline --results results -o baseline.json",
    ):
        done = shell(made, first, place)
        assert done.returncode == 0, done.stdout + done.stderr
    for copy in ("gpu1", "gpu2"):
        shutil.copytree(first / "results", first / copy)
    for folder in ("photos", "new_images"):
        shutil.copytree(place / "data/mpdd/metal_plate/test/good", first / folder)
    own = (ROOT / "harness/cli/templates/method.py").read_text().replace("radius", "width")
    (first / "path/to").mkdir(parents=True)
    (first / "path/to/file.py").write_text(own)
    return place


def _runs(page: str) -> bool:
    return any(b.language in ("sh", "python") and b.text not in NOT_RUN for b in blocks(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if _runs(page)])
def test_what_a_page_says_works(page: str, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("anomalib")
    place = tmp_path / "place"
    shutil.copytree(home / "first", place)
    written: dict[str, int] = {}
    if page == "docs/suites.md":
        _write(next(block for block in blocks(page) if block.language == "toml"), "my/own.toml", place)
    for block in blocks(page):
        number = written.setdefault(block.language, 0)
        written[block.language] += 1
        if name := FILES.get((page, block.language, number)):
            _write(block, name, place)
        if block.language == "sh" and block.text not in NOT_RUN:
            _run(block, place, home)
        elif block.language == "python":
            _write(block, "block.py", place)
            done = shell("python block.py", place, home)
            assert done.returncode == 0, block.text + done.stdout + done.stderr


def _write(block: Block, name: str, place: Path) -> None:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def _run(block: Block, place: Path, home: Path) -> None:
    command = block.text
    added = [more for beginning, more in SMALLER.items() if command.startswith(beginning)]
    if "results/mpdd/metal_plate/ulsad/" in command:
        (record,) = (place / "results/mpdd/metal_plate/ulsad").glob("????????????????.json")
        command = re.sub(r"results/mpdd/metal_plate/ulsad/\w+\.json", str(record.relative_to(place)), command)
    done = shell(" ".join([command, *added[-1:]]), place, home)
    said = f"{block.page}: {command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert done.returncode in EXITS.get(block.text, {0}), said
    assert "Traceback" not in done.stdout + done.stderr, said


def test_the_suite_of_ones_own_is_one(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(next(b.text for b in blocks("docs/suites.md") if b.language == "toml"))
    suite = load_suite(str(tmp_path / "own.toml"))
    assert suite.title == "My losses"
