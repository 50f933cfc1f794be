"""Networks, the loop that trains them, and the search over trainings."""
