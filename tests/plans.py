"""Plans on the shipped scenarios."""

from pathlib import Path
from typing import Any

from circuits.files import shipped
from circuits.runs import Plan


def plan_in(out: Path, *, model: str = "sev-nano", **options: Any) -> Plan:
    """A plan on the shipped train and test scenarios, with results in a folder."""
    data = {"data": shipped("sev/train.jsonl"), "test": shipped("sev/test.jsonl")}
    return Plan(model=model, out=out, **data, **options)
