"""The functions of `thoughtlens.plots`, each giving the Axes given, or the first of its figure."""

from functools import wraps

from matplotlib.figure import Figure

from thoughtlens import plots


def __getattr__(name):
    figure = getattr(plots, name)

    @wraps(figure)
    def draw(result, *, ax=None, **options):
        made = figure(result, ax=ax, **options)
        assert isinstance(made, Figure)
        return made.axes[0] if ax is None else ax

    return draw


def save_figure(ax, path_stem):
    return plots.save_figure(ax.get_figure(root=True), path_stem)
