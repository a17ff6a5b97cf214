"""What tocsin is made of: every import is declared, every version locked, every licence known, no wheel looked into."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tocsin.serve.app import STATIC

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SUPPLY = ROOT / "tools" / "supply.py"
FOREIGN_FILES = {("plotly", "package_data/plotly.min.js")}
"""Files of other wheels that are read by their path: a version that has moved one must be noticed here."""


APART = {"pyflink": ["apache-flink"]}
"""Packages of an environment of their own, which is not this one: who brings them."""


def declared(*groups: str) -> dict[str, Requirement]:
    texts = [text for group in groups for text in (PROJECT["dependencies"] if group == "" else EXTRAS[group])]
    return {canonicalize_name(one.name): one for one in map(Requirement, texts)}


def test_what_a_message_says_to_install_is_in_the_extra_that_it_names() -> None:
    told = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "MissingExtra":
                words = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
                if len(words) == 2:
                    told += [(library, str(words[1])) for library in str(words[0]).split(" and ")]
    assert len(told) > 25
    missing = [pair for pair in told if canonicalize_name(pair[0]) not in declared(pair[1])]
    assert not missing


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_is_declared() -> None:
    known = {*declared("", *(extra for extra in EXTRAS if extra != "test"))}
    makers = {**APART, **packages_distributions()}
    undeclared = {}
    for path in sorted((ROOT / "src" / "tocsin").rglob("*.py")):
        for name in imported(path) - sys.stdlib_module_names - {"tocsin"}:
            if not known & {canonicalize_name(maker) for maker in makers.get(name, [name])}:
                undeclared.setdefault(name, path.name)
    assert not undeclared, f"declare in pyproject.toml what is imported: {undeclared}"


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_every_dependency_is_locked_at_a_version_that_is_allowed() -> None:
    pins = pinned()
    for name, wanted in declared("", "test").items():
        assert name in pins, f"{name} is not locked; run: python tools/supply.py constraints > constraints.txt"
        assert wanted.specifier.contains(pins[name]), f"{wanted}, but {pins[name]} is locked"


def run(*what: str) -> str:
    done = subprocess.run([sys.executable, SUPPLY, *what], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_dependencies_need_is_locked_too() -> None:
    fresh = {line.partition("==")[0] for line in run("constraints").splitlines() if not line.startswith("#")}
    assert fresh <= pinned().keys(), "run: python tools/supply.py constraints > constraints.txt"


def test_every_locked_version_has_its_hashes() -> None:
    text = (ROOT / "locked.txt").read_text()
    locked = re.findall(
        r"^([a-z0-9-]+)==([\w.]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", text, re.MULTILINE
    )
    assert {name: version for name, version, _ in locked} == pinned(), (
        "CONTRIBUTING.md says how to write locked.txt anew"
    )
    assert text.count("--hash=") == sum(hashes.count("--hash=") for _, _, hashes in locked)


def test_what_an_extra_needs_can_be_taken_with_hashes() -> None:
    lines = [line for line in run("locked", "kafka").splitlines() if not line.startswith("    --hash=sha256:")]
    names = {line.partition("==")[0] for line in lines}
    assert declared("", "kafka").keys() <= names
    assert "pytest" not in names
    assert names <= pinned().keys()


def test_newest_versions_are_tried_each_week() -> None:
    job = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "newest.yml").read_text())
    assert job["on"]["schedule"]
    (step,) = (step for step in job["jobs"]["newest"]["steps"] if step.get("run") == "./test")
    assert step["env"]["TOCSIN_TEST_NEWEST"] == "1"


def test_the_versions_that_flink_pins_are_tried_each_week() -> None:
    job = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "flink.yml").read_text())
    assert job["on"]["schedule"]
    commands = [step.get("run", "") for step in job["jobs"]["flink"]["steps"]]
    (install,) = (command for command in commands if ".[flink" in command)
    assert declared("", *re.findall(r"[a-z]+", install.partition("[")[2].partition("]")[0]))
    folders = [word for command in commands for word in command.split() if word.startswith("tests/")]
    assert "tests/flink" in folders
    assert len(folders) > 5
    assert all((ROOT / folder.partition("::")[0]).exists() for folder in folders)


def test_the_bill_of_materials_names_what_users_install() -> None:
    bill = json.loads(run("sbom"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    names = [component["name"] for component in bill["components"]]
    assert len(names) == len(set(names))
    assert declared("").keys() <= set(names)
    assert "pytest" not in names
    for component in bill["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert re.fullmatch(r"[0-9a-f]{64}", component["properties"][0]["value"])


def test_every_licence_is_known_to_be_fit() -> None:
    assert "LOOK" not in run("licences")


def test_files_in_other_wheels_are_where_they_are_expected() -> None:
    foreign = {(package, name) for package, name, _ in STATIC.values() if package.partition(".")[0] != "tocsin"}
    assert foreign == FOREIGN_FILES
    for package, name in FOREIGN_FILES:
        assert files(package).joinpath(name).read_bytes().lstrip()[:1] in (b"/", b"!", b"(", b"v", b'"')


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "tocsin").rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_path_leads_into_a_wheel(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "app.py":
        text = text.replace("files(p).joinpath(name)", "")  # STATIC, see above
    assert not re.search(r"\bfiles\((?!self|log)[\w\"'.]+\)\.|site-packages|\w+\.__path__", text)


@pytest.mark.parametrize(
    ("newest", "wanted"), [("1", "--upgrade --upgrade-strategy eager"), ("", "-c constraints.txt")]
)
def test_newest_versions_replace_those_that_are_installed(tmp_path: Path, newest: str, wanted: str) -> None:
    """Plain ``--upgrade`` keeps every dependency that is allowed, so that a second run would try nothing new."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    setup = (ROOT / "test").read_text(encoding="utf-8").partition("[ -x .venv/bin/python ]")[2]
    script = "set -e\n[ -x .venv/bin/python ]" + setup
    environment = {**os.environ, "TOCSIN_TEST_NEWEST": newest}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (3, f"-m pip install -q -e .[test] {wanted}")
