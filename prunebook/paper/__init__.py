"Runs, sweeps, claims and figures of the paper."
