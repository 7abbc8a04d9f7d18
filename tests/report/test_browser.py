"""A real browser opens the page: figures are drawn and the console stays silent."""

import shutil
import subprocess

import pytest

from circuits.names import EMOTIONS
from circuits.report import ReportContent, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium; apt-get install chromium")


@pytest.fixture(scope="module")
def opened(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    made = ReportContent(
        title="Emotion circuits of a tiny model",
        directions=samples.directions(),
        generality=samples.generality(),
        heads=samples.heads(),
        neurons=samples.neurons(),
        importance=samples.importance(),
        circuits={emotion: samples.circuit(emotion) for emotion in EMOTIONS},
        scores=samples.scores(),
        elicitation=samples.elicitation(),
        control=samples.accuracy(),
        replies=samples.judged(text="<script>document.title = 'broken'</script>"),
        receipts={"replies": {"passes": 1, "steps": 2, "token_layers": 3}},
        provenance=samples.provenance(),
    )
    write_report(made, folder / "report.html")
    assert BROWSER is not None
    return subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--enable-logging=stderr",
            "--window-size=1280,12000",
            "--virtual-time-budget=20000",
            f"--user-data-dir={folder / 'profile'}",
            (folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )


def test_the_console_stays_silent(opened):
    said = [line for line in opened.stderr.splitlines() if "CONSOLE" in line]
    assert said == []


def test_all_figures_but_those_of_hidden_circuits_are_drawn(opened):
    # Ten figures and one circuit; the others wait for their tab.
    assert opened.stdout.count('data-drawn="yes"') == 11
    assert opened.stdout.count('class="main-svg"') >= 8


def test_one_circuit_and_one_sample_are_shown_and_menus_belong_to_the_page(opened):
    page = opened.stdout.split("<main>")[1].split("</main>")[0]
    assert page.count('aria-selected="true"') == 1
    assert page.count('role="tabpanel"') == 6
    assert page.count("<select") == 1 + 5
    assert page.count('type="range"') == 1
    assert "updatemenu-button" not in page


def test_a_reply_cannot_change_the_page(opened):
    assert "<title>Emotion circuits of a tiny model</title>" in opened.stdout
