"""From a suite and options to the list of runs, each checked, and which of them are still to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

from harness.common.defaults import CHECKPOINT_EVERY
from harness.common.errors import UserError, nearest
from harness.common.places import Places
from harness.data.card import Card, dataset_names, dataset_root, load_card
from harness.data.category import Category, open_category
from harness.data.image_roles import sizes
from harness.data.samples import category_names
from harness.metrics.exact import METRICS_VERSIONS
from harness.planning.forecast import Forecast
from harness.planning.options import Overwrite, RunOptions
from harness.planning.task import RunTask
from harness.registry.assets import FoundAsset, find_asset
from harness.registry.configuration import Configured, check_needs, configure_methods, configured_as, text
from harness.registry.methods import source_hash
from harness.registry.names import MethodName
from harness.registry.weights import Weights, check_strides, find_weights
from harness.results.outcome_index import Ended, Seen
from harness.results.sequence import highest
from harness.results.store import FileState, Folder, recent_records
from harness.spec.protocols import PROTOCOLS
from harness.spec.run import Identity, RunSpec, Scalar, run_key, run_keys
from harness.spec.suite import Suite


@dataclass(frozen=True)
class Options:
    """Where and how the runs of a suite are done.

    Attributes:
        devices: where runs are executed, one at a time on each.
        overwrite: which runs that have a record are done again: none (``never``), those that failed
            or whose artefacts are missing (``failed``), also those with other metrics' versions
            (``stale``), or all (``always``).
        keep: artefacts beside the records: ``maps``, ``weights``, ``parts``.
        checkpoint_every: seconds between two checkpoints of a training at least.
        measure: seconds that measuring the efficiency of a run may take; ``None`` for the suite's own.
    """

    devices: tuple[str, ...]
    places: Places
    overwrite: Overwrite = "failed"
    limit_train: int | None = None
    backbone_weights: Literal["pretrained", "none"] = "pretrained"
    keep: frozenset[str] = frozenset()
    checkpoint_every: float = CHECKPOINT_EVERY
    measure: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        tasks: every run, category by category; :func:`harness.planning.order.in_order` gives the order of
            execution.
        done: keys of runs whose record is kept.
        damaged: records that cannot be read; their runs are done again.
        planned_on: the state of the records' files that this was found out from, by key.
        highest: a number that no record of the results folder is above, see :mod:`harness.results.sequence`.
    """

    tasks: tuple[RunTask, ...]
    done: frozenset[str] = frozenset()
    damaged: tuple[tuple[Path, str], ...] = ()
    planned_on: Mapping[str, FileState] = field(default_factory=dict)
    highest: int = 0

    @property
    def todo(self) -> tuple[RunTask, ...]:
        """The runs that are still to do."""
        return tuple(task for task in self.tasks if task.key not in self.done)


@dataclass(frozen=True)
class Chosen:
    """A method with its settings: everything about it that does not depend on data."""

    configured: Configured
    weights: Mapping[str, Weights]
    assets: Mapping[str, FoundAsset]
    source: str


@dataclass(frozen=True)
class PlannedCategory:
    """A category that is on disk, and what its dataset's other categories are.

    Attributes:
        given: name of a built-in card, or the path of a card.
        opened: the category.
        categories: all categories of the dataset.
        split_categories: see :class:`RunRecord`.
    """

    given: str
    opened: Category
    categories: tuple[str, ...]
    split_categories: Mapping[str, tuple[str, ...]]


def make_plan(suite: Suite, options: Options, folder: Folder | None = None) -> Plan:
    """Checks every name, hyper-parameter, weight, asset and data folder of a suite, and lists its runs.

    Args:
        suite: what is asked for.
        options: where and how.
        folder: the results folder, where its listing is of use to the caller.

    Raises:
        UserError: anything is wrong that would stop a run; nothing has been started.
    """
    for protocol in suite.protocols:
        if protocol not in PROTOCOLS:
            raise UserError(f"There is no protocol '{protocol}'. {nearest(protocol, PROTOCOLS)}")
        if PROTOCOLS[protocol].crop != "none" and suite.evaluate == "native":
            raise UserError(f"Protocol '{protocol}' crops images: it cannot be evaluated at native size.")
    if not suite.seeds:
        raise UserError("No seed is given: there would be nothing to run.")
    configured = configure_methods(suite)
    for one in configured:
        check_needs(one, suite)
    _check_parts(suite, configured, options)
    methods = [choose(one, options) for one in configured]
    tasks: list[RunTask] = []
    for category in _categories(suite, options):
        for protocol, share in product(dict.fromkeys(suite.protocols), dict.fromkeys(suite.contamination)):
            for chosen in methods:
                dropped = PROTOCOLS[protocol].incomplete_batches == "dropped"
                for task in tasks_of(suite, options, chosen, category, protocol, share):
                    # Without a share all seeds have as many test images: one look is enough.
                    if share or (dropped and task.spec.seed == suite.seeds[0]):
                        category.opened.roles(task.spec)
                    tasks += [task, *_grid(suite, task, chosen)]
    unique = tuple({task.key: task for task in tasks}.values())
    return _plan(unique, options, folder or Folder(options.places.results))


