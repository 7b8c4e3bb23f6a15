"""How many machines a load needs: what serving costs as measured, and a simulation of the scheduler on that cost."""
