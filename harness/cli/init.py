"""``bench init``: a method or a dataset card to begin with, and what to type next."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

import click

from harness.cli.options import sentences
from harness.common.errors import UserError

_TEMPLATES = Path(__file__).parent / "templates"
_CLASS = "MyMethod"
_DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")


@click.group()
def init() -> None:
    """Begin a method or a dataset card of one's own."""


@init.command()
@click.argument("name")
@_DEBUG
def method(name: str, debug: bool) -> None:
    """Write a method to begin with: NAME makes the class Name in name.py."""
    with sentences(debug):
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise UserError(
                f"'{name}' is no name for a method: give letters, digits and '_', such as my_method."
            )
        template = (_TEMPLATES / "method.py").read_text(encoding="utf-8")
        module = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        # Capitals that were given stay, as in ULSAD.
        class_ = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
        if keyword.iskeyword(class_) or (class_ != _CLASS and re.search(rf"\b{class_}\b", template)):
            raise UserError(
                f"The class cannot be called '{class_}', which the file uses itself: choose another."
            )
        if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
            raise UserError(f"{module}.py would hide a Python module of that name: choose another.")
        path = Path(f"{module}.py")
        _write(path, template.replace(_CLASS, class_))
        _say(
            f"{path} holds a method that works; make it yours. Then:",
            f"bench test-method {path}:{class_}",
            f"bench run --suite demo --methods {path}:{class_},padim",
            f"bench run --methods {path}:{class_} --datasets mvtec --data-root ~/data",
        )


@init.command()
@click.argument("name")
@_DEBUG
def dataset(name: str, debug: bool) -> None:
    """Write a dataset card to begin with, NAME.toml."""
    with sentences(debug):
        from harness.data.card import card_names

        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UserError(f"'{name}' is no name for a dataset: give letters, digits, '_' and '-'.")
        if name.lower() in card_names():
            raise UserError(
                f"There is a dataset '{name.lower()}' already, see `bench list datasets`: choose another."
            )
        path = Path(f"{name}.toml")
        template = (_TEMPLATES / "dataset.toml").read_text(encoding="utf-8")
        _write(path, template.replace("NAME", name))
        _say(
            f"{path} says where images lie; make it fit yours. Then, with the folder that holds {name}/:",
            f"bench data check {path} --data-root ~/data",
            f"bench prepare --methods ulsad,patchcore --datasets {path} --data-root ~/data",
            f"bench run --methods ulsad,patchcore --datasets {path} --data-root ~/data",
        )


def _write(path: Path, content: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise UserError(f"{path} is there already: choose another name, or remove it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): go to another folder.") from error


def _say(first: str, *commands: str) -> None:
    click.echo(first)
    for command in commands:
        click.echo(f"  {command}")
