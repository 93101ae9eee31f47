"""Markdown made from the code: the command line, the record's schema, and the defaults of methods."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.cli.main import main
from harness.method import Method
from harness.registry.methods import load_method
from harness.spec.fingerprints import Fingerprint
from harness.spec.protocols import PROTOCOLS
from harness.spec.record import RunRecord
from harness.spec.run import Identity, RunSpec
from harness.spec.suite import Suite


def cell(text: str) -> str:
    """Returns text as it may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# The command line


def cli() -> str:
    """Returns a page with every command of ``bench``, its arguments and options."""
    parts = ["# Command line", "Made from the program's own help: `bench COMMAND --help` says the same."]
    for path, command in _commands("bench", main):
        context = click.Context(command, info_name=path)
        parts.append(f"{'##' if path.count(' ') < 2 else '###'} `{path}`")
        parts.append(_help(command))
        if isinstance(command, click.Group):
            continue
        pieces = " ".join(command.collect_usage_pieces(context))
        parts.append(f"```text\n{path} {pieces}\n```")
        # Those that executors bring along are no part of the command itself.
        known = (p for p in command.get_params(context) if "--help" not in p.opts)
        rows = [_option(option) for option in known if isinstance(option, click.Option)]
        if rows:
            parts.append(table(("option", "what it does", "default"), rows))
    return "\n\n".join(parts) + "\n"


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if path != "bench":
        yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(f"{path} {name}", command.commands[name])


def _help(command: click.Command) -> str:
    return linked(re.sub(r"\n +", "\n", (command.help or "").strip()))


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if isinstance(option.type, click.Choice):
        names += f": {', '.join(f'`{choice}`' for choice in option.type.choices)}"
    elif not option.is_flag:
        names += f" `{option.make_metavar(click.Context(main))}`"
    about, _, noted = (option.help or "").partition("  [default: ")
    if option.required:
        about += " Required."
    if option.multiple:
        about += " May be given several times."
    return cell(names), linked(cell(about)), cell(noted.rstrip("]") or _preset(option))


def _preset(option: click.Option) -> str:
    given = option.default
    if option.envvar:
        return f"the environment's `{option.envvar}`"
    if option.is_flag:
        return f"`{(option.opts if given else option.secondary_opts)[0]}`" if option.secondary_opts else ""
    if not option.show_default or given is None:
        return ""
    return ", ".join(f"`{value}`" for value in (given if isinstance(given, list | tuple) else [given]))


# Values


def settings(model: type[BaseModel], head: str = "parameter") -> str:
    """Returns a table of a pydantic model's fields: default, what is allowed, meaning."""
    rows = [
        (f"`{name}`", _default(field), _allowed(field), cell(field.description or ""))
        for name, field in model.model_fields.items()
    ]
    return table((head, "default", "allowed", "what it is, and whose value"), rows)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple):
        return f"`[{','.join(map(str, value))}]`"
    return f"`{'none' if value is None else json.dumps(value) if isinstance(value, bool) else value}`"


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def _allowed(field: FieldInfo) -> str:
    choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
    if choices:
        return cell(", ".join(f"`{choice}`" for choice in choices))
    if field.annotation is bool:
        return "`true`, `false`"
    bounds = [
        f"{_SIGNS[name]} {getattr(limit, name):g}"
        for limit in field.metadata
        for name in _SIGNS
        if getattr(limit, name, None) is not None
    ]
    return cell(", ".join(bounds))


def attributes(model: type[BaseModel], title: str) -> str:
    """Returns a table of a value's fields, with the meanings that its docstring has under ``Attributes``."""
    about = attribute_notes(model.__doc__ or "")
    properties = model.model_json_schema()["properties"]
    rows = [
        (f"`{name}`", cell(_type(properties[name])), cell(about.get(name, ""))) for name in model.model_fields
    ]
    return f"{title}\n\n{table(('field', 'type', 'meaning'), rows)}"


def attribute_notes(docstring: str) -> dict[str, str]:
    """Returns what a Google docstring says of each attribute, ``{name: text}``, as Markdown."""
    _, _, text = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r" {8}(\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.startswith(" " * 12):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return {name: markdown(text) for name, text in found.items()}


def markdown(text: str) -> str:
    """Returns reStructuredText's literals and roles as Markdown's code."""
    return linked(re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text.replace("``", "`")))


def linked(text: str) -> str:
    """Returns text with the pages that it names as links, for pages in ``reference/``."""
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", text)


def _type(schema: dict[str, Any]) -> str:
    """Returns a JSON Schema in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        kinds = [_type(part) for part in schema["anyOf"]]
        lists = [kind for kind in kinds if kind.startswith("list")]
        # A list of any of them says them once more.
        return " or ".join([kind for kind in kinds if kind not in lists] + ["list"] * bool(lists))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {{ name: {_type(schema['additionalProperties'])} }}"
    return str(schema.get("type", "anything"))


def schema() -> str:
    """Returns the JSON Schema of a record, as a file."""
    return json.dumps(RunRecord.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def record() -> str:
    """Returns the page on records."""
    return "\n\n".join(
        (
            "# Records",
            "Every run is one JSON file, a `RunRecord`. Fields are only ever added; `schema_version` is "
            "raised when a meaning changes. [record.schema.json](record.schema.json) is its JSON Schema "
            "(draft 2020-12). What records are good for: [one folder, many machines](../records.md).",
            attributes(RunRecord, "## `RunRecord`: what came of a run"),
            attributes(RunSpec, "## `RunSpec`: what a run is"),
            attributes(Identity, "## `Identity`: what else decides its numbers"),
            attributes(Fingerprint, "## `Fingerprint`: what may stand in one ranking"),
            attributes(Suite, "## `Suite`: a set of runs"),
            "The parts `Efficiency` and `Operating` are described in [measuring](../efficiency.md) and "
            "[at the line](../line.md), their fields in the schema.",
        )
    )


def protocols() -> str:
    """Returns a table of the protocols."""
    rows = [(f"`{p.name}`", cell(p.about), p.badge or "none") for p in PROTOCOLS.values()]
    return table(("protocol", "what it does", "badge"), rows)


def protocol_fields() -> str:
    """Returns a table of what each protocol decides."""
    names = ("resize", "crop", "validation", "selection", "stopping", "incomplete_batches")
    rows = [(f"`{p.name}`", *(str(getattr(p, name)) for name in names)) for p in PROTOCOLS.values()]
    return table(("protocol", *(name.replace("_", " ") for name in names)), rows)


def citation(method: type[Method]) -> str:
    """Returns whom a leaderboard cites, as a line of text."""
    cited = method.citation
    where = f", {cited.venue}" if cited.venue and not cited.venue.startswith("arXiv") else ""
    title = f"[{cited.title}]({cited.url})" if cited.url else f"“{cited.title}”"
    return f"{cited.authors.replace(' and ', '; ')}: {title}{where}, {cited.year}."


def defaults(name: str) -> str:
    """Returns a method's citation, version, score, and its hyper-parameters."""
    method = load_method(name)
    facts = f"Version {method.version}. Image score: {method.score_rule}."
    return f"{citation(method)}\n\n{facts}\n\n{settings(method.Config)}"
