"""Words of the product as frozen types: no files, no processes, no clocks."""
