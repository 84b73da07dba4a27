"""One rank's keeper and log, and the Dask task around them."""