def plan_of(suite: Suite, asked: RunOptions, devices: tuple[str, ...]) -> tuple[Plan, Forecast]:
    """Plans what is asked for, and reads what earlier records say of its costs.

    Args:
        suite: the one that is asked for.
        asked: where and how.
        devices: where runs are executed, one at a time on each.

    Raises:
        UserError: anything is wrong that would stop a run; nothing has been started.
    """
    options = Options(
        devices=devices,
        places=asked.places,
        overwrite=asked.overwrite,
        limit_train=asked.limit_train,
        backbone_weights=asked.backbone_weights,
        keep=frozenset(asked.keep) | set(suite.keep),
        checkpoint_every=asked.checkpoint_every,
        measure=asked.measure,
    )
    folder = Folder(asked.places.results)
    plan = make_plan(suite, options, folder)
    if "parts" in asked.keep and not any("parts" in task.keep for task in plan.tasks):
        raise UserError("--keep parts: no method of this run has post-processing of its own.")
    if asked.backbone and not any("backbone" in task.identity.config for task in plan.tasks):
        raise UserError(f"No method of this run has a backbone to set to '{asked.backbone}'.")
    recent = recent_records(folder)
    return replace(plan, highest=highest(folder, recent)), Forecast(recent)


def _check_parts(suite: Suite, configured: Sequence[Configured], options: Options) -> None:
    """Makes sure that parts are kept of methods that have them, in the state that counts.

    Raises:
        UserError: they cannot be, or a grid varies what is not post-processing.
    """
    own = {one.name.short(): one.method.postprocessing for one in configured}
    if not any(own.values()) or ("parts" not in options.keep and not suite.grid):
        return
    if suite.grid and "parts" not in options.keep:
        raise UserError('The suite has a grid, which is made from kept parts: add keep = ["parts"].')
    if chosen := [p for p in suite.protocols if PROTOCOLS[p].selection != "last"]:
        raise UserError(
            f"Parts are those of the last epoch, but protocol '{chosen[0]}' selects another one: use strict."
        )
    for method, grid in suite.grid.items():
        if stray := sorted(set(grid) - own.get(method, frozenset(grid))):
            raise UserError(
                f"The grid varies {method}.{stray[0]}, which needs a training: there is post-processing "
                f"by {', '.join(sorted(own[method])) or 'nothing'}."
            )


def _grid(suite: Suite, task: RunTask, chosen: Chosen) -> Iterator[RunTask]:
    """Yields a task for every point of the suite's grid, made from the kept parts of one that is trained."""
    one = chosen.configured
    for values in combinations(suite, one.name.short()):
        given = MethodName(one.name.base, {**one.name.params, **{k: text(v) for k, v in values.items()}})
        point = configured_as(given, suite)
        spec = task.spec.model_copy(update={"method": point.label, "params": point.params})
        identity = task.identity.model_copy(update={"config": point.config.model_dump(mode="json")})
        key = run_key(spec, identity)
        yield replace(task, spec=spec, identity=identity, key=key, keep=frozenset(), made_from=task)


