"""``python -m deepsec_jax.cli``."""

from deepsec_jax.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
