"""Gates: what must hold before a figure may be called robust accuracy."""
