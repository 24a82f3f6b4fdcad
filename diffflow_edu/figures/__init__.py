"""Static pictures in one style and one palette.

Every function returns a matplotlib Figure and never calls ``plt.show``; a title states the finding
and is passed by the caller. Time runs from data (left) to noise (right).
"""

from diffflow_edu.figures.adjoint import CurvePanel, algorithm_two, curve_panels, time_grids
from diffflow_edu.figures.ddpm import bound_bars, magnifier
from diffflow_edu.figures.densities import density_map, gallery, samples_against_truth
from diffflow_edu.figures.dial import noise_dial
from diffflow_edu.figures.flows import cell_areas, square_grid, warped_grids
from diffflow_edu.figures.likelihood import (
    ChainAndOde,
    chain_and_ode,
    family_panels,
    log_p_maps,
    theorem_one_panels,
)
from diffflow_edu.figures.machines import claim_matrix, latent_clouds, verdict_bars
from diffflow_edu.figures.reversal import Reversal, origins, reversals
from diffflow_edu.figures.scores import ScorePanel, score_fields
from diffflow_edu.figures.sheets import image_sheets, quality_against_steps
from diffflow_edu.figures.style import MODELS, MODES, particle_colors, style, view_square
from diffflow_edu.figures.training import loss_curve
from diffflow_edu.figures.trajectories import alt_text, film_strip, paths
from diffflow_edu.figures.walks import paths_beside, walks

__all__ = [
    "ChainAndOde",
    "CurvePanel",
    "MODELS",
    "MODES",
    "Reversal",
    "ScorePanel",
    "algorithm_two",
    "alt_text",
    "bound_bars",
    "cell_areas",
    "chain_and_ode",
    "claim_matrix",
    "curve_panels",
    "density_map",
    "family_panels",
    "film_strip",
    "gallery",
    "image_sheets",
    "latent_clouds",
    "log_p_maps",
    "loss_curve",
    "magnifier",
    "noise_dial",
    "particle_colors",
    "origins",
    "paths",
    "paths_beside",
    "quality_against_steps",
    "reversals",
    "samples_against_truth",
    "score_fields",
    "square_grid",
    "style",
    "theorem_one_panels",
    "time_grids",
    "verdict_bars",
    "view_square",
    "walks",
    "warped_grids",
]
