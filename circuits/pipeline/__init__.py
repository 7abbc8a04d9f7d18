"""The whole job in stages, each saved, none done twice."""

from circuits.pipeline.plan import Plan as Plan
from circuits.pipeline.plan import Stage as Stage
from circuits.pipeline.presets import PRESETS as PRESETS
from circuits.pipeline.run import run as run
from circuits.pipeline.study import Study as Study

__all__ = ["PRESETS", "Plan", "Stage", "Study", "run"]
