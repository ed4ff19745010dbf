"""What runs: manifests, sweeps of runs, notebooks, replay of published trajectories, timing, the
state of the installation.
"""
