"""What every test shares."""

from hypothesis import settings

settings.register_profile("tocsin", deadline=None)  # the first example may compile a kernel
settings.load_profile("tocsin")
