"""A report as a page: what a browser is given, written to a file or served."""
