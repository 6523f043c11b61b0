"""`detr-steps report RUN`: one page that shows whether a run learns.

Read in this order: `story` (what a run has left), `curves` and `pictures` (what is
drawn of it), `page` (HTML) and `sheet` (PNG), `writing` (files).
"""

from .story import Story, read_story
from .writing import write

__all__ = ["Story", "read_story", "write"]
