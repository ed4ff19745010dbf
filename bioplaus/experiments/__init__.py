"""What runs: manifests, sweeps of runs, kernels, replay of published trajectories, timing, the
state of the installation.
"""
