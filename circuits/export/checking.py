"""Is a file what its format asks for? For files of this package and of other tools."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig_reading import check_eap_ig
from circuits.export.node_link import circuit_from_json
from circuits.export.page_rules import check_neuronpedia
from circuits.export.text_rules import check_csv, check_dot, check_mermaid
from circuits.export.xml_rules import check_gexf, check_graphml
from circuits.files import read_json, read_text

__all__ = ["check_file"]

_TEXTS: Final[Mapping[str, tuple[str, Callable[[str], None]]]] = {
    ".graphml": ("graphml", check_graphml),
    ".gexf": ("gexf", check_gexf),
    ".dot": ("dot", check_dot),
    ".gv": ("dot", check_dot),
    ".mmd": ("mermaid", check_mermaid),
    ".csv": ("csv", check_csv),
}


def check_file(path: Path) -> str:
    """Check one file; its name's ending says the format, and of JSON its fields do.

    Returns:
        The format, as ``export --format`` calls it.

    Raises:
        DataError: the file is missing, of no known format, or what is wrong and where: a JSON
            path, an element or a line.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            values = read_json(path)
            name, check = _json_form(values)
            check(values)
        elif suffix in _TEXTS:
            name, check = _TEXTS[suffix]
            check(read_text(path))
        else:
            raise DataError(
                f"no format has files that end in {suffix!r}; known are .json, {', '.join(_TEXTS)}"
            )
    except (DataError, CircuitError) as error:
        text = str(error)
        raise DataError(text if text.count(str(path)) else f"{path}: {text}") from error
    return name


def _json_form(values: Any) -> tuple[str, Callable[[Any], object]]:
    if isinstance(values, dict):
        if "format" in values:
            return "json", circuit_from_json
        if values.keys() & {"metadata", "qParams", "links"}:
            return "neuronpedia", check_neuronpedia
        if "cfg" in values:
            return "eap-ig", check_eap_ig
    raise DataError(
        "this JSON is no circuit (which has 'format'), attribution graph of Neuronpedia "
        "('metadata', 'qParams') or graph of EAP-IG ('cfg')"
    )
