"""`probe`: what a file may be, from its beginning, as the sources of a build file."""
