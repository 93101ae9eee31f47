"""Names of methods: taking them apart, finding the class, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.common.errors import UserError
from harness.registry.methods import configure, load_method, method_names, source_hash
from harness.registry.names import parse_name, split_names

GOOD = """
from harness import Citation, Method

class Good(Method):
    version = 1
    citation = Citation(title="Good", authors="Person, A.", year=2026, licence="MIT")
    def fit(self, data, on_epoch): ...
    def predict(self, images): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...

class NoVersion(Good):
    version = "one"

class Abstract(Method):
    version = 1
    citation = Good.citation
    def fit(self, data, on_epoch): ...

class NoMethod: ...
"""


def test_names_are_split_outside_brackets_only() -> None:
    assert split_names("a, b[x=1,y=[2,3]],,c") == ["a", "b[x=1,y=[2,3]]", "c"]


def test_parameters_are_taken_from_the_name() -> None:
    name = parse_name("ulsad[lambda_l=0, layers=[a,b]]")
    assert (name.base, name.params) == ("ulsad", {"lambda_l": "0", "layers": ["a", "b"]})
    assert parse_name("ulsad").params == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ulsad[", "not of the form name"),
        ("ulsad[epochs]", "'epochs' is not of the form parameter=value"),
        ("ulsad[=3]", "not of the form parameter=value"),
        ("ulsad[epochs=1,epochs=2]", "given twice"),
    ],
)
def test_malformed_names(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_name(text)


def test_installed_methods_are_found_and_others_are_not() -> None:
    assert {"ulsad", "dfr"} <= set(method_names())
    assert load_method("dfr").__name__ == "DFR"
    with pytest.raises(UserError, match="Did you mean 'dfr'"):
        load_method("dfrr")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Goood", "Did you mean 'Good'"),
        ("NoVersion", "must state 'version', a int"),
        ("Abstract", "has no load_state_dict, predict, state_dict"),
        ("NoMethod", "is no subclass of harness.Method"),
    ],
)
def test_classes_that_are_no_methods(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    assert load_method(f"{tmp_path}/good.py:Good").__name__ == "Good"
    with pytest.raises(UserError, match=words):
        load_method(f"{tmp_path}/good.py:{name}")


def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(UserError, match=r"bad.py cannot be imported: ZeroDivisionError in line 2"):
        load_method(f"{tmp_path}/bad.py:Any")
    (tmp_path / "worse.py").write_text("x = 1\n\ny = = 2\n")
    with pytest.raises(UserError, match=r"SyntaxError in line 3"):
        load_method(f"{tmp_path}/worse.py:Any")


def test_an_edited_private_file_is_another_method(tmp_path: Path) -> None:
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    before = source_hash(parse_name(f"{path}:Good"))
    path.write_text(GOOD + "\n")
    assert source_hash(parse_name(f"{path}:Good")) != before
    assert source_hash(parse_name("ulsad")) == ""


def test_hyper_parameters_are_read_from_text_and_checked() -> None:
    config = configure(load_method("ulsad"), "ulsad", {"epochs": "3", "local_only": "true"})
    assert (config.model_dump()["epochs"], config.model_dump()["local_only"]) == (3, True)
    with pytest.raises(UserError, match=r"has no hyper-parameter 'epoch'\. Did you mean 'epochs'"):
        configure(load_method("ulsad"), "ulsad", {"epoch": 3})
    with pytest.raises(UserError, match=r"'epochs' = '3.5'"):
        configure(load_method("ulsad"), "ulsad", {"epochs": "3.5"})
