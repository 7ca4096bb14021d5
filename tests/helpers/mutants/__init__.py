"""Random damage to a model's files, for `test_fuzz`: a module for each kind of source."""
