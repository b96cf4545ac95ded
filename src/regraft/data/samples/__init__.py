"""Small real data sets that ship with the package, each with where it comes from and the script that made it."""
