"""Figures that were drawn, shown again: what the index notebook of a paper needs."""

from bioplaus import paths
from bioplaus.errors import unknown
from bioplaus.experiments import manifest


def show(preset: str, *names: str) -> None:
    """Show figures of a preset by name, one below the other; of one that is not drawn, say how it
    is.

    Parameters
    ----------
    preset : whose results are shown.
    names : as the figure notebooks save them, without suffix.
    """
    from IPython.display import Image, display

    if preset not in manifest.PRESETS:
        raise unknown("preset", preset, manifest.PRESETS)
    for name in names:
        path = paths.root() / preset / "figures" / f"{name}.png"
        if path.is_file():
            display(Image(data=path.read_bytes(), width=760, alt=name))
        else:
            paper = name.partition("_")[0]
            print(f"{name} is not drawn yet: make report PRESET={preset} PAPER={paper}")
