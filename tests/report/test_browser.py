"""A real browser opens the page: figures are drawn and the console stays silent."""

import pytest

from circuits.report import write_report

DRAWN = 11
"""Ten figures and one circuit; the others wait for their tab."""


@pytest.fixture(scope="module")
def opened(samples, browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_report(samples.report(), folder / "report.html")
    said = []
    page = browser.new_page(viewport={"width": 1280, "height": 12000})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    page.locator("[data-drawn=yes]").nth(DRAWN - 1).wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    yield page, said
    page.close()


def test_the_console_stays_silent(opened):
    _, said = opened
    assert said == []


def test_all_figures_but_those_of_hidden_circuits_are_drawn(opened):
    page, _ = opened
    assert page.locator("[data-drawn=yes]").count() == DRAWN
    assert page.locator(".main-svg").count() >= 8


def test_one_circuit_and_one_sample_are_shown_and_menus_belong_to_the_page(opened):
    page, _ = opened
    main = page.locator("main")
    assert main.locator("[aria-selected=true]").count() == 1
    assert main.locator("[role=tabpanel]").count() == 6
    assert main.locator("select").count() == 1 + 5
    assert main.locator("[type=range]").count() == 1
    assert main.locator(".updatemenu-button").count() == 0
