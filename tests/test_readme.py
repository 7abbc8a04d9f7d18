"""What the README says can be done, can be done."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_the_program_in_the_readme_runs(tmp_path):
    (program,) = blocks("python")
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(" in done.stdout


def test_every_command_in_the_readme_exists():
    from typer.main import get_command

    from circuits.cli.app import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    used = re.findall(r"^emotion-circuits (\S+)", "\n".join(blocks("")), re.M)
    assert used
    assert set(used) <= set(known)


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert all((README.parent / link).exists() for link in links)
