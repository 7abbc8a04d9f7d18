"""Will Neuronpedia and circuit-tracer open an attribution graph?

The schema says which fields there are; what the page needs beyond is checked here.
"""

import re
from typing import Any

from circuits.errors import DataError
from circuits.export.form import check_form_of

__all__ = ["check_neuronpedia"]

_NUMBER = re.compile(r"[0-9]+")
_PROBABILITY = re.compile(r"\(p=\s*[0-9.eE+-]+\s*\)")


def check_neuronpedia(values: Any) -> None:
    """Check an attribution graph: its schema, and what its page throws an error at.

    Raises:
        DataError: what is wrong, with its JSON path.
    """
    check_form_of(values, "neuronpedia.schema.json")
    ids = _ids(values["nodes"])
    n_tokens = len(values["metadata"]["prompt_tokens"])
    for number, node in enumerate(values["nodes"]):
        if node["ctx_idx"] >= n_tokens:
            raise DataError(
                f"nodes[{number}].ctx_idx is {node['ctx_idx']}, but metadata.prompt_tokens has "
                f"{n_tokens} tokens"
            )
        label = node["clerp"]
        if node["feature_type"] == "logit" and label and not _PROBABILITY.search(label):
            raise DataError(
                f"nodes[{number}].clerp is {label!r}; the page needs a probability in the label "
                "of a logit, such as 'fear (p=0.5)'"
            )
    for number, link in enumerate(values["links"]):
        for end in ("source", "target"):
            if link[end] not in ids:
                raise DataError(f"links[{number}].{end} is {link[end]!r}, which no node has as id")
    _check_layers(values["nodes"])
    _check_view(values["qParams"], ids)


def _ids(nodes: list[dict[str, Any]]) -> set[str]:
    found: dict[str, int] = {}
    for number, node in enumerate(nodes):
        first = found.setdefault(node["node_id"], number)
        if first != number:
            raise DataError(
                f"nodes[{number}].node_id is {node['node_id']!r}, as is that of nodes[{first}]; "
                "every node needs an id of its own"
            )
    return set(found)


def _check_layers(nodes: list[dict[str, Any]]) -> None:
    layers = [str(node["layer"]) for node in nodes if node["feature_type"] != "logit"]
    if not any(_NUMBER.fullmatch(layer) and int(layer) > 0 for layer in layers):
        raise DataError(
            "nodes: none but logits lies in a layer above 0; the page opens no such graph"
        )


def _check_view(view: dict[str, Any], ids: set[str]) -> None:
    named = [(f"pinnedIds[{i}]", id) for i, id in enumerate(view.get("pinnedIds", ()))]
    for i, (_, *own) in enumerate(view.get("supernodes", ())):
        named += [(f"supernodes[{i}][{j}]", id) for j, id in enumerate(own, start=1)]
    if view.get("clickedId"):
        named.append(("clickedId", view["clickedId"]))
    for path, id in named:
        if id not in ids:
            raise DataError(f"qParams.{path} is {id!r}, which no node has as id")
