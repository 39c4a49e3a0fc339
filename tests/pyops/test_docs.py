"""The documentation: every command in it runs, every configuration in it is valid."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pyops import load
from pyops.config.model import TableConfig
from tests.pyops.dbt_runs import FEW_DAYS, PROJECT, copy_project

DOCS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_configuration_shown_is_valid(path: Path, tmp_path: Path) -> None:
    for text in blocks(path, "yaml"):
        if "sources" in (yaml.safe_load(text) or {}):
            (tmp_path / "pyops.yml").write_text(text, "utf-8")
            assert load(tmp_path).tables()


def test_every_key_of_a_table_is_documented() -> None:
    text = (PROJECT / "docs" / "configuration.md").read_text("utf-8")
    for name, field in TableConfig.model_fields.items():
        assert f"`{field.alias or name}`" in text


def test_every_link_leads_somewhere() -> None:
    for path in DOCS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_pattern_names_files_and_tests_that_exist() -> None:
    text = (PROJECT / "docs" / "patterns.md").read_text("utf-8")
    named = re.findall(r"`([^`\s]+)`", text)
    paths = [name for name in named if re.match(r"(pyops|models|macros|tests|seeds|snapshots)/", name)]
    assert len(paths) > 20
    assert [path for path in paths if not list(PROJECT.glob(path.rstrip("/")))] == []
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
        assert f"def {test}" in (PROJECT / "tests" / "pyops" / file).read_text("utf-8"), test
    unit_tests = re.findall(
        r"^  - name: (\w+)\n",
        "".join(path.read_text("utf-8").partition("unit_tests:")[2] for path in (PROJECT / "models").rglob("*.yml")),
        re.M,
    )
    sentences = [name for name in named if re.fullmatch(r"[a-z]+(_[a-z]+){3,}", name)]
    assert set(sentences) - set(unit_tests) == set()


def test_every_make_target_shown_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    for path in [*DOCS, PROJECT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\bmake ([a-z]+)\b(?= |`|$)", path.read_text("utf-8"), re.M):
            if f"`make {target}`" in path.read_text("utf-8") or path.name == "README.md":
                assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_command_shown_runs(tmp_path: Path) -> None:
    """With the demo that the README starts with, in the order of the documents."""
    project = tmp_path / "project"
    copy_project(project, FEW_DAYS)
    environment = {name: value for name, value in os.environ.items() if name not in {"SHOP_DSN", "PYOPS_WAREHOUSE"}}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    try:
        for path in DOCS:
            for command in re.findall(r"^\$ (.+)$", "".join(blocks(path, "console")), re.M):
                done = subprocess.run(
                    shlex.split(command), cwd=project, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{path.name}: {command}\n{done.stdout}{done.stderr}"
    finally:
        down = [sys.executable, "-m", "pyops", "demo", "down", "--delete"]
        subprocess.run(down, cwd=project, check=True, capture_output=True)
        shutil.rmtree(project)
