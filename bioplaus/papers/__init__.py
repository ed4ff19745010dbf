"""What only one paper needs: its measures, claims and figures, and how its published trajectories
are replayed.
"""
