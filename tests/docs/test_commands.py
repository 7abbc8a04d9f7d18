"""What the README and the pages say can be typed, can be typed."""

import subprocess

import pytest
from pages import MARKS, PAGES, ROOT, blocks, follow, name_of
from typer.main import get_command

from circuits.cli.app import app

SHELL = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
FOLLOWED = [
    page
    for page in PAGES
    if any(block.language in ("sh", "python") and not block.mark for block in blocks(page))
]


def test_every_block_has_a_language_that_is_run_or_known_data():
    known = {"sh", "python", "json", "toml", "text"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(blocks(page)), f"{page}: a bare fence"


def test_a_block_is_left_out_for_a_known_reason_only():
    assert {block.mark for page in PAGES for block in blocks(page)} <= {"", *MARKS}


@pytest.mark.parametrize("block", SHELL, ids=lambda block: name_of(block.page))
def test_every_command_and_option_exists(block):
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for program, *words in block.commands:
        if program == "make":
            subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
        elif program == "emotion-circuits":
            name, *options = words[: words.index(">")] if ">" in words else words
            assert name in commands, f"there is no command {name}"
            commands[name].make_context(name, options)
        else:
            assert program in {"source", "pip", "python", "python3", "git", "cd"}
            assert block.mark, f"{program} is not run: mark the block"


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_a_page_can_be_followed_from_top_to_bottom(page, reader, elsewhere):
    told = elsewhere.submit(follow, page, reader).result()
    assert told is None, told
