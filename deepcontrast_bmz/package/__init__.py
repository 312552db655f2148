"""A model package as data: files, description (RDF 0.4 and 0.5), weights; no code is run."""
