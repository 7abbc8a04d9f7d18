"""Pages that are made when the site is built: public names, commands, and differences.

They are read from the package, so none of them can be out of date.
"""

import re
from collections.abc import Iterator, Mapping
from html import unescape
from inspect import unwrap
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SUBJECTS: Final = {
    "names": "Names",
    "runs": "Runs",
    "prompts": "Contexts, prompts, texts",
    "judges": "Replies and judges",
    "models": "Models and edits",
    "effects": "Directions and effects",
    "patching": "Patching, attribution, paths",
    "circuit": "Circuits",
    "steering": "Steering",
    "neurons": "Class-selective neurons",
    "export": "Export",
    "plots": "Figures",
    "records": "Records, shipped files, errors",
}
"""Part of the package -> the heading of its page, in their order."""

_WORDS: Final = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
"""Type of an option -> what stands for its value."""

_MATH: Final = re.compile(
    r'<(span|div) class="arithmatex">\s*'
    r"(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<display>.*?)\\\])\s*</\1>",
    re.DOTALL,
)

_ROLE: Final = re.compile(r":(?:class|func|meth|mod|attr|data):(<code>)~?(?:[\w.]*\.)?(\w+</code>)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {"api": names_page(), "commands": commands_page(), "quirks": quirks_page()}
    pages |= {f"api/{subject}": subject_page(subject) for subject in SUBJECTS}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show roles of docstrings as the names that they hold, and formulas as MathML.

    Browsers draw MathML by themselves, so nothing is fetched and no script is run.
    """
    return _MATH.sub(_mathml, _ROLE.sub(r"\1\2", html))


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["display"] else "inline"
    return convert(unescape(found["display"] or found["inline"]), display=display)


def names_page() -> str:
    """The public names by subject, each with its page."""
    lines = [
        "# API reference",
        "",
        "`import circuits as ec` offers these names; each is loaded when it is first used.",
        'Shapes stand in the annotations: `Float[Tensor, "emotion layer head"]`.',
        "The [glossary](../glossary.md) has the terms with their formulas.",
        "",
        "| subject | names |",
        "| --- | --- |",
    ]
    for subject, heading in SUBJECTS.items():
        names = ", ".join(f"`{_short(place)}`" for place in _places(subject))
        lines.append(f"| [{heading}](api/{subject}.md) | {names} |")
    return "\n".join(lines)


def subject_page(subject: str) -> str:
    """The public names of one subject."""
    lines = [f"# {SUBJECTS[subject]}", ""]
    for place in _places(subject):
        lines += [f"::: {place}", *_options(place), ""]
    return "\n".join(lines)


def _places(subject: str) -> list[str]:
    return sorted(public_names()[subject], key=str.casefold)


def _short(place: str) -> str:
    return place.rpartition(".")[2]


def public_names() -> dict[str, list[str]]:
    """Part of the package -> where its public names are defined."""
    import circuits

    found: dict[str, list[str]] = {subject: [] for subject in SUBJECTS}
    for name in circuits.__all__:
        home, own = circuits._WHERE[name]  # noqa: SLF001
        subject = home.split(".")[1]
        found[subject if subject in SUBJECTS else "records"].append(
            f"{home}.{own}" if own else home
        )
    return found


def commands_page() -> str:
    """Every command with its arguments, options and examples."""
    from typer.main import get_command

    from circuits.cli.app import app

    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        "# Commands",
        "",
        "Wrong input ends with one line on standard error and exit code 2, Ctrl-C with 130.",
        "Every command takes `--debug` (show the traceback of an error),",
        "`--trust-remote-code` (run code that comes with a model; it can do all that you can) and",
        "`--trust-judge` (send your key to the judge's server that a plan or a run names).",
    ]
    for name, command in commands.items():
        lines += ["", f"## {name}", "", *_command(name, command)]
    return "\n".join(lines)


def quirks_page() -> str:
    """Every difference from the published scripts, with what brings it back."""
    from circuits.published.quirks import METHOD, QUIRKS

    lines = [
        "# Differences from the published scripts",
        "",
        "What the scripts and files of Wang et al. 2025 ([arXiv 2510.11328]"
        "(https://arxiv.org/abs/2510.11328)) do, and why a run does otherwise by default. "
        "`--preset published` brings all switches back, `--preset as-released` what the scripts do "
        "where that is not what the files say, and `--set OPTION=VALUE` one of them "
        "([method](../method/emotion-circuits.md)). Each row has a test of its name.",
    ]
    for heading, rows in (("Quirks", QUIRKS), ("Choices", METHOD)):
        lines += [
            "",
            f"## {heading}",
            "",
            "| | why not | what brings it back |",
            "| --- | --- | --- |",
        ]
        for row in rows:
            back = ", ".join(_switch(s) for s in row.switches) or f"nothing: {row.handled}"
            lines.append(f"| {row.name.replace('_', ' ')} | {row.reason} | {back} |")
    return "\n".join(lines)


def _switch(switch: Any) -> str:
    said = f"`{switch.option}` = `{switch.published}`"
    return said if switch.as_released is None else f"{said} (released: `{switch.as_released}`)"


def _options(place: str) -> list[str]:
    return ["    options:", "      members: [draw]"] if place == "circuits.plots" else []


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["emotion-circuits", name, *(p.name.upper() for p in arguments)])
    yield from ("```text", f"{usage} [OPTIONS]", "```", "", _plain(command.help or ""), "")
    kinds = get_type_hints(unwrap(command.callback))
    options = [p for p in command.params if p.param_type_name != "argument" and p.name != "help"]
    for heading, given in (("argument", arguments), ("option", options)):
        if given:
            yield from (f"| {heading} | what | default |", "| --- | --- | --- |")
            yield from (_parameter(p, kinds) for p in given)
            yield ""
    if hasattr(command, "plan_options"):
        yield from ("| option of the plan | what |", "| --- | --- |")
        for field, text in command.plan_options().items():
            told = _plain(text).replace("|", "\\|")
            yield f"| `--{field.replace('_', '-')} VALUE` | {told} |"
        yield ""
    if command.epilog:
        told = re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", command.epilog)
        yield _plain(told)


def _parameter(parameter: Any, kinds: Mapping[str, Any]) -> str:
    argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if argument else ", ".join(parameter.opts)
    kind = "" if argument or parameter.is_flag else f" {_kind(parameter, kinds[parameter.name])}"
    empty = parameter.default in (None, "", [], ()) or parameter.default is False
    shown = "required" if parameter.required else "" if empty else f"`{parameter.default}`"
    told = _plain(parameter.help or "").replace("|", "\\|")
    return f"| `{name}{kind}` | {told} | {shown} |"


def _kind(parameter: Any, kind: Any) -> str:
    if parameter.metavar:
        return parameter.metavar
    if get_origin(kind) is Literal:
        # A bar would end the cell of the table.
        return "/".join(get_args(kind))
    own = [each for each in get_args(kind) if each is not NoneType]
    return _kind(parameter, own[0]) if own else _WORDS[kind]


def _plain(text: str) -> str:
    return re.sub(r"\n(?!\n)\s*", " ", text.replace("\n\n", "\0")).replace("\0", "\n\n")
