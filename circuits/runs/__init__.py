"""The whole job in stages, each saved, none done twice."""

from circuits.published.quirks import PRESETS as PRESETS
from circuits.runs.folder import Study as Study
from circuits.runs.plan import Plan as Plan
from circuits.runs.plan import Stage as Stage
from circuits.runs.stages import run as run

__all__ = ["PRESETS", "Plan", "Stage", "Study", "run"]
