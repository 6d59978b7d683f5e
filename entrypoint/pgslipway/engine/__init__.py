"""What a run with something pending loads: plan, preflight, lock, apply, journal, recover."""
