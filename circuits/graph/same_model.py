"""Is a circuit one of the model on which it is to be used?"""

from collections.abc import Mapping
from typing import Any, Final

from circuits.errors import CircuitError

__all__ = ["SHAPE", "check_same_model"]

SHAPE: Final = ("n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp")
"""Sizes without which a component's name means nothing."""


def check_same_model(
    what: str,
    origin: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    otherwise: str = "give that model",
    any_revision: bool = False,
) -> None:
    """Refuse what was made from another model.

    Weights are told apart by their revision, or by the model's name where no revision is known; a
    size or revision that one side does not say is not compared.

    Args:
        what: What is to be used, such as its file.
        origin: The model of its provenance.
        model: Description of the model that is there.
        otherwise: What to do where the weights differ.
        any_revision: Take other weights of the same sizes, such as a fine-tuned model's.

    Raises:
        CircuitError: the sizes differ, or, without ``any_revision``, the weights; says which.
    """
    sizes = [name for name in SHAPE if _differ(origin, model, name)]
    if sizes:
        raise CircuitError(
            f"{_said(what, origin, model, sizes)}; in a model of another size the names of parts "
            "mean others, so give the model that it was made from"
        )
    identity = "revision" if _known(origin, model, "revision") else "name"
    if _differ(origin, model, identity) and not any_revision:
        raise CircuitError(f"{_said(what, origin, model, [identity])}; {otherwise}")


def _said(what: str, origin: Mapping[str, Any], model: Mapping[str, Any], names: list[str]) -> str:
    own, here = (
        ", ".join(f"{name} {values[name]}" for name in names) for values in (origin, model)
    )
    return (
        f"{what} was made from {origin.get('name', 'a model without a name')} ({own}); "
        f"{model.get('name', 'this model')} has {here}"
    )


def _known(origin: Mapping[str, Any], model: Mapping[str, Any], name: str) -> bool:
    return all(values.get(name) not in (None, "unknown") for values in (origin, model))


def _differ(origin: Mapping[str, Any], model: Mapping[str, Any], name: str) -> bool:
    if not _known(origin, model, name):
        return False
    if name == "name":
        # A hub's name and the folder of a copy of it.
        return str(origin[name]).rsplit("/", 1)[-1] != str(model[name]).rsplit("/", 1)[-1]
    return bool(origin[name] != model[name])
