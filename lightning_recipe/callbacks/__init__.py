"""One callback per file; the file is named after the class."""
