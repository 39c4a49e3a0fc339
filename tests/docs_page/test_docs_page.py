"""The page that `make docs` writes, opened in a real browser that has no network."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "target" / "docs" / "index.html"
MODEL = "fct_orders"

# Nothing of the browser's own may wait for a network. As root it refuses its sandbox.
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1400,1200",
    "--virtual-time-budget=10000",
    "--dump-dom",
]

# Runs before the page's own scripts. The manifest is drawn on a canvas, so it is asked of the
# element that cytoscape draws in.
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
console.error = (...parts) => errors.push(parts.join(" "));
setTimeout(() => {
    const canvas = [...document.querySelectorAll("div")].find(div => div._cyreg);
    const found = document.createElement("pre");
    found.id = "probe";
    found.textContent = JSON.stringify({
        errors,
        requests: performance.getEntriesByType("resource").map(entry => entry.name),
        manifest: canvas ? canvas._cyreg.cy.nodes(":visible").map(node => node.id()) : [],
    });
    document.body.append(found);
}, 8000);
</script>"""


@dataclass(frozen=True)
class Opened:
    """What the page looks like once it has settled."""

    text: str
    errors: list[str]
    requests: list[str]
    manifest: list[str]


def open_page(route: str, folder: Path) -> Opened:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "no chromium on the path: install it, on Debian with apt-get install chromium"
    assert PAGE.exists(), f"no {PAGE.name}: run make docs"
    copy = folder / "index.html"
    copy.write_text(PROBE + PAGE.read_text("utf-8"), "utf-8")
    options = [*CHROMIUM, f"--user-data-dir={folder / 'profile'}"]
    command = [chromium, *options, f"{copy.as_uri()}#!/{route}"]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    probe = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S)
    assert probe, "the page did not settle"
    found: dict[str, Any] = json.loads(html.unescape(probe[1]))
    body = re.sub(r"<(script|style|pre)\b.*?</\1>", "", dom, flags=re.S)
    text = html.unescape(re.sub(r"<[^>]*>", " ", body))
    return Opened(" ".join(text.split()), **found)


def bare(text: str) -> str:
    """Markdown or what was made of it, without blanks and marks: just what is said."""
    return re.sub(r"[\s`*_]", "", text)


def node(kind: str, name: str) -> dict[str, Any]:
    manifest = json.loads(PAGE.with_name("manifest.json").read_text("utf-8"))
    found: dict[str, Any] = manifest[kind][name]
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The page of a model, its manifest unfolded."""
    route = f"model/model.pyops.{MODEL}?g_v=1&g_i=%2B{MODEL}%2B"
    return open_page(route, tmp_path_factory.mktemp("page"))


def test_a_models_page_shows_its_description_and_columns(page: Opened) -> None:
    model = node("nodes", f"model.pyops.{MODEL}")
    assert bare(model["description"]) in bare(page.text)
    for column in model["columns"]:
        assert f" {column} " in page.text


def test_its_lineage_goes_back_to_the_source(page: Opened) -> None:
    assert {f"model.pyops.{MODEL}", "source.pyops.shop.orders__changes"} <= set(page.manifest)
    parents = node("nodes", f"model.pyops.{MODEL}")["depends_on"]["nodes"]
    assert set(parents) <= set(page.manifest)


def test_it_runs_without_error_and_asks_nothing_of_the_network(page: Opened) -> None:
    assert page.errors == []
    assert [name for name in page.requests if not name.startswith(("file:", "data:"))] == []


def test_the_start_page_lists_sources_and_projects(tmp_path: Path) -> None:
    page = open_page("overview", tmp_path)
    assert page.errors == []
    for name in ("shop", "web", "pyops"):
        assert f" {name} " in page.text
