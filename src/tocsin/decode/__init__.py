"""From bytes to rows; what cannot be read goes to port ``rejected``."""
