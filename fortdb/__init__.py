"""FortDB: a replicated key-value database that arrives as its own deployment."""

__version__ = "0.1.0"
