"""Plan before renting: by simulation, which topology and chunk size carry the most traffic within the limits."""
