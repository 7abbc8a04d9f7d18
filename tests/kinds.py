"""A pytest plugin: ``--model-kind hooked`` runs tests on HookedTransformers of TransformerLens 3.

Whatever a test loads or wraps is then made into a HookedTransformer first. Tests that are about
something a HookedTransformer does not have are left out, with the reason.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from hooked import NotConvertedError, hooked_transformer

from circuits.models import load as loading

_INSIDE = "compares with Hugging Face's modules inside the model, which a HookedTransformer lacks"
_TOOL = "compares with a tool of TransformerLens that is not asked for by HookedTransformers"
_WINDOW = "a HookedTransformer reads on inside its window, so nothing is refused"
_BRIDGE = "is about a bridge"
_LIBRARY = "is about what transformers hands a bridge's attention, which a HookedTransformer lacks"
NOT_FOR_HOOKED = {
    "test_a_model_that_runs_as_it_must_is_taken": _INSIDE,
    "test_the_cache_reaches_attention_under_its_new_name": _LIBRARY,
    "test_a_string_is_read_as_transformer_lens_reads_it": (
        "compares with the model's own tokenizer, which these HookedTransformers are made without"
    ),
    "test_a_bridge_is_taken_as_it_is": _BRIDGE,
    "test_a_bridge_with_folded_weights_is_refused": _BRIDGE,
    "test_a_cache_that_is_not_kept_is_one_error_with_versions": _LIBRARY,
    "test_positions_that_count_padding_are_refused": _INSIDE,
    "test_a_rotary_scaling_that_switches_with_length_is_tried_below_the_switch": _INSIDE,
    "test_what_loading_a_model_costs_is_little_noted_and_on_no_receipt": _INSIDE,
    "test_zeroing_neurons_their_gates_and_their_output_weights_is_one_thing": _INSIDE,
    "test_replies_under_penalties_are_those_of_transformers": _INSIDE,
    "test_relp_is_the_gradient_of_a_model_written_with_its_rules": _INSIDE,
    "test_atp_agrees_with_exact_patching_to_second_order": _INSIDE,
    "test_attributions_are_those_of_plainly_split_inputs": _INSIDE,
    "test_exact_paths_are_base_runs_with_one_other_input": _INSIDE,
    "test_the_control_is_the_size_along_random_directions": _INSIDE,
    "test_a_value_that_is_no_number_stops_the_pass": _INSIDE,
    "test_atp_equals_the_scores_of_transformer_lens": _TOOL,
    "test_scores_are_those_of_transformer_lens_where_it_has_them": _TOOL,
    "test_a_prompt_longer_than_the_attention_window_is_refused": _WINDOW,
    "test_a_run_longer_than_the_window_is_not_gone_on_with": _WINDOW,
    "test_a_mapped_model_gives_the_same_numbers": (
        "a HookedTransformer is given in memory: no arguments of loading are known of it"
    ),
}
"""Test -> why it cannot apply."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model-kind", choices=("bridge", "hooked"), default="bridge")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--model-kind") == "hooked":
        # Before any test module takes the functions by their names.
        loading.wrap_model = _wrapping(loading.wrap_model)
        loading.load_model = _loading(loading.load_model, loading.wrap_model)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--model-kind") == "hooked":
        for item in items:
            reason = NOT_FOR_HOOKED.get(item.name.split("[")[0])
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _wrapping(wrap: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(wrap)
    def wrap_model(hf_model: Any, tokenizer: Any = None, *, name: str = "external") -> Any:
        if hasattr(hf_model, "hook_dict"):  # loaded already, as what a user has
            return wrap(hf_model, tokenizer, name=name)
        try:
            model = hooked_transformer(hf_model)
        except NotConvertedError as reason:
            pytest.skip(f"TransformerLens 3.9 does not convert it: {reason}")
        return wrap(model, tokenizer, name=name)

    return wrap_model


def _loading(load: Callable[..., Any], wrap: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(load)
    def load_model(name: Any, **options: Any) -> Any:
        bridge = load(name, **options)
        if bridge is name:
            return bridge
        from transformers import AutoModelForCausalLM

        hf_model = AutoModelForCausalLM.from_pretrained(bridge.cfg.source, dtype=bridge.cfg.dtype)
        model = wrap(hf_model, bridge.tokenizer, name=bridge.cfg.source)
        model.cfg.begin, model.cfg.date = bridge.cfg.begin, bridge.cfg.date
        return model

    return load_model
