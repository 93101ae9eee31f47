"""What a reader must know about the numbers of a ranking before using them, in a few words each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from harness.spec.fingerprints import Fingerprint
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord

# A method's name, the version of some of its records, and the newest that there is.
Outdated = tuple[str, int, int]


def badges_of(
    fingerprint: Fingerprint, records: Collection[RunRecord], outdated: Collection[Outdated]
) -> tuple[str, ...]:
    """Returns the badges of a ranking.

    Args:
        fingerprint: what its records share.
        records: all of them.
        outdated: what :func:`outdated_of` says of them.
    """
    found = []
    if any(record.environment.get("simulated") for record in records):
        found.append("simulated")
    if badge := PROTOCOLS[fingerprint.protocol].badge:
        found.append(badge)
    if left_out := _left_out(fingerprint, records):
        found.append(left_out)
    if share := fingerprint.contamination:
        found.append(f"{100 * share:g} % anomalous training images")
    if any("random" in record.fingerprint.weights.values() for record in records):
        found.append("random weights")
    if fingerprint.training_images != "all":
        found.append(f"{fingerprint.training_images} training images")
    if outdated:
        old = ", ".join(f"{name} {version} (now {newest})" for name, version, newest in outdated)
        found.append(f"earlier versions: {old}")
    return tuple(found)


def newest_versions(records: Iterable[RunRecord], installed: Mapping[str, int]) -> dict[str, int]:
    """Returns the newest version of each method that is installed or that a record is of."""
    newest = dict(installed)
    for name, version in {_version(record) for record in records}:
        newest[name] = max(version, newest.get(name, version))
    return newest


def outdated_of(records: Iterable[RunRecord], newest: Mapping[str, int]) -> tuple[Outdated, ...]:
    """Returns the methods of which there are records of an earlier version than the newest."""
    there = sorted({_version(record) for record in records})
    return tuple((name, version, newest[name]) for name, version in there if version < newest[name])


def outdated_notes(outdated: Iterable[Outdated]) -> list[str]:
    """Returns a sentence on each."""
    return [
        f"Records of {name} are of version {version}. There is version {newest}, which gives other numbers: "
        "run it again."
        for name, version, newest in sorted({*outdated})
    ]


def _version(record: RunRecord) -> tuple[str, int]:
    """A record's method, without settings, and its version."""
    return record.spec.method.partition("[")[0], record.identity.method_version


def _left_out(fingerprint: Fingerprint, records: Iterable[RunRecord]) -> str:
    """How much of the test sets was not scored; empty where all was."""
    if fingerprint.incomplete_batches == "kept":
        dropped = PROTOCOLS[fingerprint.protocol].incomplete_batches == "dropped"
        return "all test images scored, unlike in the published code" if dropped else ""
    # Runs on one category leave out as many; one that failed counts nothing.
    of = {record.spec.category: record.counts for record in records if "unscored" in record.counts}
    lost, scored = (sum(counts[name] for counts in of.values()) for name in ("unscored", "test"))
    share = 100 * lost / max(lost + scored, 1)
    return f"{share:.1f} % of the test images not scored, as in the published code" if lost else ""
