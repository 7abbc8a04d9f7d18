"""Let a Hugging Face model express an emotion: write a circuit or a direction into it by hooks.

Needs torch, transformers and safetensors, and a file of `emotion-circuits export --format hf`:
python apply_with_transformers.py MODEL fear.circuit.safetensors 1.0 "The lift stopped." ...
"""

import json
import sys

from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

name, path, strength, *texts = sys.argv[1:]
with safe_open(path, framework="pt") as file:
    spec = json.loads(file.metadata()["hooks"])
    parts = [
        [file.get_tensor(f"{i}.{x}") for x in ("index", "value")] for i in range(len(spec["edits"]))
    ]
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)


def attach(edit, index, value):
    def change(module, inputs, output=None):
        if edit["calls"] == "first":  # the call that reads the prompt
            handle.remove()
        found = inputs if edit["side"] == "input" else output
        changed = (found[0] if isinstance(found, tuple) else found).clone()
        at = slice(-1, None) if edit["positions"] == "last" else slice(None)
        changed[:, at, index] += float(strength) * value.to(changed)
        return (changed, *found[1:]) if isinstance(found, tuple) else changed

    module = model.get_submodule(edit["module"])
    hook = (
        module.register_forward_pre_hook
        if edit["side"] == "input"
        else module.register_forward_hook
    )
    handle = hook(change)
    return handle


for text in texts:
    turns = [{"role": "system", "content": spec["system"]}, {"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, **spec["template"]
    )
    handles = [attach(edit, *part) for edit, part in zip(spec["edits"], parts, strict=True)]
    reply = model.generate(**prompt, do_sample=False, max_new_tokens=100)[0]
    for handle in handles:
        handle.remove()
    print(tokenizer.decode(reply[prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip())
