"""AnnData as anndata writes it, into HDF5 and into Zarr."""
