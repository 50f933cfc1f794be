"""Side-by-side measurements; each module prints its table, with ratios inside one run."""
