"""What every run shares: experiments, run folders that survive a kill, figures, and the report.

configure(experiment, preset, {"key": "value"})   a typed configuration
execute(experiment, config)                       runs/NAME/STAMP with results, figures and a checkpoint
Run.stage(name, steps, init, step)                a loop that resumes bit for bit
stream(seed, "batch", i)                          random numbers that depend on nothing else
"""

from tinymeta.lab.errors import UserError
from tinymeta.lab.execute import execute
from tinymeta.lab.experiment import Claim, Experiment, Outcome, Row, Trace, configure
from tinymeta.lab.run import Run
from tinymeta.lab.stats import mean_ci95
from tinymeta.lab.streams import stream

__all__ = [
    "Claim", "Experiment", "Outcome", "Row", "Run", "Trace", "UserError", "configure", "execute", "mean_ci95", "stream",
]  # fmt: skip
