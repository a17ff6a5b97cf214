"""Parts of our own for tocsin; pyproject.toml registers them under the names that pipelines use."""
