"""``lmcl reproduce --dry-run``: print runs, time and disk space; run nothing."""

from __future__ import annotations

from collections.abc import Callable

from .cluster import slurm_cluster
from .reproduce import ReproduceOptions, check_options


def print_forecast(options: ReproduceOptions, log: Callable[[str], None] = print) -> None:
    """Print the table of `forecast`, its sums and, with SLURM, the job script. Raises as `reproduce`."""
    check_options(options, log=lambda line: None)  # wrong use is reported before torch is imported
    script = ""
    if options.scheduler == "slurm":  # first, because incomplete settings are an error
        with slurm_cluster() as cluster:
            script = cluster.job_script()
    from .forecast import forecast  # imports torch

    table = forecast(options, log)
    log(table.round({"minutes": 1, "store_gb": 2}).to_string(index=False))
    log(
        f"in all {table['runs'].sum()} runs, {table['minutes'].sum():.0f} minutes of training on one worker, "
        f"{table['store_gb'].sum():.1f} GB of decoded images"
    )
    if script:
        log(script)