def tasks_of(
    suite: Suite,
    options: Options,
    chosen: Chosen,
    category: PlannedCategory,
    protocol: str,
    contamination: float,
) -> Iterator[RunTask]:
    """Yields the runs that differ by nothing but their seed; a million of them fit into 2 GB."""
    method = chosen.configured
    first, *others = dict.fromkeys(suite.seeds)
    spec = RunSpec(
        dataset=category.opened.card.name,
        category=category.opened.name,
        method=method.label,
        params=method.params,
        seed=first,
        protocol=protocol,
        contamination=contamination,
        image_size=suite.image_size,
        limit_train=options.limit_train,
        backbone_weights=options.backbone_weights,
        evaluate=suite.evaluate,
    )
    # A copy by pydantic has a set of its own of the fields that were given: as much again as its values.
    given, fields = spec.model_fields_set, dict(spec)
    specs = [spec, *(RunSpec.model_construct(given, **{**fields, "seed": seed}) for seed in others)]
    table = category.opened.defects if suite.evaluate == "native" else None
    weights = {name: found.sha256 for name, found in chosen.weights.items()}
    assets = {f"asset:{name}": found.sha256 for name, found in chosen.assets.items()}
    identity = Identity(
        method_version=method.method.version,
        config=method.config.model_dump(mode="json"),
        weights=weights | assets,
        data=category.opened.fingerprint,
        score_rule=method.method.score_rule,
        source=chosen.source,
        defects=table.sha256 if table else "",
        incomplete_batches=PROTOCOLS[protocol].incomplete_batches,
    )
    folders = {name: found.folder for name, found in chosen.assets.items()}
    data = category.opened.samples
    images = sizes(len(data.train), len(data.validation), len(data.test), spec)
    for one, key in zip(specs, run_keys(spec, (one.seed for one in specs), identity), strict=True):
        yield RunTask(
            spec=one,
            identity=identity,
            key=key,
            method=method.name.base,
            card=category.given,
            places=options.places,
            device=options.devices[0],
            weights=chosen.weights,
            assets=folders,
            keep=options.keep if method.method.postprocessing else options.keep - {"parts"},
            checkpoint_every=options.checkpoint_every,
            measure=suite.measure if options.measure is None else options.measure,
            suite=suite.about,
            categories=category.categories,
            split_categories=category.split_categories,
            images=images,
        )


def choose(one: Configured, options: Options) -> Chosen:
    """Finds the weights and assets of a method.

    Raises:
        UserError: they are not on this machine, or a backbone has not the strides that the method needs.
    """
    weights = {}
    for backbone, strides in one.needs.backbones.items():
        pretrained = options.backbone_weights == "pretrained"
        weights[backbone] = find_weights(backbone, options.places.cache, pretrained)
        if strides:
            check_strides(weights[backbone].backbone, strides)
    assets = {asset.name: find_asset(asset, options.places.cache) for asset in one.needs.assets}
    return Chosen(one, weights, assets, source_hash(one.name))


def _categories(suite: Suite, options: Options) -> list[PlannedCategory]:
    chosen: list[PlannedCategory] = []
    known: set[str] = set()
    for name in dataset_names(suite.datasets):
        card = load_card(name)
        given = str(Path(name).expanduser().resolve()) if name.endswith(".toml") else name
        root = dataset_root(card, options.places.data_root, options.places.cache)
        names = tuple(category_names(card, root))
        splits = _split_categories(card, names)
        known |= {*names, *(f"{card.name}/{category}" for category in names)}
        for category in names:
            if suite.categories and not {category, f"{card.name}/{category}"} & set(suite.categories):
                continue
            opened = open_category(card, category, options.places)
            chosen.append(PlannedCategory(given, opened, names, splits))
    for category in suite.categories:
        if category not in known:
            raise UserError(f"No dataset of this run has a category '{category}'. {nearest(category, known)}")
    return chosen


def _split_categories(card: Card, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns, for each anomaly kind that the card tells apart, the categories that have it."""

    def has(category: str, kind: str) -> bool:
        counts = card.counts(category)
        return counts is None or counts.test is None or counts.test.get(kind, 0) > 0

    kinds = sorted(set(card.layout.kinds.values()))
    return {kind: tuple(name for name in names if has(name, kind)) for kind in kinds}


def _plan(tasks: tuple[RunTask, ...], options: Options, folder: Folder) -> Plan:
    """Finds out which runs have a record that is kept."""
    seen = Seen(folder, options.places.cache)
    done, damaged, planned_on = set(), [], dict[str, FileState]()
    for task in tasks:
        if (ended := seen.look(task.spec, task.key)) is None:
            continue
        planned_on[task.key] = ended.state
        if ended.damage:
            damaged.append((task.record_path, ended.damage))
        elif _keep(task, ended, seen.kept(task.spec, task.key, task.keep), options.overwrite):
            done.add(task.key)
    seen.remember()
    return Plan(tasks, frozenset(done), tuple(damaged), planned_on)


def _keep(task: RunTask, ended: Ended, complete: bool, overwrite: Overwrite) -> bool:
    """Whether a run is not done again, see :attr:`Options.overwrite`."""
    match overwrite:
        case "never":
            return True
        case "failed":
            return ended.outcome == "ok" and complete
        case "stale":
            current = ended.metrics_version == METRICS_VERSIONS[task.spec.evaluate]
            return ended.outcome == "ok" and complete and current
        case "always":
            return False


def combinations(suite: Suite, method: str) -> Iterator[dict[str, Scalar]]:
    """Yields every combination of a suite's grid for a method, none where it has no grid."""
    grid = suite.grid.get(method, {})
    if grid:
        for values in product(*grid.values()):
            yield dict(zip(grid, values, strict=True))
