"""Pages: templates of this package filled in."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def page(template: str, **values: Any) -> str:
    """Return a template's text with its values; what a value holds is escaped."""
    environment = Environment(
        loader=PackageLoader("deepsec_jax.evaluation"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)
