"""Pictures drawn by rule: free of charge, free of rights, and with their attributes known exactly.

Knows nothing of `ganvas.data`; `ganvas.named` turns what is drawn here into a source of pictures.
"""

from ganvas.draw.portraits import DEFAULT_STYLE, attributes, licence, portrait, styles

__all__ = ["DEFAULT_STYLE", "attributes", "licence", "portrait", "styles"]
