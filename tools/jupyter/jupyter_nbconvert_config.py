"""A page made by `jupyter nbconvert --to html` shows the film strip of a player, with its words.

The live player would need its kernel, or a script from the network. To have it all the same:
--HTMLExporter.template_name=lab, and a notebook saved with its widgets' state.
"""

from pathlib import Path

c = get_config()  # noqa: F821

c.HTMLExporter.extra_template_basedirs = [str(Path(__file__).parent / "templates")]
c.HTMLExporter.template_name = "film_strip"
c.SlidesExporter.template_name = "reveal"  # a kind of HTMLExporter, it would take that one
