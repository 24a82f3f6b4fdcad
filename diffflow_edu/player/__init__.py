"""The trajectory player: ``play({"DDPM": a, "DiffFlow": b}, color=density.mode)``."""

from diffflow_edu.player.player import Player, play

__all__ = ["Player", "play"]
