"""What the proofs of tests/faults share: a standard run of real processes, its operation log, faults, and a checker."""
