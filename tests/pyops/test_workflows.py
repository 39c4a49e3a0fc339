"""What CI runs is what the Makefile has."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.pyops.dbt_runs import PROJECT

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def commands(path: Path) -> list[str]:
    """Every call of make in a workflow or script."""
    text = path.read_text("utf-8")
    if path.suffix == ".yml":
        steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
        text = "\n".join(step.get("run", "") for step in steps)
    return re.findall(r"^make .+$", text, re.M)


@pytest.mark.parametrize("path", [*WORKFLOWS, PROJECT / ".ci" / "run"], ids=lambda path: path.name)
def test_every_call_of_make_is_one_that_make_knows(path: Path) -> None:
    assert commands(path)
    for command in commands(path):
        subprocess.run([*command.split(), "--dry-run"], cwd=PROJECT, check=True)


def test_make_alone_lists_every_target() -> None:
    command = ["make", "--no-print-directory"]  # which a make around this one would print
    done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert targets
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(targets[1].split())
