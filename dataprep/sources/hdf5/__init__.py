"""HDF5 files: how they are opened and checked, and how large data sets are read."""
