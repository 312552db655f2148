"""Images in, enhanced images out: in memory, in blocks, on a cluster, resumable."""
